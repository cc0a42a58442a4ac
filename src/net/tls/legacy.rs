//! Certificates that webpki refuses although OpenSSL, and with it libpq and PgBouncer, takes them: those of X.509
//! version 1, which `openssl x509 -req` and `openssl ca` make unless told otherwise (PostgreSQL's own manual shows
//! it so), and a self-signed certificate that is itself the one in the CA file.
//!
//! The rule here is narrow: the certificate stands in the CA file byte for byte, or it was signed directly by a
//! certificate that stands there. No intermediate certificates, no extensions.

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, Error, PeerMisbehaved};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls::{client::danger::HandshakeSignatureValid, crypto::WebPkiSupportedAlgorithms};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};
use x509_parser::x509::SubjectPublicKeyInfo;

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// True for a certificate of X.509 version 1.
pub(super) fn is_version_1(certificate: &X509Certificate<'_>) -> bool {
    certificate.version() != X509Version::V3
}

/// Checks that `der` is trusted by the rule of this module, at this time.
pub(super) fn check_issuer(
    der: &CertificateDer<'_>,
    anchors: &[CertificateDer<'_>],
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> Result<(), Error> {
    let certificate = parse(der)?;
    check_time(&certificate, now)?;
    if anchors.contains(der) {
        return Ok(());
    }
    for anchor in anchors {
        let Ok(issuer) = parse(anchor) else { continue };
        if issuer.subject().as_raw() != certificate.issuer().as_raw() || !may_sign(&issuer) {
            continue;
        }
        if is_signed_by(&certificate, issuer.public_key(), algorithms) {
            return check_time(&issuer, now);
        }
    }
    Err(CertificateError::UnknownIssuer.into())
}

fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    is_version_1(issuer) || issuer.is_ca()
}

fn check_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).ok().and_then(|it| ASN1Time::from_timestamp(it).ok());
    let Some(now) = now else { return Err(Error::FailedToGetCurrentTime) };
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// All algorithms whose identifier begins with the certificate's signature OID are tried: they differ in parameters
/// only, and each of them alone is a proof.
fn is_signed_by(
    certificate: &X509Certificate<'_>,
    issuer: &SubjectPublicKeyInfo<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let oid = certificate.signature_algorithm.algorithm.as_bytes();
    let message = certificate.tbs_certificate.as_ref();
    let signature = &certificate.signature_value.data;
    algorithms.all.iter().any(|algorithm| {
        let id = algorithm.signature_alg_id();
        // The identifier is DER: tag 6 (OBJECT IDENTIFIER), length, the OID.
        id.get(2..2 + oid.len()) == Some(oid)
            && id.first() == Some(&6)
            && id.get(1).copied().map(usize::from) == Some(oid.len())
            && key_fits(*algorithm, issuer)
            && algorithm.verify_signature(&issuer.subject_public_key.data, message, signature).is_ok()
    })
}

/// True if a key of this kind (RSA, a curve) is what the algorithm verifies with.
fn key_fits(algorithm: &dyn SignatureVerificationAlgorithm, key: &SubjectPublicKeyInfo<'_>) -> bool {
    let rebuilt =
        rustls::sign::public_key_to_spki(&algorithm.public_key_alg_id(), &key.subject_public_key.data);
    *rebuilt == *key.raw
}

/// Checks the handshake's signature in TLS 1.2, where the scheme does not name the curve.
pub(super) fn verify_tls12_signature(
    message: &[u8],
    der: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(der)?;
    let key = certificate.public_key();
    let valid = of_scheme(algorithms, signed.scheme)?.iter().any(|algorithm| {
        key_fits(*algorithm, key)
            && algorithm.verify_signature(&key.subject_public_key.data, message, signed.signature()).is_ok()
    });
    if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}

fn of_scheme(
    algorithms: &WebPkiSupportedAlgorithms,
    scheme: SignatureScheme,
) -> Result<&'static [&'static dyn SignatureVerificationAlgorithm], Error> {
    let found = algorithms.mapping.iter().find(|(it, _)| *it == scheme);
    found.map(|(_, of)| *of).ok_or_else(|| PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

/// Checks the handshake's signature in TLS 1.3.
pub(super) fn verify_tls13_signature(
    message: &[u8],
    der: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(der)?;
    let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}
