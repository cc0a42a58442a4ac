//! Clients that log in and then say nothing, and the memory that a process has for them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::{PATIENCE, USER};

/// VmRSS of proc_pid_status(5), in bytes.
pub fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// As many clients as this process may have files open for, at most `wanted`. The poolers inherit what is raised here.
pub fn allowed_clients(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHER_FILES: u64 = 200;
    let limit = getrlimit(Resource::Nofile);
    let needed = wanted as u64 + OTHER_FILES;
    if limit.current.is_some_and(|it| it < needed) {
        let most = limit.maximum.map_or(needed, |it| it.min(needed));
        // Where it can't be raised, fewer clients are measured.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(needed);
    wanted.min(current.saturating_sub(OTHER_FILES) as usize)
}

/// A session that says nothing.
pub enum Connection {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Connection {
    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }
}

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Logs in without a password, up to the first ReadyForQuery.
pub fn login(
    port: u16,
    database: &str,
    tls: Option<&std::sync::Arc<rustls::ClientConfig>>,
) -> io::Result<Connection> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut connection = match tls {
        None => Connection::Plain(socket),
        Some(config) => {
            socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
            let mut answer = [0];
            socket.read_exact(&mut answer)?;
            assert_eq!(&answer, b"S", "TLS is refused");
            let name = "localhost".try_into().expect("it is a name");
            let session = rustls::ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            Connection::Tls(Box::new(rustls::StreamOwned::new(session, socket)))
        }
    };
    let mut packet = bytes::BytesMut::new();
    pgweir::wire::startup::encode_startup(&mut packet, 0, [("user", USER), ("database", database)]);
    let stream = connection.stream();
    stream.write_all(&packet)?;
    stream.flush()?;
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        stream.read_exact(&mut body)?;
        match header[0] {
            b'Z' => return Ok(connection),
            b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
            _ => {}
        }
    }
}
