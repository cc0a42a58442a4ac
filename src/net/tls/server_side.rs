//! TLS towards servers: we check their certificate, and may show ours.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::material::{Source, certified_key};
use super::suites::{Choices, Wishes};
use super::verify::{ServerCheck, ServerVerifier, Trust};
use super::{ALPN, TlsError};
use crate::config::{Settings, SslMode};
use crate::net::socket::Slot;
use crate::net::{Address, HandshakeError, Stream};

/// What we ask of servers in the way of TLS.
#[derive(Debug)]
pub struct ServerSide {
    mode: SslMode,
    config: Option<Arc<ClientConfig>>,
    notes: Vec<String>,
}

impl ServerSide {
    pub(super) fn of(settings: &Settings) -> Result<Self, TlsError> {
        let mode = settings.server_tls_sslmode;
        if mode == SslMode::Disable {
            return Ok(Self { mode, config: None, notes: Vec::new() });
        }
        let choices = Choices::of(&Wishes {
            protocols: ("server_tls_protocols", &settings.server_tls_protocols),
            ciphers: ("server_tls_ciphers", &settings.server_tls_ciphers),
            suites13: ("server_tls13_ciphers", settings.server_tls13_ciphers.as_deref().unwrap_or("")),
            curves: ("server_tls_ecdhcurve", "auto"),
        })?;
        let config = client_config(settings, &choices)?;
        Ok(Self { mode, config: Some(Arc::new(config)), notes: choices.notes })
    }

    /// `server_tls_sslmode`.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// True if a server over TCP is asked for TLS.
    pub fn is_wanted(&self) -> bool {
        self.config.is_some()
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The handshake, on the calling thread. `host` is the name that was dialled. Use
    /// [`Handshakes::connect`](crate::net::Handshakes::connect) where queries must not wait for it. Not cancel safe.
    ///
    /// Errors: TLS is off, the server's certificate is not good enough, or it speaks no TLS that we allow.
    pub async fn connect(&self, stream: Stream, host: &str) -> Result<Stream, HandshakeError> {
        let config = self.config.as_ref().ok_or(HandshakeError::Off)?;
        let name = self.server_name(&stream, host)?;
        let socket = stream.into_socket().ok_or(HandshakeError::Twice)?;
        let connected = TlsConnector::from(Arc::clone(config)).connect(name, Slot(Some(socket))).await?;
        Ok(Stream::connected(connected))
    }

    /// A name that can't stand in a certificate is as good as any where names are not checked.
    fn server_name(&self, stream: &Stream, host: &str) -> Result<ServerName<'static>, HandshakeError> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.mode == SslMode::VerifyFull => Err(HandshakeError::Name { host: host.to_owned() }),
            Err(_) => match stream.peer_addr()? {
                Address::Tcp(address) => Ok(ServerName::from(address.ip())),
                Address::Unix { .. } => Err(HandshakeError::Name { host: host.to_owned() }),
            },
        }
    }
}

fn client_config(settings: &Settings, choices: &Choices) -> Result<ClientConfig, TlsError> {
    let check = match settings.server_tls_sslmode {
        SslMode::VerifyCa => ServerCheck::Issuer(server_trust(settings)?),
        SslMode::VerifyFull => ServerCheck::IssuerAndName(server_trust(settings)?),
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => ServerCheck::Anything,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&choices.provider))
        .with_protocol_versions(&choices.versions)
        .map_err(|source| TlsError::Setup { setting: "server_tls_*", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(check, &choices.provider)));
    let mut config = match (&settings.server_tls_cert_file, &settings.server_tls_key_file) {
        (Some(certificate), Some(key)) => {
            let identity = certified_key(
                Source { setting: "server_tls_cert_file", path: certificate },
                Source { setting: "server_tls_key_file", path: key },
                &choices.provider,
            )?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) => {
            return Err(TlsError::Needs { setting: "server_tls_cert_file", needs: "server_tls_key_file" });
        }
        (None, Some(_)) => {
            return Err(TlsError::Needs { setting: "server_tls_key_file", needs: "server_tls_cert_file" });
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL gives out no session tickets: `SSL_OP_NO_TICKET` in src/backend/libpq/be-secure-openssl.c.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Whom we believe about servers. Without a CA file: whom this machine believes, as libpq's `sslrootcert=system`.
fn server_trust(settings: &Settings) -> Result<Trust, TlsError> {
    if let Some(path) = &settings.server_tls_ca_file {
        return trust(Source { setting: "server_tls_ca_file", path });
    }
    let anchors = rustls_native_certs::load_native_certs().certs;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(anchors);
    if added == 0 {
        return Err(TlsError::Needs { setting: "server_tls_sslmode", needs: "server_tls_ca_file" });
    }
    Ok(Trust { roots: Arc::new(roots), anchors: Vec::new() })
}

/// Reads a CA file.
pub(super) fn trust(source: Source<'_>) -> Result<Trust, TlsError> {
    let anchors = source.certificates()?;
    let mut roots = RootCertStore::empty();
    for anchor in &anchors {
        roots.add(anchor.clone()).map_err(|error| source.wrong(error))?;
    }
    Ok(Trust { roots: Arc::new(roots), anchors })
}
