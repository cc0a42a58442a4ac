//! TLS towards LDAP servers, as the machine's own `ldap.conf` asks for it.
//!
//! PgBouncer leaves it to OpenLDAP's library, which reads that file; so whoever has told the machine whom to believe
//! need not tell it again. Read are `TLS_REQCERT`, `TLS_CACERT` and the variables `LDAPCONF`, `LDAPTLS_REQCERT` and
//! `LDAPTLS_CACERT` (ldap.conf(5)). Without them a certificate must be good by the system's roots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::TlsError;
use super::material::Source;
use super::server_side::trust;
use super::suites::{Choices, Wishes};
use super::verify::{ServerCheck, ServerVerifier, Trust};

/// Where distributions have it: Debian, then the others, then what is built from source.
const FILES: [&str; 3] =
    ["/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf", "/usr/local/etc/openldap/ldap.conf"];

/// What `ldap.conf` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Options {
    requires_certificate: Option<bool>,
    ca_file: Option<PathBuf>,
}

/// What to offer an LDAP server and to ask of it. Blocks on the file system.
///
/// Errors: a CA file is missing or wrong, or there are no roots at all.
pub fn directory() -> Result<Arc<ClientConfig>, TlsError> {
    let variable = |name: &str| std::env::var(name).ok();
    let text = match variable("LDAPCONF") {
        Some(file) => std::fs::read_to_string(file).ok(),
        None => FILES.iter().find_map(|file| std::fs::read_to_string(file).ok()),
    };
    let mut options = Options::read(&text.unwrap_or_default());
    for (name, key) in [("LDAPTLS_REQCERT", "TLS_REQCERT"), ("LDAPTLS_CACERT", "TLS_CACERT")] {
        if let Some(value) = variable(name) {
            options.set(key, &value);
        }
    }
    let choices = Choices::of(&Wishes {
        protocols: ("ldap.conf", "secure"),
        ciphers: ("ldap.conf", "default"),
        suites13: ("ldap.conf", ""),
        curves: ("ldap.conf", "auto"),
    })?;
    let check = match options.requires_certificate {
        Some(false) => ServerCheck::Anything,
        Some(true) | None => ServerCheck::IssuerAndName(roots(options.ca_file.as_deref())?),
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&choices.provider))
        .with_protocol_versions(&choices.versions)
        .map_err(|source| TlsError::Setup { setting: "ldap.conf", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(check, &choices.provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Options {
    fn read(text: &str) -> Self {
        let mut options = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.trim().split_once(|char: char| char.is_ascii_whitespace()) {
                options.set(key, value.trim());
            }
        }
        options
    }

    fn set(&mut self, key: &str, value: &str) {
        if key.eq_ignore_ascii_case("TLS_REQCERT") {
            // `allow` goes on with a bad certificate too.
            let is_lax = ["never", "allow"].iter().any(|word| value.eq_ignore_ascii_case(word));
            self.requires_certificate = Some(!is_lax);
        } else if key.eq_ignore_ascii_case("TLS_CACERT") {
            self.ca_file = Some(value.into());
        }
    }
}

fn roots(ca_file: Option<&Path>) -> Result<Trust, TlsError> {
    if let Some(path) = ca_file {
        return trust(Source { setting: "TLS_CACERT", path });
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(TlsError::Needs { setting: "TLS with an LDAP server", needs: "TLS_CACERT in ldap.conf" });
    }
    Ok(Trust { roots: Arc::new(roots), anchors: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldap_conf_says_whom_to_believe() {
        let read = |text: &str| {
            let options = Options::read(text);
            (options.requires_certificate, options.ca_file.map(|file| file.display().to_string()))
        };
        for (name, text, expected) in [
            ("nothing", "", (None, None)),
            ("a comment", "#TLS_REQCERT never", (None, None)),
            ("never", "TLS_REQCERT never", (Some(false), None)),
            ("allow", "tls_reqcert\tALLOW", (Some(false), None)),
            ("try", "TLS_REQCERT try\nBASE dc=x", (Some(true), None)),
            ("a file", "URI ldap://a\nTLS_CACERT  /a b/ca.crt \n", (None, Some("/a b/ca.crt".to_owned()))),
        ] {
            assert_eq!(read(text), expected, "{name}");
        }
    }
}
