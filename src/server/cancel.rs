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
use crate::net::{DialError, Endpoint, Tls};
use crate::wire::{CancelKey, startup};

/// How long the server may take to close the connection where `cancel_wait_timeout` sets no limit.
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
    /// Sends a CancelRequest and waits until the server has acted on it. `limit` is `cancel_wait_timeout`; zero: none.
    /// Not cancel safe: a request that was sent may still take effect after this is dropped.
    ///
    /// Errors: the request may or may not have been acted on; the connection it was for must not be reused.
    pub async fn cancel(&self, route: &CancelRoute, limit: Duration) -> Result<(), CancelError> {
        let limit = if limit.is_zero() { UNLIMITED } else { limit };
        let until = Instant::now() + limit;
        timeout(limit, self.cancel_until(route, until)).await.map_err(|_| CancelError::Timeout)?
    }

    async fn cancel_until(&self, route: &CancelRoute, until: Instant) -> Result<(), CancelError> {
        let (mut stream, _) = self.dialer.redial(&route.endpoint, until).await?;
        if let Some(tls) = &route.tls {
            stream = match ask_for_tls(stream).await? {
                (stream, TlsAnswer::Yes) => {
                    let done = self.handshakes.connect(stream, Arc::clone(tls), &route.host).await;
                    done.map_err(ConnectError::from)?
                }
                (_, TlsAnswer::No) => return Err(ConnectError::TlsRefused.into()),
            };
        }
        let mut request = BytesMut::new();
        startup::encode_cancel_request(&mut request, &route.key);
        stream.write_all(&request).await?;
        stream.flush().await?;
        // Nothing comes but the end, which may look like an error: a reset, or TLS without its goodbye.
        while !matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests;
