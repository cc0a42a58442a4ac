//! A byte stream to a client or a server: plain or TLS, over TCP or a unix socket.
//!
//! A stream belongs to the runtime it was made on. To give it to another worker it is detached (deregistered), sent
//! there and attached; nothing that was received and not yet read, or written and not yet sent, is lost on the way.
//!
//! Writing to a TLS stream may leave encrypted bytes inside it: whoever writes must flush until that is ready. On a
//! plain stream a flush costs nothing.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{CommonState, SupportedCipherSuite};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;

use super::socket::{LooseSocket, Slot, Socket};
use super::tls::{self, PeerCertificate, cipher_name, version_name};
use super::{Address, Credentials, Passer, Shared};

/// After a record of so many bytes there is likely to be another; PostgreSQL fills them with 8 KiB.
const LONG_RECORD: usize = 4 * 1024;

/// A connection's bytes.
pub struct Stream(Kind);

enum Kind {
    Plain(Socket),
    /// TLS that a client began with us.
    Accepted(Box<tls::Accepted>),
    /// TLS that we began with a server.
    Connected(Box<client::TlsStream<Slot>>),
}

/// A stream between two runtimes. Dropping it closes the connection.
pub struct Detached {
    socket: LooseSocket,
    around: Around,
}

enum Around {
    Nothing,
    Accepted(Box<tls::Accepted>),
    Connected(Box<client::TlsStream<Slot>>),
}

/// What a TLS handshake came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsInfo {
    /// As OpenSSL spells it: `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL spells it: `TLS_AES_256_GCM_SHA384`, `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: &'static str,
    /// True where both sides agreed on the ALPN name `postgresql`.
    pub alpn: bool,
    /// The names in the certificate that the other side showed.
    pub peer_certificate: Option<PeerCertificate>,
}

impl fmt::Display for TlsInfo {
    /// As SHOW CLIENTS prints it: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.cipher)
    }
}

impl Stream {
    pub(super) fn plain(socket: Socket) -> Self {
        Self(Kind::Plain(socket))
    }

    pub(super) fn accepted(stream: tls::Accepted) -> Self {
        Self(Kind::Accepted(Box::new(stream)))
    }

    pub(super) fn connected(stream: client::TlsStream<Slot>) -> Self {
        Self(Kind::Connected(Box::new(stream)))
    }

    /// Two streams that are connected with each other.
    ///
    /// Errors: no file descriptor is left.
    #[cfg(test)]
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = tokio::net::UnixStream::pair()?;
        Ok((Self::plain(Socket::Unix(one)), Self::plain(Socket::Unix(other))))
    }

    /// Takes the stream off this worker's runtime, so that another worker can have it.
    ///
    /// Errors: the reactor refuses; the connection is then closed.
    pub fn detach(self) -> io::Result<Detached> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let (socket, around) = match self.0 {
            Kind::Plain(socket) => (socket, Around::Nothing),
            Kind::Accepted(mut tls) => {
                let socket = tls.slot_mut().0.take().ok_or_else(gone)?;
                (socket, Around::Accepted(tls))
            }
            Kind::Connected(mut tls) => {
                let socket = tls.get_mut().0.0.take().ok_or_else(gone)?;
                (socket, Around::Connected(tls))
            }
        };
        Ok(Detached { socket: socket.detach()?, around })
    }

    /// The plain socket, for a handshake on top of it; `None` where there is TLS already.
    pub(super) fn into_socket(self) -> Option<Socket> {
        match self.0 {
            Kind::Plain(socket) => Some(socket),
            Kind::Accepted(_) | Kind::Connected(_) => None,
        }
    }

    /// A way to give the process at the other end sockets; `None` over anything but a plain unix socket.
    ///
    /// Errors: no file descriptor is left.
    pub fn passer(&self) -> io::Result<Option<Passer>> {
        match &self.0 {
            Kind::Plain(socket) if socket.is_unix() => {
                socket.descriptor().and_then(|it| Passer::over(&it)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The socket, for another process to have it as well; `None` with TLS, whose keys stay here. A conversation must
    /// be at rest ([`Self::poll_rest`]) if that process is to go on with it.
    ///
    /// Errors: no file descriptor is left.
    pub fn share(&self) -> io::Result<Option<Shared>> {
        match &self.0 {
            Kind::Plain(socket) => socket.descriptor().and_then(|it| Shared::of(&it)).map(Some),
            Kind::Accepted(_) | Kind::Connected(_) => Ok(None),
        }
    }

    /// True where the bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        !matches!(self.0, Kind::Plain(_))
    }

    /// True over a unix socket.
    pub fn is_unix(&self) -> bool {
        self.socket().is_some_and(Socket::is_unix)
    }

    fn socket(&self) -> Option<&Socket> {
        match &self.0 {
            Kind::Plain(socket) => Some(socket),
            Kind::Accepted(tls) => tls.slot().0.as_ref(),
            Kind::Connected(tls) => tls.get_ref().0.0.as_ref(),
        }
    }

    fn socket_mut(&mut self) -> Option<&mut Socket> {
        match &mut self.0 {
            Kind::Plain(socket) => Some(socket),
            Kind::Accepted(tls) => tls.slot_mut().0.as_mut(),
            Kind::Connected(tls) => tls.get_mut().0.0.as_mut(),
        }
    }

    fn connected_socket(&self) -> io::Result<&Socket> {
        self.socket().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Who is at the other end.
    ///
    /// Errors: the connection is gone.
    pub fn peer_addr(&self) -> io::Result<Address> {
        self.connected_socket()?.peer_address()
    }

    /// Which of our addresses the other end talks to.
    ///
    /// Errors: the connection is gone.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.connected_socket()?.local_address()
    }

    /// The process at the other end of a unix socket.
    pub fn peer_credentials(&self) -> Option<Credentials> {
        self.socket()?.credentials()
    }

    /// What the TLS handshake came to; `None` on a plain stream.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        let state: &CommonState = match &self.0 {
            Kind::Plain(_) => return None,
            Kind::Accepted(tls) => tls.state(),
            Kind::Connected(tls) => tls.get_ref().1,
        };
        Some(TlsInfo {
            version: version_name(state.protocol_version()),
            cipher: cipher_name(state.negotiated_cipher_suite().map(|it: SupportedCipherSuite| it.suite())),
            alpn: state.alpn_protocol().is_some(),
            peer_certificate: state
                .peer_certificates()
                .and_then(<[_]>::first)
                .and_then(|certificate| PeerCertificate::read(certificate)),
        })
    }

    /// Ready when there is something to read, or the end, or an error: reading will not wait then. Takes nothing off
    /// the stream. Without news from the reactor it costs no system call, so idle servers are watched with it.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Kind::Plain(socket) => socket.poll_readable(cx),
            // A TLS record is not always data: a session ticket, say. So it is decrypted here, and stays inside.
            Kind::Accepted(tls) => {
                calm(tls.slot_mut());
                tls.poll_readable(cx)
            }
            Kind::Connected(tls) => {
                if has_plain(tls) {
                    calm(tls.get_mut().0);
                } else if let Some(socket) = &mut tls.get_mut().0.0 {
                    ready!(socket.poll_readable(cx));
                }
                Pin::new(&mut **tls).poll_fill_buf(cx).map(drop)
            }
        }
    }

    /// A conversation begins: where a ring drives the stream, bytes are from now on received ahead and sent with the
    /// worker's turns, until [`Self::poll_readable`] is asked for.
    pub fn begin_conversation(&mut self) {
        if let Some(socket) = self.socket_mut() {
            socket.batch();
        }
    }

    /// A conversation ends and the stream stays: from now on what is written goes out at once.
    pub fn end_conversation(&mut self) {
        if let Some(socket) = self.socket_mut() {
            socket.calm();
        }
    }

    /// Ready when all that was written and flushed is with the kernel, or never can be: before that, closing the
    /// stream may lose it.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket().map_or(Poll::Ready(()), |socket| socket.poll_sent(cx))
    }

    /// Ready when nothing of a conversation is between its driver and the kernel, but for what TLS keeps and the bytes
    /// that [`Self::ahead`] tells of: another worker, or without TLS another process, can go on with it once these have
    /// been read. It stays so until the next read or write.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket_mut().map_or(Poll::Ready(()), |it| it.poll_rest(cx))
    }

    /// How many bytes were received that nobody has read yet; with TLS encrypted ones.
    pub fn ahead(&self) -> usize {
        self.socket().map_or(0, Socket::ahead)
    }

    /// Whoever waits to read a plain stream is woken only when so many bytes are there, or the end; 1 is usual. Over TLS
    /// nobody knows how many bytes on the way make how many.
    ///
    /// Errors: the connection is gone.
    pub fn set_threshold(&self, bytes: usize) -> io::Result<()> {
        match &self.0 {
            Kind::Plain(socket) => socket.set_threshold(bytes),
            Kind::Accepted(_) | Kind::Connected(_) => Ok(()),
        }
    }

    /// Waits for [`Self::poll_readable`]. Cancel safe.
    #[cfg(test)]
    pub(crate) async fn readable(&mut self) {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Sends what the system takes at once, without asking the reactor, which does not know of a new socket yet that it
    /// is writable; returns how much that is. 0 says nothing about the connection, and is all there is with TLS.
    pub fn send_now(&self, bytes: &[u8]) -> usize {
        match &self.0 {
            Kind::Plain(socket) => socket.send_now(bytes),
            Kind::Accepted(_) | Kind::Connected(_) => 0,
        }
    }
}

/// Whether bytes have been decrypted that nobody has read yet.
fn has_plain(tls: &client::TlsStream<Slot>) -> bool {
    !tls.get_ref().1.wants_read()
}

/// Reads what there is. Who has sent a short record has answered, and is not asked for another: where a ring drives the
/// socket that would have a receive under way which must be taken back before the server can rest.
fn poll_read_records(
    tls: &mut client::TlsStream<Slot>,
    cx: &mut Context<'_>,
    out: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = out.filled().len();
    loop {
        let count = match Pin::new(&mut *tls).poll_fill_buf(cx) {
            Poll::Ready(Ok(plain)) => {
                let count = plain.len().min(out.remaining());
                out.put_slice(&plain[..count]);
                count
            }
            // It shows in the next read, or the end does.
            _ if out.filled().len() > before => return Poll::Ready(Ok(())),
            waits_or_failed => return waits_or_failed.map_ok(drop),
        };
        Pin::new(&mut *tls).consume(count);
        let goes_on = has_plain(tls) || count >= LONG_RECORD;
        if count == 0 || out.remaining() == 0 || !goes_on {
            return Poll::Ready(Ok(()));
        }
    }
}

fn calm(slot: &mut Slot) {
    if let Some(socket) = &mut slot.0 {
        socket.calm();
    }
}

impl Detached {
    pub(super) fn plain(socket: LooseSocket) -> Self {
        Self { socket, around: Around::Nothing }
    }

    /// Takes what has arrived on a plain stream already, without waiting; as many bytes are returned, 0 also at the
    /// end. Before the stream is bound to a runtime that spares the reactor the news of them.
    pub fn receive_now(&self, bytes: &mut [u8]) -> usize {
        match self.around {
            Around::Nothing => self.socket.receive_now(bytes),
            Around::Accepted(_) | Around::Connected(_) => 0,
        }
    }

    /// Binds the stream to the runtime of the calling worker.
    ///
    /// Errors: the reactor refuses; the connection is then closed.
    pub fn attach(self) -> io::Result<Stream> {
        let socket = self.socket.attach()?;
        Ok(Stream(match self.around {
            Around::Nothing => Kind::Plain(socket),
            Around::Accepted(mut tls) => {
                tls.slot_mut().0 = Some(socket);
                Kind::Accepted(tls)
            }
            Around::Connected(mut tls) => {
                tls.get_mut().0.0 = Some(socket);
                Kind::Connected(tls)
            }
        }))
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(socket) => Pin::new(socket).poll_read(cx, out),
            Kind::Accepted(tls) => Pin::new(&mut **tls).poll_read(cx, out),
            Kind::Connected(tls) => poll_read_records(tls, cx, out),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Kind::Accepted(tls) => Pin::new(&mut **tls).poll_write(cx, bytes),
            Kind::Connected(tls) => Pin::new(&mut **tls).poll_write(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Kind::Accepted(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, slices),
            Kind::Connected(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, slices),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(_) => Poll::Ready(Ok(())),
            Kind::Accepted(tls) => Pin::new(&mut **tls).poll_flush(cx),
            Kind::Connected(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Accepted(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            Kind::Connected(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_tls() { "tls" } else { "plain" };
        write!(f, "Stream({kind}, {:?})", self.socket())
    }
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Detached({:?})", self.socket)
    }
}
