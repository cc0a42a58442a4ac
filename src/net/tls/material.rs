//! Certificates and keys, read from the files that the settings name.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;

/// The largest file that is read: far beyond any bundle of root certificates.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A setting that names a file, and the file.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) setting: &'static str,
    pub(super) path: &'a Path,
}

impl Source<'_> {
    fn read(self) -> Result<Vec<u8>, TlsError> {
        let failed = |source| TlsError::File { setting: self.setting, path: self.path.into(), source };
        let size = std::fs::metadata(self.path).map_err(failed)?.len();
        if size > FILE_BYTES_MAX {
            return Err(self.wrong(format!("has {size} bytes, at most {FILE_BYTES_MAX} are read")));
        }
        std::fs::read(self.path).map_err(failed)
    }

    pub(super) fn wrong(self, problem: impl ToString) -> TlsError {
        TlsError::Content { setting: self.setting, path: self.path.into(), problem: problem.to_string() }
    }

    /// All certificates of the file, of which there is at least one.
    pub(super) fn certificates(self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.read()?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        match certificates.map_err(|error| self.wrong(error))? {
            none if none.is_empty() => Err(self.wrong("no certificate in it (PEM, BEGIN CERTIFICATE)")),
            some => Ok(some),
        }
    }

    fn private_key(self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes = zeroize::Zeroizing::new(self.read()?);
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if memchr::memmem::find(&bytes, b"ENCRYPTED PRIVATE KEY").is_some() => {
                self.wrong("the private key is encrypted with a passphrase; store it without one")
            }
            pem::Error::NoItemsFound => self.wrong("no private key in it (PEM, BEGIN PRIVATE KEY)"),
            error => self.wrong(error),
        })
    }
}

/// Reads our own certificate with its chain and its key, and makes sure that they belong together.
///
/// rustls's own check refuses certificates of X.509 version 1, which OpenSSL's tools make unless told otherwise.
pub(super) fn certified_key(
    certificate: Source<'_>,
    key: Source<'_>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificate.certificates()?;
    let private = key.private_key()?;
    let signing = provider.key_provider.load_private_key(private).map_err(|error| key.wrong(error))?;
    let (_, own) = X509Certificate::from_der(&chain[0]).map_err(|error| certificate.wrong(error))?;
    if signing.public_key().is_some_and(|public| *public != *own.public_key().raw) {
        return Err(key.wrong(format!(
            "key values mismatch: this is not the private key of the certificate in {}",
            certificate.path.display()
        )));
    }
    Ok(Arc::new(CertifiedKey::new(chain, signing)))
}
