//! One end of a connection, as SHOW and log lines name it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One end of a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket; with the other process's id, where the system tells it.
    Unix {
        /// The other process, or 0.
        pid: u32,
        /// The port in the socket's name.
        port: u16,
    },
}

impl Address {
    /// As in SHOW: an address, or `unix`.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().to_string(),
            Self::Unix { .. } => "unix".to_owned(),
        }
    }

    /// The address of an end that has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix { .. } => None,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix { port, .. } => *port,
        }
    }

    /// The process at the other end of a Unix socket.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Unix { pid, .. } if *pid != 0 => Some(*pid),
            _ => None,
        }
    }
}

/// As in PgBouncer's log lines: `10.0.0.1:5432`, `[::1]:5432`, `unix(123):6432`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Unix { pid, port } => write!(f, "unix({pid}):{port}"),
        }
    }
}
