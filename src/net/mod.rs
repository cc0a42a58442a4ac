//! Sockets and TLS: the only module that names `tokio::net` and `rustls`.
//!
//! Owns listening, dialling, byte streams that can move between workers, the rings that may drive them, TLS on both
//! sides, the threads on which handshakes run, and the buffers that TLS receives into. It knows nothing of PostgreSQL's
//! messages, except that TLS with it has the ALPN name `postgresql`.

mod address;
pub mod buffers;
pub mod dial;
pub mod handshake;
pub mod listen;
pub mod names;
mod options;
pub mod passing;
pub mod ring;
mod socket;
mod stream;
mod threshold;
pub mod tls;

pub use address::{Address, Credentials, Endpoint, socket_path};
pub use buffers::Buffers;
pub use dial::{DialError, Dialer};
pub use handshake::{HandshakeError, Handshakes};
pub use listen::{ListenError, Listener};
pub use names::{AddressesGone, KnownName, KnownZone, NameTimes, Names};
pub use options::TcpOptions;
pub use passing::{Passer, Shared};
pub use stream::{Detached, Stream, TlsInfo};
pub use tls::{Tls, TlsError};
