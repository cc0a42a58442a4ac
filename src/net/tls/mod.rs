//! TLS towards clients and towards servers, as the settings `client_tls_*` and `server_tls_*` ask for it.
//!
//! A [`Tls`] is built whole from settings and files, or not at all: at a reload the old one stays in force when the
//! new one cannot be built. Connections keep the TLS they began with.

mod accepted;
mod certificate;
mod client_side;
mod directory;
mod legacy;
mod material;
mod server_side;
mod suites;
mod verify;

use std::io;
use std::path::PathBuf;

pub(super) use accepted::Accepted;
pub use certificate::PeerCertificate;
pub use client_side::ClientSide;
pub use directory::directory;
pub use server_side::ServerSide;
pub(super) use suites::{cipher_name, version_name};
pub(super) use verify::in_openssls_words;

use crate::config::Settings;

/// The ALPN name of PostgreSQL's protocol: `PG_ALPN_PROTOCOL` in src/include/libpq/pqcomm.h.
const ALPN: &[u8] = b"postgresql";

/// TLS on both sides, as one configuration has it.
#[derive(Debug)]
pub struct Tls {
    /// Towards clients.
    pub clients: ClientSide,
    /// Towards servers.
    pub servers: ServerSide,
}

impl Tls {
    /// Reads the files that the settings name. Blocks on the file system.
    ///
    /// Errors: the first thing that is missing or wrong.
    pub fn of(settings: &Settings) -> Result<Self, TlsError> {
        Ok(Self { clients: ClientSide::of(settings)?, servers: ServerSide::of(settings)? })
    }

    /// What is missing or wrong on either side; nothing where [`Self::of`] succeeds.
    pub fn errors(settings: &Settings) -> Vec<TlsError> {
        ClientSide::of(settings).err().into_iter().chain(ServerSide::of(settings).err()).collect()
    }

    /// What was asked for and cannot be had here, in words for a log.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.clients.notes().iter().chain(self.servers.notes()).map(String::as_str)
    }
}

/// Why TLS cannot be set up as the settings ask.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// TLS for clients without a certificate.
    #[error(
        "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set."
    )]
    NoCertificate,
    /// A setting that another one needs.
    #[error("{setting} requires {needs}")]
    Needs {
        /// The setting, with its value.
        setting: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// A file that can't be read.
    #[error("invalid {setting}: cannot read {}: {source}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("invalid {setting}: {}: {problem}", path.display())]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that means nothing.
    #[error("invalid {setting}: {value}")]
    Value {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// A list of TLS 1.3 cipher suites with an unknown name in it.
    #[error("failed to set the TLSv1.3 cipher suites: {setting} has unknown suite \"{name}\"")]
    Suites13 {
        /// The setting.
        setting: &'static str,
        /// The unknown name.
        name: String,
    },
    /// A list of ciphers of which none exists here.
    #[error("no ciphers for '{value}' ({setting})")]
    NoCiphers {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// The TLS library refuses.
    #[error("TLS setup failed ({setting}): {source}")]
    Setup {
        /// The settings concerned.
        setting: &'static str,
        /// Its reason.
        source: rustls::Error,
    },
}

impl TlsError {
    /// The setting that is to be changed.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::NoCertificate => "client_tls_sslmode",
            Self::Needs { setting, .. }
            | Self::File { setting, .. }
            | Self::Content { setting, .. }
            | Self::Value { setting, .. }
            | Self::Suites13 { setting, .. }
            | Self::NoCiphers { setting, .. }
            | Self::Setup { setting, .. } => setting,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
