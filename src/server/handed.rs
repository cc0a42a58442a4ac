//! A server connection that one process gives to the next.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::ServerConn;
use crate::ids::{ServerId, WorkerId};
use crate::net::{Detached, Endpoint};
use crate::session::portable::{Packer, Unpacker, Unreadable};
use crate::session::server::Server;
use crate::stats::Replication;
use crate::wire::CancelKey;

/// What is known of the connection, apart from its socket. Those with TLS cannot be given away.
#[derive(Debug)]
pub struct Handed {
    key: Option<CancelKey>,
    endpoint: Endpoint,
    host: String,
    /// When it was opened.
    pub created: Instant,
    session: Option<Box<Server>>,
}

impl ServerConn {
    /// Writes down what the next process must know.
    pub fn pack(&self, now: Instant, out: &mut Packer) {
        out.option(self.key.as_ref(), pack_key);
        match &self.endpoint {
            Endpoint::Tcp(address) => {
                out.flag(false);
                out.bytes(address.to_string().as_bytes());
            }
            Endpoint::Unix(path) => {
                out.flag(true);
                out.bytes(path.as_os_str().as_encoded_bytes());
            }
        }
        out.bytes(self.host.as_bytes());
        out.instant(now, self.created);
        out.option(self.session.as_deref(), Packer::server);
    }
}

/// Writes down a cancel key.
pub fn pack_key(out: &mut Packer, key: &CancelKey) {
    out.number(u64::from(key.pid));
    out.bytes(key.secret());
}

/// Reads what [`pack_key`] has written.
///
/// Errors: it is no key.
pub fn unpack_key(from: &mut Unpacker<'_>) -> Result<CancelKey, Unreadable> {
    let pid = u32::try_from(from.number()?).map_err(|_| Unreadable("a process id"))?;
    CancelKey::new(pid, from.bytes()?).ok_or(Unreadable("a cancel key"))
}

impl Handed {
    /// Reads what [`ServerConn::pack`] has written.
    ///
    /// Errors: the bytes are none of this layout.
    pub fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let key = from.option(unpack_key)?;
        let endpoint = match from.flag()? {
            false => Endpoint::Tcp(from.text()?.parse().map_err(|_| Unreadable("an address"))?),
            true => Endpoint::Unix(PathBuf::from(from.text()?)),
        };
        Ok(Self {
            key,
            endpoint,
            host: from.text()?.to_owned(),
            created: from.instant()?,
            session: from.option(Unpacker::server)?.map(Box::new),
        })
    }

    /// The connection, bound to the runtime of the calling worker.
    ///
    /// Errors: it is gone, or the reactor refuses.
    pub fn connect(self, socket: Detached, id: ServerId, home: WorkerId) -> io::Result<ServerConn> {
        let stream = socket.attach()?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        let Self { key, endpoint, host, created, session } = self;
        Ok(ServerConn {
            id,
            stream,
            session,
            key,
            endpoint,
            peer,
            local,
            tls: None,
            replication: Replication::None,
            host,
            created,
            home,
        })
    }
}
