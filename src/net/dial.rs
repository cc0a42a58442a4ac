//! Connecting to servers.
//!
//! A name with several addresses is used in turn, one address after the other for each new connection; where one does
//! not answer the next is tried.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use super::listen::unix_path;
use super::socket::Socket;
use super::{Endpoint, Names, Stream, TcpOptions, ring, socket_path};
use crate::config::Host;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The resolver does not know the name.
    #[error("server DNS lookup failed: {name}: {reason}")]
    Lookup {
        /// The name.
        name: String,
        /// Why not.
        reason: Arc<str>,
    },
    /// Nobody listens there, or it can't be reached.
    #[error("connect to {endpoint} failed: {source}")]
    Refused {
        /// Where.
        endpoint: Endpoint,
        /// Why not.
        source: io::Error,
    },
    /// No answer in time.
    #[error("connect to {0} failed: timeout")]
    Timeout(String),
}

/// Opens connections.
#[derive(Debug, Default)]
pub struct Dialer {
    options: ArcSwap<TcpOptions>,
    names: Names,
}

impl Dialer {
    /// One that sets these options on its connections.
    pub fn new(options: TcpOptions, names: Names) -> Self {
        Self { options: ArcSwap::from_pointee(options), names }
    }

    /// What it knows of the names of servers.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Sets other options on the connections to come.
    pub fn set_options(&self, options: TcpOptions) {
        self.options.store(Arc::new(options));
    }

    /// Connects to a host, and tells where that was. Cancel safe: dropping it closes what it opened.
    ///
    /// Errors: what the last address that was tried said.
    pub async fn dial(
        &self,
        host: &Host,
        port: u16,
        until: Instant,
    ) -> Result<(Stream, Endpoint), DialError> {
        match host {
            Host::Unix(dir) => self.redial(&Endpoint::Unix(socket_path(dir, port)), until).await,
            Host::Name(name) => {
                let addresses = self.lookup(name, port, until).await?;
                let mut left = addresses.len();
                let mut failure = DialError::Lookup { name: name.clone(), reason: "no address".into() };
                for address in addresses {
                    match self.redial(&Endpoint::Tcp(address), share(until, left)).await {
                        Ok(connected) => return Ok(connected),
                        Err(error) => failure = error,
                    }
                    left -= 1;
                }
                Err(failure)
            }
        }
    }

    /// Connects to the very place where a server was reached before: for a cancel. Cancel safe.
    ///
    /// Errors: it can't be reached any more.
    pub async fn redial(&self, endpoint: &Endpoint, until: Instant) -> Result<(Stream, Endpoint), DialError> {
        let connected = timeout(left(until), async {
            let socket = match endpoint {
                Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(unix_path(path)).await?),
                Endpoint::Tcp(address) => Socket::Tcp(self.connect_tcp(*address).await?),
            };
            // Connecting is the runtime's; what follows is the ring's, where there is one.
            if ring::is_here() { socket.detach()?.attach() } else { Ok(socket) }
        });
        match connected.await {
            Ok(Ok(socket)) => Ok((Stream::plain(socket), endpoint.clone())),
            Ok(Err(source)) => Err(DialError::Refused { endpoint: endpoint.clone(), source }),
            Err(_) => Err(DialError::Timeout(endpoint.to_string())),
        }
    }

    async fn connect_tcp(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        self.options.load().apply(&socket)?;
        socket.connect(address).await
    }

    async fn lookup(&self, name: &str, port: u16, until: Instant) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        match timeout(left(until), self.names.addresses(name, port)).await {
            Err(_) => Err(DialError::Timeout(name.to_owned())),
            Ok(Err(reason)) => Err(DialError::Lookup { name: name.to_owned(), reason }),
            Ok(Ok(addresses)) => Ok(addresses),
        }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// The time that one of `parts` addresses may take, so that a silent one leaves some to the others.
fn share(until: Instant, parts: usize) -> Instant {
    Instant::now() + left(until) / u32::try_from(parts).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_the_address_that_answers_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = Dialer::default();
        // Where `localhost` has ::1 too, nobody listens there and 127.0.0.1 is tried next.
        for _ in 0..2 {
            let host = Host::Name("localhost".into());
            let (_, endpoint) = dialer.dial(&host, address.port(), soon()).await.unwrap();
            assert_eq!(endpoint, Endpoint::Tcp(address));
        }
        assert!(dialer.redial(&Endpoint::Tcp(address), soon()).await.is_ok());
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_the_place() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let dialer = Dialer::default();
        let host = Host::Name("127.0.0.1".into());
        let error = dialer.dial(&host, address.port(), soon()).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
        let host = Host::Name("name.invalid".into());
        let error = dialer.dial(&host, 5432, soon()).await.unwrap_err().to_string();
        assert!(error.contains("server DNS lookup failed"), "{error}");
    }

    #[tokio::test]
    async fn a_server_in_a_directory_is_reached_by_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".s.PGSQL.5433");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let dialer = Dialer::default();
        let host = Host::Unix(dir.path().into());
        let (stream, endpoint) = dialer.dial(&host, 5433, soon()).await.unwrap();
        assert_eq!(endpoint, Endpoint::Unix(path));
        assert!(stream.is_unix());
        let error = dialer.dial(&host, 5434, soon()).await.unwrap_err().to_string();
        assert!(error.contains("No such file or directory"), "{error}");
    }
}
