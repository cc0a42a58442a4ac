//! Names and numbers that identify things, each with a type of its own so that none is taken for another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        // Maps keyed by a name can be asked with a plain `&str`.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A database as clients name it: an entry of `[databases]`, not the server's own `dbname`.
    DatabaseName
);
name!(
    /// A role as clients log in under it, or the forced `user=` of a database entry.
    UserName
);

/// Which pool: one database entry and one user have one pool of servers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolKey {
    /// The entry of `[databases]` (or the name a `*` entry was asked for by).
    pub database: DatabaseName,
    /// The user whose servers these are: the forced `user=`, else the one who logged in.
    pub user: UserName,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A client connection. Drawn from the same sequence as [`ServerId`], as in PgBouncer's SHOW.
    ClientId(u64)
);
number!(
    /// A server connection. Drawn from the same sequence as [`ClientId`].
    ServerId(u64)
);
number!(
    /// A worker thread, counted from 0.
    WorkerId(u16)
);
number!(
    /// Another process that shares our clients' port (`peer_id`, 1..=16383).
    PeerId(u16)
);

/// The sequence that client and server ids are drawn from, in the order the sockets are made.
#[derive(Debug, Default)]
pub struct IdSequence(AtomicU64);

impl IdSequence {
    /// The next id for a client.
    pub fn client(&self) -> ClientId {
        ClientId(self.next())
    }

    /// The next id for a server.
    pub fn server(&self) -> ServerId {
        ServerId(self.next())
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}
