//! A client that speaks the protocol message by message, right or wrong as a test asks.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rustls::pki_types::ServerName;

use super::PATIENCE;
use super::message::{self, Message};

/// What carries the bytes.
enum Pipe {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

/// One connection, from dialling on.
pub struct Raw {
    pipe: Pipe,
    received: Vec<u8>,
    /// How much of `received` has been taken out of it.
    taken: usize,
    /// What the server reported about itself, as of the last message read.
    pub parameters: BTreeMap<String, String>,
    /// The process id of its BackendKeyData.
    pub pid: u32,
    /// The secret of its BackendKeyData.
    pub key: Vec<u8>,
}

impl Raw {
    /// A TCP connection on which nothing has been said.
    pub fn dial(address: impl ToSocketAddrs + Debug) -> Self {
        let stream = TcpStream::connect(&address).unwrap_or_else(|error| panic!("{address:?}: {error}"));
        Self::over(Pipe::Tcp(stream))
    }

    /// A connection to the socket for `port` in `directory` on which nothing has been said.
    pub fn dial_unix(directory: &Path, port: u16) -> Self {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let stream = UnixStream::connect(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::over(Pipe::Unix(stream))
    }

    fn over(pipe: Pipe) -> Self {
        let raw = Self {
            pipe,
            received: Vec::new(),
            taken: 0,
            parameters: BTreeMap::new(),
            pid: 0,
            key: Vec::new(),
        };
        raw.set_timeout(PATIENCE);
        if let Pipe::Tcp(stream) = &raw.pipe {
            stream.set_nodelay(true).expect("a fresh socket takes options");
        }
        raw
    }

    fn socket(&self) -> Option<&TcpStream> {
        match &self.pipe {
            Pipe::Tcp(stream) => Some(stream),
            Pipe::Tls(stream) => Some(&stream.sock),
            Pipe::Unix(_) => None,
        }
    }

    fn set_timeout(&self, timeout: Duration) {
        let timeout = Some(timeout);
        match (&self.pipe, self.socket()) {
            (Pipe::Unix(stream), _) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            (_, Some(stream)) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            _ => Ok(()),
        }
        .expect("a socket takes timeouts");
    }

    /// Goes on over TLS on the same socket, without asking first: also for `sslnegotiation=direct`.
    pub fn into_tls(self, config: Arc<rustls::ClientConfig>, name: &str) -> Result<Self, String> {
        let Pipe::Tcp(stream) = self.pipe else { panic!("TLS goes over TCP") };
        let name = ServerName::try_from(name.to_owned()).expect("a test's name is valid");
        let session = rustls::ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        let mut stream = rustls::StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
        }
        Ok(Self::over(Pipe::Tls(Box::new(stream))))
    }

    /// The certificate that the other side showed, as DER.
    pub fn peer_certificate(&self) -> Vec<u8> {
        let Pipe::Tls(stream) = &self.pipe else { panic!("not over TLS") };
        stream.conn.peer_certificates().expect("the handshake is over")[0].to_vec()
    }

    /// The protocol agreed on by ALPN.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let Pipe::Tls(stream) = &self.pipe else { panic!("not over TLS") };
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Reads to the end of the stream, for whether TLS said that it is one.
    #[track_caller]
    pub fn hears_the_end(&mut self) -> bool {
        let Pipe::Tls(stream) = &mut self.pipe else { panic!("not over TLS") };
        match stream.read_to_end(&mut self.received) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => panic!("no end comes: {error}"),
        }
    }

    /// A session of a user who needs no password.
    #[track_caller]
    pub fn connect(address: impl ToSocketAddrs + Debug, database: &str, user: &str) -> Self {
        Self::try_connect(address, database, user).unwrap_or_else(|error| panic!("login refused: {error}"))
    }

    /// A session of a user who needs no password, or the answer that refused it.
    pub fn try_connect(
        address: impl ToSocketAddrs + Debug,
        database: &str,
        user: &str,
    ) -> Result<Self, String> {
        let stream = TcpStream::connect(&address).map_err(|error| error.to_string())?;
        let mut raw = Self::over(Pipe::Tcp(stream));
        match raw.login(&[("user", user), ("database", database)], "") {
            Ok(()) => Ok(raw),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// Sends a start-up packet of protocol 3.0 and answers what is asked for; ready for queries when it returns.
    /// The error is the server's, or one with no fields where it hung up.
    pub fn login(&mut self, parameters: &[(&str, &str)], password: &str) -> Result<(), Message> {
        self.try_send(&message::startup(message::PROTOCOL_3_0, parameters));
        let user = parameters.iter().find(|(name, _)| *name == "user").map_or("", |(_, user)| user);
        self.authenticate(user, password)
    }

    /// The rest of a login whose start-up packet has been sent.
    pub fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Message> {
        let mut scram = None;
        loop {
            let Some(answer) = self.next() else { return Err(Message { tag: b'E', body: Vec::new() }) };
            match answer.tag {
                b'E' => return Err(answer),
                b'Z' => return Ok(()),
                b'R' => {
                    if let Some(reply) = answer_challenge(&answer.body, user, password, &mut scram) {
                        self.try_send(&reply);
                    }
                }
                _ => {}
            }
        }
    }

    /// Sends bytes, which need not be whole messages.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        let sent = self.write(bytes);
        sent.unwrap_or_else(|error| panic!("sending failed: {error}"));
    }

    /// Sends bytes to someone who may have hung up.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.write(bytes).is_ok()
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.pipe {
            Pipe::Tcp(stream) => stream.write_all(bytes),
            Pipe::Unix(stream) => stream.write_all(bytes),
            Pipe::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Whatever has arrived next, appended to what was received; 0 at the end of the stream.
    fn receive(&mut self) -> std::io::Result<usize> {
        const PIECE: usize = 64 << 10;
        self.received.drain(..std::mem::take(&mut self.taken));
        let full = self.received.len();
        self.received.resize(full + PIECE, 0);
        let piece = &mut self.received[full..];
        let count = match &mut self.pipe {
            Pipe::Tcp(stream) => stream.read(piece),
            Pipe::Unix(stream) => stream.read(piece),
            Pipe::Tls(stream) => stream.read(piece),
        };
        self.received.truncate(full + *count.as_ref().unwrap_or(&0));
        match count {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                Ok(0)
            }
            other => other,
        }
    }

    fn complete_message(&mut self) -> Option<Message> {
        let waiting = &self.received[self.taken..];
        let [tag, a, b, c, d, ..] = *waiting else { return None };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        assert!((4..1 << 30).contains(&length), "not a message: {:?}", &waiting[..5]);
        let body = waiting.get(5..=length)?.to_vec();
        self.taken += 1 + length;
        let message = Message { tag, body };
        match tag {
            b'S' => {
                let text = String::from_utf8_lossy(&message.body).into_owned();
                let mut parts = text.split('\0').map(str::to_owned);
                self.parameters.insert(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            }
            b'K' => {
                self.pid = u32::from_be_bytes(message.body[..4].try_into().expect("four bytes"));
                self.key = message.body[4..].to_vec();
            }
            _ => {}
        }
        Some(message)
    }

    /// The next message; `None` at the end of the stream. Fails when nothing comes for [`PATIENCE`].
    #[track_caller]
    pub fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.complete_message() {
                return Some(message);
            }
            match self.receive() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => {
                    panic!("no answer: {error}; received so far: {:?}", &self.received[self.taken..])
                }
            }
        }
    }

    /// Messages up to and with the first of this kind. Fails when the stream ends before.
    #[track_caller]
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let Some(message) = self.next() else {
                panic!("hung up before {:?}; came: {messages:?}", char::from(tag));
            };
            messages.push(message);
            if messages.last().is_some_and(|message| message.tag == tag) {
                return messages;
            }
        }
    }

    /// Messages up to and with the first ReadyForQuery.
    #[track_caller]
    pub fn ready(&mut self) -> Vec<Message> {
        self.until(b'Z')
    }

    /// All that comes until the other side hangs up.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next() {
            messages.push(message);
        }
        messages
    }

    /// Says whether nothing arrives for so long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        if self.received.len() > self.taken {
            return false;
        }
        self.set_timeout(time);
        let silent = matches!(self.receive(), Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.set_timeout(PATIENCE);
        silent
    }

    /// One byte that is no message, such as the answer to an SSLRequest; `None` at the end of the stream.
    #[track_caller]
    pub fn byte(&mut self) -> Option<u8> {
        while self.received.len() == self.taken {
            match self.receive() {
                Ok(0) => return None,
                // Who is closed with something unread is reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                received => received.expect("an answer comes"),
            };
        }
        self.taken += 1;
        Some(self.received[self.taken - 1])
    }

    /// Runs a simple query.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&message::query(sql));
        self.ready()
    }

    /// Runs a simple query that must not fail, for its rows.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let answer = self.query(sql);
        let failed = answer.iter().find(|message| message.tag == b'E');
        assert!(failed.is_none(), "{sql}: {answer:?}");
        message::rows(&answer)
    }

    /// Runs a simple query that must not fail, for the first column of its first row (empty without one).
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        self.rows(sql).into_iter().flatten().next().flatten().unwrap_or_default()
    }

    /// Runs a simple query that must fail, for its SQLSTATE.
    #[track_caller]
    pub fn failure(&mut self, sql: &str) -> String {
        message::error(&self.query(sql)).sqlstate()
    }

    /// Says goodbye and waits until the other side has hung up.
    #[track_caller]
    pub fn goodbye(mut self) {
        self.try_send(&message::terminate());
        self.rest();
    }

    /// Hangs up with a reset, without a word, as a killed client's machine may.
    pub fn vanish(self) {
        if let Some(stream) = self.socket() {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Closes this side's half only.
    pub fn finish_sending(&self) {
        let finished = match (&self.pipe, self.socket()) {
            (Pipe::Unix(stream), _) => stream.shutdown(Shutdown::Write),
            (_, Some(stream)) => stream.shutdown(Shutdown::Write),
            _ => Ok(()),
        };
        // The other side may have reset the connection already.
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotConnected;
        assert!(finished.as_ref().err().is_none_or(reset), "{finished:?}");
    }

    /// Makes the receive buffer as small as the kernel lets it be, so that a client that does not read is felt early.
    pub fn shrink_receive_buffer(&self) {
        let stream = self.socket().expect("a TCP connection");
        socket2::SockRef::from(stream).set_recv_buffer_size(4096).expect("a socket takes options");
    }

    /// A second handle on the socket, for sending from another thread.
    pub fn sender(&self) -> TcpStream {
        let Pipe::Tcp(stream) = &self.pipe else { panic!("a plain TCP connection") };
        stream.try_clone().expect("a socket can be duplicated")
    }
}

fn answer_challenge(
    challenge: &[u8],
    user: &str,
    password: &str,
    scram: &mut Option<ScramSha256>,
) -> Option<Vec<u8>> {
    let (kind, rest) = challenge.split_at(4);
    match u32::from_be_bytes(kind.try_into().expect("four bytes")) {
        3 => Some(message::password(password)),
        5 => {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let inner = hex(&Md5::digest(format!("{password}{user}")));
            let outer = hex(&Md5::digest([inner.as_bytes(), rest].concat()));
            Some(message::password(&format!("md5{outer}")))
        }
        10 => {
            let started = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
            let first = started.message().to_vec();
            *scram = Some(started);
            let length = u32::try_from(first.len()).expect("short").to_be_bytes();
            let body = [SCRAM_SHA_256.as_bytes(), &[0], &length, &first].concat();
            Some(message::message(b'p', &body))
        }
        11 => {
            let scram = scram.as_mut().expect("the exchange has begun");
            scram.update(rest).expect("the server's first message is valid");
            Some(message::message(b'p', scram.message()))
        }
        12 => {
            let scram = scram.as_mut().expect("the exchange has begun");
            scram.finish(rest).expect("the server proves that it knows the password");
            None
        }
        _ => None,
    }
}
