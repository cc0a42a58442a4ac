//! TLS towards clients: we show a certificate, and may ask for theirs.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::material::{Source, certified_key};
use super::server_side::trust;
use super::suites::{Choices, Wishes};
use super::verify::{ClientVerifier, Demand};
use super::{ALPN, Accepted, TlsError, certificate};
use crate::config::{Settings, SslMode};
use crate::net::{HandshakeError, Handshakes, Stream};

/// One session ticket for each handshake: drivers open one connection with it, or none.
const TICKETS: usize = 1;

/// What clients can get in the way of TLS.
#[derive(Debug)]
pub struct ClientSide {
    mode: SslMode,
    config: Option<Arc<ServerConfig>>,
    expires: Option<SystemTime>,
    notes: Vec<String>,
}

impl ClientSide {
    pub(super) fn of(settings: &Settings) -> Result<Self, TlsError> {
        let mode = settings.client_tls_sslmode;
        if mode == SslMode::Disable {
            return Ok(Self { mode, config: None, expires: None, notes: Vec::new() });
        }
        let (Some(certificate), Some(key)) = (&settings.client_tls_cert_file, &settings.client_tls_key_file)
        else {
            return Err(TlsError::NoCertificate);
        };
        let choices = Choices::of(&Wishes {
            protocols: ("client_tls_protocols", &settings.client_tls_protocols),
            ciphers: ("client_tls_ciphers", &settings.client_tls_ciphers),
            suites13: ("client_tls13_ciphers", settings.client_tls13_ciphers.as_deref().unwrap_or("")),
            curves: ("client_tls_ecdhcurve", &settings.client_tls_ecdhcurve),
        })?;
        let identity = certified_key(
            Source { setting: "client_tls_cert_file", path: certificate },
            Source { setting: "client_tls_key_file", path: key },
            &choices.provider,
        )?;
        let expires = identity.cert.first().and_then(certificate::expires);
        let setup = |source| TlsError::Setup { setting: "client_tls_*", source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&choices.provider))
            .with_protocol_versions(&choices.versions)
            .map_err(setup)?;
        let builder = match client_verifier(settings, &choices)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new().map_err(setup)?;
        config.send_tls13_tickets = TICKETS;
        Ok(Self { mode, config: Some(Arc::new(config)), expires, notes: choices.notes })
    }

    /// `client_tls_sslmode`.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// True if an SSLRequest is answered with `S`.
    pub fn is_offered(&self) -> bool {
        self.config.is_some()
    }

    /// True if a client over TCP must use TLS.
    pub fn is_required(&self) -> bool {
        self.mode >= SslMode::Require
    }

    /// When our certificate ceases to be valid.
    pub fn certificate_expires(&self) -> Option<SystemTime> {
        self.expires
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The handshake, on the calling thread. Not cancel safe.
    ///
    /// Errors: as [`Self::accept_by`].
    #[cfg(test)]
    pub(crate) async fn accept(&self, stream: Stream) -> Result<Stream, HandshakeError> {
        let config = self.config.as_ref().ok_or(HandshakeError::Off)?;
        let socket = stream.into_socket().ok_or(HandshakeError::Twice)?;
        Ok(Stream::accepted(Accepted::accept(Arc::clone(config), socket).await?))
    }

    /// The handshake, of which these bytes have been `received`; its arithmetic is done by these threads. Not cancel
    /// safe.
    ///
    /// Errors: TLS is off, the client's certificate is not good enough, it speaks no TLS that we allow, or the process
    /// is ending.
    pub async fn accept_by(
        &self,
        threads: &Handshakes,
        stream: Stream,
        received: &[u8],
    ) -> Result<Stream, HandshakeError> {
        let config = self.config.as_ref().ok_or(HandshakeError::Off)?;
        let socket = stream.into_socket().ok_or(HandshakeError::Twice)?;
        Ok(Stream::accepted(Accepted::accept_by(threads, Arc::clone(config), socket, received).await?))
    }
}

fn client_verifier(settings: &Settings, choices: &Choices) -> Result<Option<ClientVerifier>, TlsError> {
    let demand = match settings.client_tls_sslmode {
        SslMode::VerifyCa | SslMode::VerifyFull => Demand::Mandatory,
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Demand::Optional,
    };
    let Some(path) = &settings.client_tls_ca_file else {
        return match demand {
            // A certificate that nobody could check is not asked for.
            Demand::Optional => Ok(None),
            Demand::Mandatory => {
                Err(TlsError::Needs { setting: "client_tls_sslmode", needs: "client_tls_ca_file" })
            }
        };
    };
    let source = Source { setting: "client_tls_ca_file", path };
    let trust = trust(source)?;
    ClientVerifier::new(demand, trust, &choices.provider).map(Some).map_err(|error| source.wrong(error))
}
