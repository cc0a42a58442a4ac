//! Is the other side's certificate good enough? The answers that rustls has no verifier for.
//!
//! Whatever the answer, the handshake's own signature is always checked: a certificate without its private key is
//! never accepted.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::extensions::GeneralName;

use super::certificate::common_name;
use super::legacy;

/// What a server's certificate must prove.
#[derive(Debug)]
pub(super) enum ServerCheck {
    /// Nothing: `allow`, `prefer`, `require`.
    Anything,
    /// A known issuer: `verify-ca`.
    Issuer(Trust),
    /// A known issuer and the name we dialled: `verify-full`.
    IssuerAndName(Trust),
}

/// Certificates whose word counts.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) anchors: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// True if webpki can't judge this certificate and [`legacy`] does.
    fn is_legacy(&self, end_entity: &CertificateDer<'_>) -> Result<bool, Error> {
        Ok(legacy::is_version_1(&legacy::parse(end_entity)?) || self.anchors.contains(end_entity))
    }
}

/// Checks the handshakes' signatures, also those of certificates that only [`legacy`] can read.
#[derive(Debug)]
struct Signatures(WebPkiSupportedAlgorithms);

impl Signatures {
    fn verify_tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if legacy::is_version_1(&legacy::parse(cert)?) {
            return legacy::verify_tls12_signature(message, cert, dss, &self.0);
        }
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if legacy::is_version_1(&legacy::parse(cert)?) {
            return legacy::verify_tls13_signature(message, cert, dss, &self.0);
        }
        verify_tls13_signature(message, cert, dss, &self.0)
    }
}

/// Checks servers' certificates.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    check: ServerCheck,
    signatures: Signatures,
}

impl ServerVerifier {
    pub(super) fn new(check: ServerCheck, provider: &CryptoProvider) -> Self {
        Self { check, signatures: Signatures(provider.signature_verification_algorithms) }
    }

    fn check_issuer(
        &self,
        trust: &Trust,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if trust.is_legacy(end_entity)? {
            return legacy::check_issuer(end_entity, &trust.anchors, &self.signatures.0, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trust.roots,
            intermediates,
            now,
            self.signatures.0.all,
        )
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.check {
            ServerCheck::Anything => {}
            ServerCheck::Issuer(trust) => self.check_issuer(trust, end_entity, intermediates, now)?,
            ServerCheck::IssuerAndName(trust) => {
                self.check_issuer(trust, end_entity, intermediates, now)?;
                check_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.0.supported_schemes()
    }
}

/// Checks that the certificate is for the host we dialled. The subject's CN counts only where there is no
/// subjectAltName for hosts at all, as in libpq (`pq_verify_peer_name_matches_certificate`).
fn check_name(der: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    let certificate = legacy::parse(der)?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let has_host_names = names.is_some_and(|names| {
        names
            .value
            .general_names
            .iter()
            .any(|it| matches!(it, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
    });
    if has_host_names && !legacy::is_version_1(&certificate) {
        return verify_server_name(&ParsedCertificate::try_from(der)?, host);
    }
    match common_name(&certificate) {
        Some(name) if name_matches(&name, host) => Ok(()),
        name => Err(CertificateError::NotValidForNameContext {
            expected: host.to_owned(),
            presented: name.into_iter().collect(),
        }
        .into()),
    }
}

/// `*.example.org` stands for one label in front of `.example.org`.
fn name_matches(pattern: &str, host: &ServerName<'_>) -> bool {
    match host {
        ServerName::IpAddress(address) => {
            pattern.parse::<IpAddr>().is_ok_and(|it| it == IpAddr::from(*address))
        }
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            match pattern.strip_prefix("*.") {
                Some(parent) if parent.contains('.') => name
                    .split_once('.')
                    .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(parent)),
                _ => pattern.eq_ignore_ascii_case(name),
            }
        }
        _ => false,
    }
}

/// May a client go without a certificate?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Demand {
    /// One that is shown must be good; none is good too.
    Optional,
    /// There must be one: `verify-ca`, `verify-full`.
    Mandatory,
}

/// Checks clients' certificates.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    demand: Demand,
    trust: Trust,
    webpki: Arc<dyn ClientCertVerifier>,
    signatures: Signatures,
}

impl ClientVerifier {
    pub(super) fn new(
        demand: Demand,
        trust: Trust,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let webpki =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&trust.roots), Arc::clone(provider))
                .build()?;
        let signatures = Signatures(provider.signature_verification_algorithms);
        Ok(Self { demand, trust, webpki, signatures })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == Demand::Mandatory
    }

    /// None: who trusts us is nobody else's business, and the list costs bytes in every handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.trust.is_legacy(end_entity)? {
            legacy::check_issuer(end_entity, &self.trust.anchors, &self.signatures.0, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        self.webpki.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.0.supported_schemes()
    }
}

/// What OpenSSL says for it, because that is what people search their logs for.
pub(in crate::net) fn in_openssls_words(error: &Error) -> String {
    use rustls::AlertDescription as Alert;
    match error {
        Error::InvalidCertificate(problem) => {
            let reason = match problem {
                CertificateError::UnknownIssuer => "unable to get local issuer certificate".to_owned(),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "certificate has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "certificate is not yet valid".to_owned()
                }
                CertificateError::NotValidForNameContext { expected, .. } => {
                    format!("name `{}' not present in server certificate", expected.to_str())
                }
                CertificateError::BadSignature => "certificate signature failure".to_owned(),
                other => other.to_string(),
            };
            format!("certificate verify failed: {reason}")
        }
        Error::NoCertificatesPresented => "peer did not return a certificate".to_owned(),
        Error::AlertReceived(Alert::UnknownCA) => "tlsv1 alert unknown ca".to_owned(),
        Error::AlertReceived(Alert::CertificateRequired) => "tlsv13 alert certificate required".to_owned(),
        Error::AlertReceived(Alert::HandshakeFailure) => "sslv3 alert handshake failure".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_may_hold_one_star_for_one_label() {
        for (pattern, host, fits) in [
            ("localhost", "localhost", true),
            ("LOCALHOST", "localhost", true),
            ("db.example.org", "www.example.org", false),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "a.db.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("localhost", "127.0.0.1", false),
        ] {
            let name = ServerName::try_from(host).unwrap();
            assert_eq!(name_matches(pattern, &name), fits, "{pattern} {host}");
        }
    }
}
