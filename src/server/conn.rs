//! A connection to a server, logged in.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::AsyncWrite;

use super::CancelRoute;
use crate::ids::{ServerId, WorkerId};
use crate::net::{Address, Endpoint, Stream, Tls};
use crate::session::server::Server;
use crate::stats::Replication;
use crate::wire::{CancelKey, encode};

/// One connection to a server. Dropping it closes it without a word; [`ServerConn::close`] takes leave.
pub struct ServerConn {
    /// Its number in SHOW and in the logs.
    pub id: ServerId,
    /// The bytes, bound to the runtime of `home`.
    pub stream: Stream,
    /// What must be known to understand what it says; `None` while a client's relay has it.
    pub session: Option<Box<Server>>,
    /// For cancels; some servers give none.
    pub key: Option<CancelKey>,
    /// Where it was reached.
    pub endpoint: Endpoint,
    /// Its end of the socket.
    pub peer: Address,
    /// Our end of the socket.
    pub local: Address,
    /// Our TLS configuration, if the connection has TLS.
    pub tls: Option<Arc<Tls>>,
    /// The host's name as it is configured.
    pub host: String,
    /// For which kind of client it was opened.
    pub replication: Replication,
    /// When the connect began.
    pub created: Instant,
    /// Which worker's runtime `stream` is bound to.
    pub home: WorkerId,
}

impl ServerConn {
    /// The connection bound to the runtime of the calling worker.
    ///
    /// Errors: the reactor refuses; the connection is then closed.
    pub fn rehome(self, worker: WorkerId) -> io::Result<Self> {
        if self.home == worker {
            return Ok(self);
        }
        let stream = self.stream.detach()?.attach()?;
        Ok(Self { stream, home: worker, ..self })
    }

    /// What must be known to understand what it says, where no client's relay has it.
    pub fn session(&mut self) -> &mut Server {
        self.session.get_or_insert_default()
    }

    /// How to cancel what runs here; `None` if the server gave no key.
    pub fn cancel_route(&self) -> Option<CancelRoute> {
        Some(CancelRoute {
            key: self.key.clone()?,
            endpoint: self.endpoint.clone(),
            host: self.host.clone(),
            tls: self.tls.clone(),
        })
    }

    /// Closes it with a Terminate, so that the server's log has no "unexpected EOF". Never waits: if the socket
    /// takes no more, it is closed without.
    pub fn close(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(_)) = Pin::new(&mut self.stream).poll_write(&mut cx, encode::TERMINATE) {
            let _ = Pin::new(&mut self.stream).poll_flush(&mut cx);
        }
    }
}

impl fmt::Debug for ServerConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerConn({}, {}, worker {})", self.id, self.endpoint, self.home)
    }
}
