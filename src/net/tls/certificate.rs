//! What is read out of an X.509 certificate: names for `auth_type = cert`, the end of its time for a metric.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The names that a verified certificate gives its holder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerCertificate {
    /// The subject's first CN.
    pub common_name: Option<String>,
    /// The DNS names of subjectAltName.
    pub dns_names: Vec<String>,
}

impl PeerCertificate {
    /// Reads the names; `None` where the certificate can't be parsed. A name with a zero byte in it is left out: C
    /// programs take such a name for a shorter one.
    pub(in crate::net) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self { common_name: common_name(&certificate), dns_names: dns_names(&certificate) })
    }
}

pub(super) fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let first = certificate.subject().iter_common_name().next()?;
    first.as_str().ok().filter(|name| !name.contains('\0')).map(str::to_owned)
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) if !name.contains('\0') => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}

/// When the certificate ceases to be valid.
pub(super) fn expires(der: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
