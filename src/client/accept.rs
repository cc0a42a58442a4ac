//! A connection's first packets: encryption requests, a cancel, or a StartupMessage.
//!
//! Owns the order in which they may come and the step up to TLS. It knows no user and no database. What it cannot
//! make sense of it closes: quietly where the other side is no PostgreSQL client, with an ErrorResponse where it is.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::line::{End, Line};
use super::refusal::Refusal;
use crate::config::Settings;
use crate::net::{Address, Handshakes, Stream, Tls};
use crate::wire::CancelKey;
use crate::wire::startup::{First, Startup};

/// The first byte of a TLS handshake record: ContentType handshake(22), RFC 8446 section 5.1.
const TLS_HANDSHAKE: u8 = 0x16;

/// PostgreSQL's own numbers for what may not come again, as its error message prints them.
const SSL_REQUEST: (u16, u16) = (1234, 5679);
const GSS_REQUEST: (u16, u16) = (1234, 5680);

/// What a connection is for.
#[derive(Debug)]
pub enum Caller {
    /// A session.
    Client(Box<Arrival>),
    /// To cancel another one's query; nothing is ever answered.
    Cancel {
        /// Which.
        key: CancelKey,
        /// The connection, to be closed when the cancel is done.
        stream: Stream,
    },
}

/// A client that has sent its StartupMessage.
#[derive(Debug)]
pub struct Arrival {
    /// Its connection.
    pub line: Line,
    /// What it asks for.
    pub startup: Startup,
    /// When `client_login_timeout` is over, counted from the first byte we could have had.
    pub deadline: Option<Instant>,
}

/// What is needed to let clients in at all.
pub struct Door<'a> {
    /// The settings in force.
    pub settings: &'a Settings,
    /// TLS in force.
    pub tls: &'a Arc<Tls>,
    /// Where handshakes run.
    pub handshakes: &'a Handshakes,
}

/// Takes a connection, of which `early` has been received, up to its StartupMessage. Not cancel safe. An `async fn` would
/// hold what it is given twice, as arguments and as variables.
///
/// Errors: it is not to be; where it makes sense the client has been told.
pub fn accept(
    stream: Stream,
    early: BytesMut,
    peer: Address,
    door: &Door<'_>,
) -> impl Future<Output = Result<Caller, End>> {
    let (deadline, mut line) = (deadline(door.settings), Line::new(stream, early, peer));
    async move {
        let first = match deadline {
            None => negotiate(&mut line, door).await,
            Some(deadline) => match timeout_at(deadline, negotiate(&mut line, door)).await {
                Ok(first) => first,
                Err(_) => Err(Refusal::LoginTimeout.into()),
            },
        };
        match first {
            Ok(Greeting::Startup(startup)) => {
                Ok(Caller::Client(Box::new(Arrival { line, startup, deadline })))
            }
            Ok(Greeting::Cancel(key)) => Ok(Caller::Cancel { key, stream: line.take_out()? }),
            Err(end) => {
                Box::pin(line.turn_away(&end, door.settings)).await;
                Err(end)
            }
        }
    }
}

fn deadline(settings: &Settings) -> Option<Instant> {
    (!settings.client_login_timeout.is_zero())
        .then(|| Instant::now().checked_add(settings.client_login_timeout))
        .flatten()
}

enum Greeting {
    Startup(Startup),
    Cancel(CancelKey),
}

/// Which requests have been answered: each may come once, and none within encryption.
#[derive(Default)]
struct Asked {
    ssl: bool,
    gss: bool,
}

async fn negotiate(line: &mut Line, door: &Door<'_>) -> Result<Greeting, End> {
    if line.first_byte().await? == TLS_HANDSHAKE && offers_tls(line, door)? {
        Box::pin(secure(line, door)).await?;
        if !line.stream()?.tls_info().is_some_and(|tls| tls.alpn) {
            return Err(End::NoAlpn);
        }
    }
    let mut asked = Asked::default();
    loop {
        match line.first_packet().await? {
            First::Ssl => answer_ssl(line, door, &mut asked).await?,
            First::Gss => answer_gss(line, &mut asked).await?,
            First::Cancel(key) => return Ok(Greeting::Cancel(key)),
            First::Startup(startup) => {
                let stream = line.stream()?;
                if door.tls.clients.is_required() && !stream.is_tls() && !stream.is_unix() {
                    return Err(Refusal::TlsRequired.into());
                }
                return Ok(Greeting::Startup(startup));
            }
        }
    }
}

/// Never over a unix socket, as PostgreSQL.
fn offers_tls(line: &mut Line, door: &Door<'_>) -> Result<bool, End> {
    Ok(door.tls.clients.is_offered() && !line.stream()?.is_unix())
}

async fn answer_ssl(line: &mut Line, door: &Door<'_>, asked: &mut Asked) -> Result<(), End> {
    if line.stream()?.is_tls() {
        return Err(End::TlsTwice);
    }
    if std::mem::replace(&mut asked.ssl, true) {
        return Err(unexpected(SSL_REQUEST));
    }
    if line.has_input() {
        return Err(Refusal::PlaintextAfterSslRequest.into());
    }
    if !offers_tls(line, door)? {
        return answer(line, b"N").await;
    }
    answer(line, b"S").await?;
    // Boxed: a plain login keeps no room for it.
    Box::pin(secure(line, door)).await
}

async fn answer_gss(line: &mut Line, asked: &mut Asked) -> Result<(), End> {
    if line.stream()?.is_tls() || std::mem::replace(&mut asked.gss, true) {
        return Err(unexpected(GSS_REQUEST));
    }
    if line.has_input() {
        return Err(Refusal::PlaintextAfterGssRequest.into());
    }
    answer(line, b"N").await
}

async fn answer(line: &mut Line, byte: &[u8]) -> Result<(), End> {
    line.output().extend_from_slice(byte);
    line.flush().await
}

/// PostgreSQL takes a request that is out of place for the version number it looks like.
fn unexpected((major, minor): (u16, u16)) -> End {
    Refusal::UnknownProtocol { major, minor }.into()
}

async fn secure(line: &mut Line, door: &Door<'_>) -> Result<(), End> {
    let (plain, received) = (line.take_out()?, line.take_input());
    line.put_back(door.handshakes.accept(plain, &received, Arc::clone(door.tls)).await?);
    Ok(())
}
