//! A client's connection before its session: whole packets in, whole packets out.
//!
//! Owns what was received until the session takes it over, and the way a client is turned away. No more is read while
//! a whole packet waits, and none is larger than may come at that point. What has come when TLS begins is the
//! handshake's, or a fault.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout};
use zeroize::{Zeroize as _, Zeroizing};

use super::refusal::Refusal;
use crate::config::Settings;
use crate::net::{Address, HandshakeError, Stream, ring};
use crate::wire::frontend::tag;
use crate::wire::limits::PASSWORD_BYTES_MAX;
use crate::wire::startup::First;
use crate::wire::{self, Header};

/// Bytes taken off a connection that was just accepted. A start-up packet rarely has more.
pub const READ_BYTES: usize = 1024;

/// Bytes taken with one read. With less room a ring does not receive ahead.
const RECEIVED_BYTES_MAX: usize = ring::BUFFER_BYTES;

thread_local! {
    /// What clients in their login are received into: whoever is waited for, perhaps one of thousands, has no buffer.
    static RECEIVED: RefCell<[u8; RECEIVED_BYTES_MAX]> = const { RefCell::new([0; RECEIVED_BYTES_MAX]) };
}

/// What a client may send before it has been welcomed, as far as that is read.
const EARLY_BYTES_MAX: usize = 16 * 1024;

/// A client that is turned away is listened to this much longer, so that it finds our last words and no reset:
/// closing a socket with unread bytes makes the system drop what we sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// And no further than this many bytes.
const FAREWELL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How a connection ended before it became a session.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client was told why.
    #[error("{0}")]
    Refused(Refusal),
    /// It closed the connection without a word: a port scanner, a health check.
    #[error("client closed the connection before it sent anything")]
    Silent,
    /// It closed the connection in the middle.
    #[error("client unexpected eof")]
    Eof,
    /// The connection broke.
    #[error("client connection failed: {0}")]
    Io(io::Error),
    /// It does not speak PostgreSQL's protocol.
    #[error("bad packet header: '{}'", Hex(.0))]
    Garbage(Vec<u8>),
    /// It speaks HTTP, and was told so in HTTP.
    #[error("HTTP request on the PostgreSQL port")]
    Http,
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(#[from] HandshakeError),
    /// Direct TLS without the protocol's ALPN name: it may be meant for another service.
    #[error("direct TLS connection without ALPN \"postgresql\"")]
    NoAlpn,
    /// TLS within TLS, or another request that has no place here.
    #[error("SSL req inside SSL")]
    TlsTwice,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Eof,
            _ => Self::Io(error),
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text with the client's words in it, on one line of a log whatever they are.
pub(super) struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Filter<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Filter<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars()
                    .try_for_each(|char| self.0.write_char(if char.is_control() { '?' } else { char }))
            }
        }
        use fmt::Write as _;
        write!(Filter(f), "{}", self.0)
    }
}

/// A connection that is not yet a session.
#[derive(Debug)]
pub struct Line {
    /// `None` only during a handshake, and after one that failed.
    stream: Option<Stream>,
    peer: Address,
    input: BytesMut,
    /// What is to be sent with the next message.
    output: BytesMut,
    /// Whether anything has ever come.
    heard: bool,
    /// When the connection came.
    since: Instant,
}

impl Line {
    /// A connection on which nothing has been said but `early`.
    pub fn new(stream: Stream, early: BytesMut, peer: Address) -> Self {
        let (heard, output) = (!early.is_empty(), BytesMut::new());
        Self { stream: Some(stream), peer, input: early, output, heard, since: Instant::now() }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Address {
        self.peer
    }

    /// The stream.
    pub fn stream(&mut self) -> Result<&mut Stream, End> {
        self.stream.as_mut().ok_or_else(|| End::Io(io::ErrorKind::NotConnected.into()))
    }

    /// Takes the stream out for a handshake; [`Self::put_back`] returns it.
    pub(super) fn take_out(&mut self) -> Result<Stream, End> {
        self.stream.take().ok_or_else(|| End::Io(io::ErrorKind::NotConnected.into()))
    }

    pub(super) fn put_back(&mut self, stream: Stream) {
        self.heard = true;
        self.stream = Some(stream);
    }

    /// The stream, and what the client has sent beyond its login: a buffer without any room where that is nothing.
    pub(super) fn into_parts(self) -> Option<(Stream, BytesMut)> {
        let input = if self.input.is_empty() { BytesMut::new() } else { self.input };
        self.stream.map(|stream| (stream, input))
    }

    /// True where bytes have come that nobody has read: after a request for TLS there must be none.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Messages put here go out with the next [`Self::flush`].
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// What has come and nobody has read, for whoever reads it from now on.
    pub(super) fn take_input(&mut self) -> BytesMut {
        std::mem::take(&mut self.input)
    }

    /// The first byte that comes; it stays to be read. Tells direct TLS from a start-up packet. Cancel safe.
    pub(super) async fn first_byte(&mut self) -> Result<u8, End> {
        loop {
            match self.input.first() {
                Some(byte) => return Ok(*byte),
                None => self.read().await?,
            }
        }
    }

    /// Sends what [`Self::output`] holds. Cancel safe: what has not been taken stays to be sent.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        let Self { stream: Some(stream), output, .. } = self else {
            return Err(End::Io(io::ErrorKind::NotConnected.into()));
        };
        let sent = stream.send_now(output);
        output.advance(sent);
        if !output.is_empty() {
            stream.write_all_buf(output).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    /// The next untagged packet. Cancel safe: what has come of it stays in the buffer.
    pub(super) async fn first_packet(&mut self) -> Result<First, End> {
        loop {
            match First::size(&self.input) {
                Err(_) => return Err(self.not_a_packet()),
                Ok(Some(size)) if self.input.len() >= size => {
                    let packet = self.input.split_to(size).freeze();
                    return First::decode(&packet).map_err(|error| self.not_understood(error, &packet));
                }
                Ok(_) => self.read().await?,
            }
        }
    }

    /// The body of the next message, which must be an answer to a challenge. Cancel safe.
    pub(super) async fn answer(&mut self) -> Result<Zeroizing<Vec<u8>>, End> {
        loop {
            match Header::peek(&self.input) {
                Err(_) => return Err(self.not_a_packet()),
                Ok(Some(header)) => {
                    if header.tag != tag::PASSWORD {
                        return Err(Refusal::NotAPassword { tag: header.tag }.into());
                    }
                    if header.body > PASSWORD_BYTES_MAX {
                        return Err(Refusal::PasswordTooLong.into());
                    }
                    if self.input.len() >= header.total() {
                        let mut message = self.input.split_to(header.total());
                        let body = Zeroizing::new(message[wire::frame::HEADER..].to_vec());
                        message.zeroize();
                        return Ok(body);
                    }
                    self.read().await?;
                }
                Ok(None) => self.read().await?,
            }
        }
    }

    /// Ready once the client has closed the connection. What it sends meanwhile is kept for later; once that is too
    /// much, its leaving goes unnoticed. Cancel safe.
    pub(super) async fn left(&mut self) -> End {
        while self.input.len() < EARLY_BYTES_MAX {
            if let Err(end) = self.read().await {
                return end;
            }
        }
        std::future::pending().await
    }

    /// Reads once. Cancel safe.
    async fn read(&mut self) -> Result<(), End> {
        let Self { stream: Some(stream), input, .. } = self else {
            return Err(End::Io(io::ErrorKind::NotConnected.into()));
        };
        let count = poll_fn(|cx| {
            RECEIVED.with_borrow_mut(|received| {
                let mut received = ReadBuf::new(received);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut received))?;
                input.extend_from_slice(received.filled());
                let count = received.filled().len();
                // It may be a password.
                received.filled_mut().zeroize();
                Poll::Ready(io::Result::Ok(count))
            })
        });
        match count.await? {
            0 if self.heard => Err(End::Eof),
            0 => Err(End::Silent),
            _ => {
                self.heard = true;
                Ok(())
            }
        }
    }

    fn not_a_packet(&self) -> End {
        const METHODS: [&[u8]; 8] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"CONN", b"PATC"];
        if METHODS.iter().any(|method| self.input.starts_with(method)) {
            return End::Http;
        }
        End::Garbage(self.input[..self.input.len().min(wire::startup::LENGTH * 2)].to_vec())
    }

    fn not_understood(&self, error: wire::Error, packet: &[u8]) -> End {
        match error {
            wire::Error::Protocol { major: 0..=2, .. } => Refusal::OldProtocol.into(),
            wire::Error::Protocol { major, minor } => Refusal::UnknownProtocol { major, minor }.into(),
            wire::Error::Broken("start-up" | "start-up parameter") => Refusal::StartupLayout.into(),
            wire::Error::Utf8(what) => Refusal::NotUtf8(what).into(),
            wire::Error::Broken(_) | wire::Error::Length { .. } => {
                End::Garbage(packet[..packet.len().min(wire::startup::LENGTH * 2)].to_vec())
            }
        }
    }

    /// Tells the client why it is turned away, where it can be told, and closes. Takes a second at most.
    pub(super) async fn turn_away(mut self, end: &End, settings: &Settings) {
        self.log(end, settings);
        match end {
            End::Refused(refusal) => refusal.report(settings.compatibility).encode(&mut self.output),
            End::Http => self.output.extend_from_slice(HTTP_ANSWER),
            End::Silent
            | End::Eof
            | End::Io(_)
            | End::Garbage(_)
            | End::Tls(_)
            | End::NoAlpn
            | End::TlsTwice => return,
        }
        // It is leaving either way; that it did not hear us is no news.
        let _ = timeout(FAREWELL, self.farewell()).await;
    }

    /// PgBouncer's two lines; monitoring searches for them.
    fn log(&self, end: &End, settings: &Settings) {
        let (text, age) = (Printable(end), self.since.elapsed().as_secs());
        match end {
            End::Refused(_) if settings.log_pooler_errors => tracing::warn!("pooler error: {text}"),
            End::Tls(_) | End::NoAlpn => tracing::warn!("{text}"),
            End::Garbage(_) | End::Http => tracing::info!("{text}"),
            End::Refused(_) | End::Silent | End::Eof | End::Io(_) | End::TlsTwice => {}
        }
        match end {
            End::Silent => tracing::debug!("{text}"),
            _ if settings.log_disconnections => tracing::info!("closing because: {text} (age={age}s)"),
            _ => {}
        }
    }

    async fn farewell(&mut self) -> Result<(), End> {
        self.flush().await?;
        self.stream()?.shutdown().await?;
        let mut left = FAREWELL_BYTES_MAX;
        while left > 0 {
            self.input.clear();
            self.read().await?;
            left = left.saturating_sub(self.input.len());
        }
        Ok(())
    }
}

/// Said to who takes the port for a web server.
const HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    This port speaks the PostgreSQL protocol, not HTTP.\n";
