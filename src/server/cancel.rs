//! Cancelling what runs on a server.
//!
//! A cancel takes a connection of its own. PostgreSQL closes it when the signal is sent, and nothing else tells that
//! it is; so only then is the cancelled connection safe to be given to another client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::{ConnectError, Connector, TlsAnswer, ask_for_tls};
use crate::config::Host;
use crate::ids::ServerId;
use crate::net::{DialError, Endpoint, Stream, Tls};
use crate::stats::Address;
use crate::wire::{CancelKey, startup};

/// How long a cancel may take where `cancel_wait_timeout` sets no limit.
const UNLIMITED: Duration = Duration::from_secs(3600);

/// What is needed to cancel on one connection; it may be used while another task drives that connection.
#[derive(Clone, Debug)]
pub struct CancelRoute {
    pub(super) key: CancelKey,
    pub(super) endpoint: Endpoint,
    pub(super) host: String,
    /// Set if the connection to be cancelled on has TLS; then the key travels encrypted too.
    pub(super) tls: Option<Arc<Tls>>,
}

/// Why it is not known whether a cancel took effect.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// The server can't be reached, or TLS with it did not come about.
    #[error("cannot send the cancel request: {0}")]
    Connect(#[from] ConnectError),
    /// The server did not close the connection within `cancel_wait_timeout`.
    #[error("cancel_wait_timeout")]
    Timeout,
}

impl CancelError {
    /// Whether it is only that the limit was over.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Timeout | Self::Connect(ConnectError::Timeout | ConnectError::Dial(DialError::Timeout(_)))
        )
    }
}

impl From<DialError> for CancelError {
    fn from(error: DialError) -> Self {
        Self::Connect(error.into())
    }
}

impl From<std::io::Error> for CancelError {
    fn from(error: std::io::Error) -> Self {
        Self::Connect(error.into())
    }
}

impl Connector {
    /// Sends a CancelRequest; [`CancelSent::acted_on`] waits until the server has acted on it. `limit` is
    /// `cancel_wait_timeout`; zero: none. Not cancel safe: a request that was sent may still take effect after this is
    /// dropped.
    ///
    /// Errors: the request may or may not have been acted on; the connection it was for must not be reused.
    pub async fn send_cancel(&self, route: &CancelRoute, limit: Duration) -> Result<CancelSent, CancelError> {
        let limit = limit_of(limit);
        let sending = self.send_until(route, Instant::now() + limit);
        timeout(limit, sending).await.map_err(|_| CancelError::Timeout)?
    }

    /// Passes a client's CancelRequest on to another process that listens at `host` and `port`, without TLS, as
    /// PgBouncer. Cancel safe but for a request that was sent.
    ///
    /// Errors: it cannot be reached in time.
    pub async fn pass_cancel_on(
        &self,
        (host, port): (&Host, u16),
        key: &CancelKey,
        limit: Duration,
    ) -> Result<CancelSent, CancelError> {
        let limit = limit_of(limit);
        let sending = async {
            let (stream, endpoint) = self.dialer.dial(host, port, Instant::now() + limit).await?;
            self.say(stream, endpoint, key).await
        };
        timeout(limit, sending).await.map_err(|_| CancelError::Timeout)?
    }

    async fn send_until(&self, route: &CancelRoute, until: Instant) -> Result<CancelSent, CancelError> {
        let (mut stream, endpoint) = self.dialer.redial(&route.endpoint, until).await?;
        if let Some(tls) = &route.tls {
            stream = match ask_for_tls(stream).await? {
                (stream, TlsAnswer::Yes) => {
                    let done = self.handshakes.connect(stream, Arc::clone(tls), &route.host).await;
                    done.map_err(ConnectError::from)?
                }
                (_, TlsAnswer::No) => return Err(ConnectError::TlsRefused.into()),
            };
        }
        self.say(stream, endpoint, &route.key).await
    }

    async fn say(
        &self,
        mut stream: Stream,
        endpoint: Endpoint,
        key: &CancelKey,
    ) -> Result<CancelSent, CancelError> {
        let mut request = BytesMut::new();
        startup::encode_cancel_request(&mut request, key);
        stream.write_all(&request).await?;
        stream.flush().await?;
        Ok(CancelSent { id: self.ids.server(), stream, endpoint })
    }
}

/// How long a cancel may take: `cancel_wait_timeout`, which may be zero.
pub fn limit_of(setting: Duration) -> Duration {
    if setting.is_zero() { UNLIMITED } else { setting }
}

/// A CancelRequest that is on its way.
#[derive(Debug)]
#[must_use = "only its end tells that the request was acted on"]
pub struct CancelSent {
    id: ServerId,
    stream: Stream,
    endpoint: Endpoint,
}

impl CancelSent {
    /// The connection's number.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Its two ends, the other side's first, for SHOW.
    ///
    /// Errors: the connection is gone already.
    pub fn addresses(&self) -> std::io::Result<(Address, Address)> {
        let (peer, local) = (self.stream.peer_addr()?, self.stream.local_addr()?);
        Ok((peer.on_roster_at(&self.endpoint), local.on_roster_at(&self.endpoint)))
    }

    /// Waits until the other side has acted on it. `limit` is `cancel_wait_timeout`; zero: none. Cancel safe.
    ///
    /// Errors: it has not, in that time.
    pub async fn acted_on(mut self, limit: Duration) -> Result<(), CancelError> {
        // Nothing comes but the end, which may look like an error: a reset, or TLS without its goodbye.
        let end = async { while !matches!(self.stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {} };
        timeout(limit_of(limit), end).await.map_err(|_| CancelError::Timeout)
    }
}

#[cfg(test)]
mod tests;
