//! Who is at the other end of a socket, as a value.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One end of a connection, as SHOW and the logs name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix {
        /// Its process id; 0 where the kernel does not tell.
        pid: i32,
        /// Its user.
        uid: u32,
    },
}

impl Address {
    /// The same for the roster, which knows a Unix socket by its port as well.
    pub fn on_roster(self, port: u16) -> crate::stats::Address {
        match self {
            Self::Tcp(address) => crate::stats::Address::Tcp(address),
            Self::Unix { pid, .. } => {
                crate::stats::Address::Unix { pid: u32::try_from(pid).unwrap_or(0), port }
            }
        }
    }

    /// The same of a connection that was made to `endpoint`: the port of a unix socket is in its name.
    pub fn on_roster_at(self, endpoint: &Endpoint) -> crate::stats::Address {
        let port = match endpoint {
            Endpoint::Unix(path) => path.extension().and_then(|it| it.to_str()?.parse().ok()),
            Endpoint::Tcp(address) => Some(address.port()),
        };
        self.on_roster(port.unwrap_or(0))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { pid, .. } => write!(f, "unix({pid})"),
        }
    }
}

/// The process at the other end of a unix socket, as it was when it connected: `SO_PEERCRED` in unix(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Process id; 0 where the kernel does not tell.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Where a server was reached, so that a cancel goes to the very same place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system, or `@name` for an abstract one.
    Unix(PathBuf),
}

/// The socket of the server on `port` in the directory `dir`: `UNIXSOCK_PATH` in src/include/libpq/pqcomm.h.
pub fn socket_path(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
