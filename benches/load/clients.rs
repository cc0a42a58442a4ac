//! Clients of the bench's own, for what pgbench does not do: say nothing, use thousands of databases, read slowly.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::site::{PATIENCE, USER};

/// SSLRequest: `src/include/libpq/pqcomm.h`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Lets this process, and those it starts from now on, have so many files open, if it may.
pub fn allow_files(wanted: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (limit, wanted) = (getrlimit(Resource::Nofile), wanted as u64);
    if limit.current.is_some_and(|it| it < wanted) {
        let maximum = limit.maximum.map(|it| it.max(wanted));
        let most = Rlimit { current: Some(wanted), maximum };
        if setrlimit(Resource::Nofile, most).is_err() {
            // Not root: as many as there may be.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        }
    }
}

/// A session.
pub enum Client {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Client {
    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }
}

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A connection on which nothing has been said.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Logs in without a password, up to the first ReadyForQuery.
pub fn login(port: u16, database: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> io::Result<Client> {
    let mut socket = connect(port)?;
    let mut client = match tls {
        None => Client::Plain(socket),
        Some(config) => {
            socket.write_all(&SSL_REQUEST)?;
            let mut answer = [0];
            socket.read_exact(&mut answer)?;
            if answer != *b"S" {
                return Err(io::Error::other("TLS is refused"));
            }
            let name = "localhost".try_into().expect("it is a name");
            let session = rustls::ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            Client::Tls(Box::new(rustls::StreamOwned::new(session, socket)))
        }
    };
    let stream = client.stream();
    stream.write_all(&startup(database))?;
    stream.flush()?;
    until_ready(stream)?;
    Ok(client)
}

fn startup(database: &str) -> BytesMut {
    let mut packet = BytesMut::new();
    pgweir::wire::startup::encode_startup(&mut packet, 0, [("user", USER), ("database", database)]);
    packet
}

/// So many plain sessions that log in at once, and then ask at once.
pub fn crowd(port: u16, database: &str, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut clients: Vec<TcpStream> = (0..count).map(|_| connect(port)).collect::<io::Result<_>>()?;
    for said in [startup(database), message(b'Q', &[b"SELECT 1\0"])] {
        clients.iter_mut().try_for_each(|client| client.write_all(&said))?;
        clients.iter_mut().try_for_each(until_ready)?;
    }
    Ok(clients)
}

/// A plain session's socket.
pub fn plain(port: u16, database: &str) -> io::Result<TcpStream> {
    match login(port, database, None)? {
        Client::Plain(socket) => Ok(socket),
        Client::Tls(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads up to and with a ReadyForQuery.
pub fn until_ready(stream: &mut (impl Read + ?Sized)) -> io::Result<()> {
    let mut body = Vec::new();
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        body.resize(length.saturating_sub(4), 0);
        stream.read_exact(&mut body)?;
        match header[0] {
            b'Z' => return Ok(()),
            b'E' => return Err(io::Error::other(error_text(&body))),
            _ => {}
        }
    }
}

/// The message of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let fields = body.split(|it| *it == 0).filter(|it| it.first() == Some(&b'M'));
    fields.map(|it| String::from_utf8_lossy(&it[1..]).into_owned()).collect()
}

/// One message.
pub fn message(tag: u8, parts: &[&[u8]]) -> BytesMut {
    let length: usize = parts.iter().map(|it| it.len()).sum();
    let mut out = BytesMut::with_capacity(length + 5);
    out.put_u8(tag);
    out.put_u32(u32::try_from(length + 4).expect("a short message"));
    parts.iter().for_each(|it| out.put_slice(it));
    out
}

/// Clients that each ask again as soon as they are answered, on a thread of their own.
pub struct Crowd {
    answers: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Crowd {
    /// So many clients; `database` says which uses which.
    pub fn start(port: u16, clients: usize, database: impl Fn(usize) -> String) -> io::Result<Self> {
        let sockets: Vec<TcpStream> =
            (0..clients).map(|it| plain(port, &database(it))).collect::<io::Result<_>>()?;
        let (answers, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (answers, over) = (Arc::clone(&answers), Arc::clone(&over));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
                runtime.block_on(all(sockets, &answers, &over))
            }
        });
        Ok(Self { answers, over, thread: Some(thread) })
    }

    /// How many answers there have been.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends it. Errors: a client's. Clients that get no answer are left to their fate.
    pub fn end(mut self) -> Result<(), String> {
        self.over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() > deadline {
                return Err("clients get no answer".into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        match thread.join() {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err("the clients panicked".into()),
        }
    }
}

async fn all(sockets: Vec<TcpStream>, answers: &Arc<AtomicU64>, over: &Arc<AtomicBool>) -> io::Result<()> {
    let mut tasks = Vec::new();
    for socket in sockets {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpStream::from_std(socket)?;
        tasks.push(tokio::spawn(ask(socket, Arc::clone(answers), Arc::clone(over))));
    }
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn ask(
    mut socket: tokio::net::TcpStream,
    answers: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> io::Result<()> {
    const READY: &[u8] = &[b'Z', 0, 0, 0, 5, b'I'];
    let query = message(b'Q', &[b"SELECT 1\0"]);
    let mut input = BytesMut::new();
    while !over.load(Ordering::Relaxed) {
        socket.write_all(&query).await?;
        input.clear();
        while !input.ends_with(READY) {
            if socket.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
