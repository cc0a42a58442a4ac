//! A TLS stream that a client began with us, by rustls's unbuffered interface.
//!
//! rustls's own stream keeps 4 KiB to read into for as long as it lives; here bytes are received into a buffer of the
//! thread's, which goes back when it is empty, so that an idle client has none. What is received and not yet decrypted,
//! decrypted and not yet read, or encrypted and not yet sent stays with the stream, also on its way to another thread.
//!
//! Invariants: each of the three buffers has a limit, for nothing is received while something is unread and nothing
//! encrypted while something is unsent. After an error nothing more is read or encrypted. What was encrypted is sent
//! in that order. No connection is closed without the word that it is: dropping the stream says it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::net::buffers::{BUFFER_BYTES_MAX, BUFFER_BYTES_START};
use crate::net::socket::{Slot, Socket};
use crate::net::{Buffers, HandshakeError, Handshakes};

/// Plaintext encrypted at once: four full records, RFC 8446 section 5.1.
const PLAIN_BYTES_MAX: usize = 4 * 16 * 1024;

/// A flight after the ClientHello with no more than this holds no certificate and no key: a Finished has 74 bytes, 6
/// before it are for old proxies; RFC 8446 appendix D.4.
const CHEAP_FLIGHT_BYTES_MAX: usize = 200;

/// Slices of no more than this in all become one record, for the price of a copy.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// What encryption adds to a record, at most: header, explicit nonce, content type, tag.
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 1 + 16;

thread_local! {
    static FREE: Buffers = Buffers::new();
}

/// The server's end of a TLS connection.
pub(in crate::net) struct Accepted {
    slot: Slot,
    tls: UnbufferedServerConnection,
    /// Received and not yet decrypted, from `taken` on.
    incoming: Vec<u8>,
    taken: usize,
    /// Decrypted and not yet read, from `read` on.
    plain: Vec<u8>,
    read: usize,
    /// Encrypted and not yet sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    end: End,
}

/// Why nothing more comes.
enum End {
    None,
    /// The client has said that it has nothing more to say.
    Said,
    /// The connection was closed without that.
    Cut,
    Failed(Box<rustls::Error>),
}

/// What is to be done with a connection.
enum Want<'a, 'b> {
    /// No more than the protocol itself needs.
    Nothing,
    /// What is decrypted goes here.
    Read(&'a mut ReadBuf<'b>),
    /// This is to be encrypted.
    Send(&'a [u8]),
    /// The other side is to learn that nothing more comes.
    Close,
}

/// How far that went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// All that was received is dealt with, and what was wanted is done.
    Done,
    /// The handshake needs more from the other side.
    Blocked,
    /// There is no room for more plaintext.
    Full,
    /// Both sides have closed.
    Closed,
}

impl Accepted {
    /// The handshake, on the calling thread. Not cancel safe.
    ///
    /// Errors: as [`Self::accept_by`].
    #[cfg(test)]
    pub(super) async fn accept(config: Arc<ServerConfig>, socket: Socket) -> io::Result<Self> {
        let mut stream = Self::begin(config, socket, &[]).await?;
        loop {
            let reached = stream.advance(Want::Nothing);
            if stream.answer(reached).await? {
                return Ok(stream);
            }
            stream.hear().await?;
        }
    }

    /// The handshake, of which these bytes have been `received`; what costs more than a query does is done by these
    /// threads. Not cancel safe.
    ///
    /// Errors: the client is not accepted, and was told so; or the connection is gone, or the process is ending.
    pub(super) async fn accept_by(
        threads: &Handshakes,
        config: Arc<ServerConfig>,
        socket: Socket,
        received: &[u8],
    ) -> Result<Self, HandshakeError> {
        let mut stream = Self::begin(config, socket, received).await?;
        loop {
            let reached = if stream.is_costly() {
                // The socket stays: it is this thread that hears of it.
                let socket = stream.slot.0.take();
                let work = move || {
                    let reached = stream.advance(Want::Nothing);
                    (stream, reached)
                };
                let reached;
                (stream, reached) = threads.compute(work).await.ok_or(HandshakeError::Ended)?;
                stream.slot.0 = socket;
                reached
            } else {
                stream.advance(Want::Nothing)
            };
            if stream.answer(reached).await? {
                return Ok(stream);
            }
            stream.hear().await?;
        }
    }

    /// Whether something is to be signed, a signature to be checked or keys are to be agreed upon, by what has come and
    /// what came before.
    fn is_costly(&self) -> bool {
        self.tls.negotiated_key_exchange_group().is_none()
            || self.incoming.len() - self.taken > CHEAP_FLIGHT_BYTES_MAX
            || self.tls.peer_certificates().is_some()
            || self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_2)
    }

    /// A handshake of which something is there: these bytes, or what comes.
    async fn begin(config: Arc<ServerConfig>, socket: Socket, received: &[u8]) -> io::Result<Self> {
        let mut stream = Self {
            slot: Slot(Some(socket)),
            tls: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            incoming: Vec::new(),
            taken: 0,
            plain: Vec::new(),
            read: 0,
            outgoing: Vec::new(),
            sent: 0,
            end: End::None,
        };
        if received.is_empty() {
            stream.hear().await?;
        } else {
            stream.incoming = FREE.with(|free| free.take(BUFFER_BYTES_START.max(received.len())));
            stream.incoming.extend_from_slice(received);
        }
        Ok(stream)
    }

    /// Waits for more of the handshake.
    async fn hear(&mut self) -> io::Result<()> {
        match poll_fn(|cx| self.poll_receive(cx)).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")),
            _ => Ok(()),
        }
    }

    /// Sends what a step of the handshake has come to, also if that is an error: the client is to hear of it. Returns
    /// whether the handshake is done.
    async fn answer(&mut self, reached: io::Result<Reached>) -> io::Result<bool> {
        let sent = poll_fn(|cx| self.poll_send(cx)).await;
        let reached = reached?;
        sent?;
        Ok(reached != Reached::Blocked)
    }

    /// Where the socket is.
    pub(in crate::net) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Where the socket is, to be taken out or put back.
    pub(in crate::net) fn slot_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }

    /// What was agreed upon.
    pub(in crate::net) fn state(&self) -> &CommonState {
        &self.tls
    }

    /// Ready when there is something to read, or the end, or an error: it stays inside.
    pub(in crate::net) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.has_plain() || !matches!(self.end, End::None) {
                return Poll::Ready(());
            }
            // What it comes to is kept, and told to whoever reads.
            let _ = self.advance(Want::Nothing);
            self.send_along(cx);
            if self.has_plain() || !matches!(self.end, End::None) {
                continue;
            }
            match ready!(self.poll_receive(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn has_plain(&self) -> bool {
        self.read < self.plain.len()
    }

    /// Lets rustls deal with what was received, and does what is wanted.
    ///
    /// Errors: the other side does not keep to the protocol. It is to be told so: what is to be sent says it.
    fn advance(&mut self, mut want: Want<'_, '_>) -> io::Result<Reached> {
        if let End::Failed(error) = &self.end {
            return Err(failed(error));
        }
        loop {
            let Self { tls, incoming, taken, plain, outgoing, end, .. } = self;
            let UnbufferedStatus { discard, state } = tls.process_tls_records(&mut incoming[*taken..]);
            let reached = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let payload = record.map_err(|error| failed(&error))?.payload;
                        want.take_in(payload, plain);
                    }
                    matches!(&want, Want::Read(out) if out.remaining() == 0).then_some(Reached::Full)
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(outgoing, 0, |room| data.encode(room))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is sent before everything that is appended later.
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Reached::Blocked),
                Ok(ConnectionState::PeerClosed) => {
                    *end = End::Said;
                    None
                }
                Ok(ConnectionState::Closed) => Some(Reached::Closed),
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    want.write(traffic, outgoing)?;
                    Some(Reached::Done)
                }
                // There is none without `max_early_data_size`; and what may come with later versions.
                Ok(_) => return Err(io::ErrorKind::Unsupported.into()),
                Err(error) => {
                    *taken += discard;
                    self.fail(error.clone());
                    return Err(failed(&error));
                }
            };
            *taken += discard;
            if let Some(reached) = reached {
                self.tidy();
                return Ok(reached);
            }
        }
    }

    /// Nothing more is read or encrypted; the alert that says why is put where it is sent from.
    fn fail(&mut self, error: rustls::Error) {
        let Self { tls, incoming, taken, outgoing, end, .. } = self;
        *end = End::Failed(Box::new(error));
        // No further than that: rustls must not find the same fault again.
        while tls.wants_write() {
            let UnbufferedStatus { state, .. } = tls.process_tls_records(&mut incoming[*taken..]);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if append(outgoing, 0, |room| data.encode(room)).is_err() {
                return;
            }
        }
    }

    /// Gives back what is empty.
    fn tidy(&mut self) {
        if self.taken == self.incoming.len() && self.incoming.capacity() > 0 {
            self.taken = 0;
            give(std::mem::take(&mut self.incoming));
        }
        if !self.has_plain() && self.plain.capacity() > 0 {
            self.read = 0;
            self.plain = Vec::new();
        }
    }

    /// Receives once.
    ///
    /// Errors: the connection is gone, or more is received than a message may have.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.end {
            End::None => {}
            End::Said | End::Cut | End::Failed(_) => return Poll::Ready(Ok(0)),
        }
        self.make_room()?;
        let received = pin!(self.slot.read_buf(&mut self.incoming));
        let received = std::future::Future::poll(received, cx);
        if let Poll::Ready(Ok(0)) = received {
            self.end = End::Cut;
        }
        self.tidy();
        received
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.incoming.capacity() == 0 {
            self.incoming = FREE.with(|free| free.take(BUFFER_BYTES_START));
        }
        if self.incoming.len() < self.incoming.capacity() {
            return Ok(());
        }
        if self.taken > 0 {
            self.incoming.drain(..self.taken);
            self.taken = 0;
            return Ok(());
        }
        if self.incoming.capacity() >= BUFFER_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut larger = FREE.with(|free| free.take(2 * self.incoming.capacity()));
        larger.extend_from_slice(&self.incoming);
        give(std::mem::replace(&mut self.incoming, larger));
        Ok(())
    }

    /// Sends all that is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            let count = ready!(Pin::new(&mut self.slot).poll_write(cx, &self.outgoing[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        if self.outgoing.capacity() > 0 {
            self.sent = 0;
            give(std::mem::take(&mut self.outgoing));
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the protocol itself has to say, as far as it goes: the task is woken when more does. An error will be
    /// seen by who reads.
    fn send_along(&mut self, cx: &mut Context<'_>) {
        if !self.outgoing.is_empty() {
            let _ = self.poll_send(cx);
        }
    }

    /// Says that nothing more comes, unless that has been said or nobody would hear, as far as the socket takes it now.
    fn say_end(&mut self) {
        let unheard = self.slot.0.is_none() || self.tls.is_handshaking();
        if unheard || matches!(self.end, End::Cut | End::Failed(_)) {
            return;
        }
        let _ = self.advance(Want::Close);
        if let Some(socket) = &self.slot.0 {
            self.sent += socket.send_now(&self.outgoing[self.sent..]);
        }
        // A ring takes it along when it closes the socket.
        self.send_along(&mut Context::from_waker(Waker::noop()));
    }

    /// Encrypts, and sends as far as it goes.
    fn poll_encrypt(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(PLAIN_BYTES_MAX)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.advance(Want::Send(bytes))? {
            Reached::Done | Reached::Full => {}
            Reached::Blocked | Reached::Closed => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }
}

impl Want<'_, '_> {
    /// Decrypted bytes go to who reads, as far as there is room.
    fn take_in(&mut self, mut payload: &[u8], plain: &mut Vec<u8>) {
        if let Want::Read(out) = self {
            let (now, later) = payload.split_at(payload.len().min(out.remaining()));
            out.put_slice(now);
            payload = later;
        }
        plain.extend_from_slice(payload);
    }

    fn write(
        &self,
        mut traffic: WriteTraffic<'_, ServerConnectionData>,
        outgoing: &mut Vec<u8>,
    ) -> io::Result<()> {
        match *self {
            Want::Nothing | Want::Read(_) => Ok(()),
            Want::Send(bytes) => {
                let records = bytes.len().div_ceil(GATHERED_BYTES_MAX);
                let room = bytes.len() + records * RECORD_OVERHEAD_BYTES;
                append(outgoing, room, |room| traffic.encrypt(bytes, room))
            }
            Want::Close => append(outgoing, 0, |room| traffic.queue_close_notify(room)),
        }
    }
}

/// An error that says what room is needed, or that there will be none.
trait Refused {
    fn required(self) -> Option<usize>;
}

impl Refused for EncodeError {
    fn required(self) -> Option<usize> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
            Self::AlreadyEncoded => None,
        }
    }
}

impl Refused for EncryptError {
    fn required(self) -> Option<usize> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
            Self::EncryptExhausted => None,
        }
    }
}

/// Appends what `write` writes, which is given `room` first, and what it asks for if that is not enough.
///
/// Errors: the keys have been used as often as they may.
fn append<E: Refused>(
    outgoing: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> io::Result<()> {
    let before = outgoing.len();
    if outgoing.capacity() == 0 {
        *outgoing = FREE.with(|free| free.take(BUFFER_BYTES_START));
    }
    loop {
        outgoing.resize(before + room, 0);
        match write(&mut outgoing[before..]) {
            Ok(count) => {
                outgoing.truncate(before + count);
                return Ok(());
            }
            Err(refused) => {
                outgoing.truncate(before);
                let required = refused.required().filter(|it| *it > room);
                room = required.ok_or_else(|| io::Error::other("the keys of this connection are used up"))?;
            }
        }
    }
}

fn give(buffer: Vec<u8>) {
    // At the end of a thread the free buffers may be gone already.
    let _ = FREE.try_with(|free| free.give(buffer));
}

fn failed(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        if this.has_plain() {
            let count = out.remaining().min(this.plain.len() - this.read);
            out.put_slice(&this.plain[this.read..this.read + count]);
            this.read += count;
            this.tidy();
            return Poll::Ready(Ok(()));
        }
        loop {
            let advanced = this.advance(Want::Read(out));
            this.send_along(cx);
            if out.filled().len() > before || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            advanced?;
            match this.end {
                End::None => {}
                End::Said => return Poll::Ready(Ok(())),
                End::Cut | End::Failed(_) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
            ready!(this.poll_receive(cx))?;
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        this.poll_encrypt(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let mut gathered = FREE.with(|free| free.take(GATHERED_BYTES_MAX));
        for slice in slices {
            let room = GATHERED_BYTES_MAX - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let written = this.poll_encrypt(cx, &gathered);
        give(gathered);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // rustls says it once only. After an error an alert has said more.
        let _ = this.advance(Want::Close);
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.slot).poll_shutdown(cx)
    }
}

impl Drop for Accepted {
    /// RFC 8446 section 6.1: each side says so before it closes; without it OpenSSL takes the end for an attack.
    fn drop(&mut self) {
        self.say_end();
    }
}

#[cfg(test)]
mod tests;
