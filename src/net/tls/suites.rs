//! Protocol versions, cipher suites and curves: from OpenSSL's words in the settings to rustls's values, and back.
//!
//! What rustls does not have (TLS 1.0 and 1.1, suites without forward secrecy, finite-field Diffie-Hellman) can't
//! be asked for; a list that also holds something it has is taken with that.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::TlsError;

/// What one side may negotiate.
#[derive(Debug)]
pub(super) struct Choices {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// What was asked for and is not there.
    pub(super) notes: Vec<String>,
}

/// The settings of one side, by name and value.
pub(super) struct Wishes<'a> {
    pub(super) protocols: (&'static str, &'a str),
    pub(super) ciphers: (&'static str, &'a str),
    pub(super) suites13: (&'static str, &'a str),
    pub(super) curves: (&'static str, &'a str),
}

impl Choices {
    pub(super) fn of(wishes: &Wishes<'_>) -> Result<Self, TlsError> {
        let mut notes = Vec::new();
        let mut provider = aws_lc_rs::default_provider();
        let versions = versions(wishes.protocols, &mut notes)?;
        let mut suites = suites13(wishes.suites13, &provider.cipher_suites)?;
        suites.extend(suites12(wishes.ciphers, &provider.cipher_suites, &mut notes)?);
        provider.cipher_suites = suites;
        if let Some(groups) = curves(wishes.curves, &mut notes)? {
            provider.kx_groups = groups;
        }
        Ok(Self { provider: Arc::new(provider), versions, notes })
    }
}

/// Reads `*_tls_protocols` as libtls's `tls_config_parse_protocols` does: a list of versions, `all`, `secure`,
/// `default`, where a leading `!` takes a version away.
fn versions(
    (setting, value): (&'static str, &str),
    notes: &mut Vec<String>,
) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    const OLD: u8 = 1;
    const TLS12: u8 = 2;
    const TLS13: u8 = 4;
    let mut chosen = 0;
    for (index, word) in words(value).enumerate() {
        let (negated, name) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
        let bits = match name.to_ascii_lowercase().as_str() {
            "all" | "legacy" | "tlsv1" => OLD | TLS12 | TLS13,
            "secure" | "default" => TLS12 | TLS13,
            "tlsv1.0" | "tlsv1.1" => OLD,
            "tlsv1.2" => TLS12,
            "tlsv1.3" => TLS13,
            _ => return Err(TlsError::Value { setting, value: value.to_owned() }),
        };
        if negated {
            let all = OLD | TLS12 | TLS13;
            chosen = (if index == 0 { all } else { chosen }) & !bits;
        } else {
            if bits == OLD {
                notes.push(format!("{setting}: \"{word}\" has no effect: TLS is 1.2 or 1.3 here"));
            }
            chosen |= bits;
        }
    }
    Ok(match chosen & (TLS12 | TLS13) {
        TLS13 => vec![&version::TLS13],
        TLS12 => vec![&version::TLS12],
        // Only versions that are too old for rustls: the oldest that it has.
        0 if chosen == OLD => vec![&version::TLS12],
        0 if !value.trim().is_empty() => return Err(TlsError::Value { setting, value: value.to_owned() }),
        _ => vec![&version::TLS13, &version::TLS12],
    })
}

fn suites13(
    (setting, value): (&'static str, &str),
    all: &[SupportedCipherSuite],
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    if value.trim().is_empty() {
        return Ok(all.iter().copied().filter(|it| it.tls13().is_some()).collect());
    }
    words(value)
        .map(|name| {
            let found = all.iter().find(|it| it.tls13().is_some() && cipher_name(Some(it.suite())) == name);
            found.copied().ok_or_else(|| TlsError::Suites13 { setting, name: name.to_owned() })
        })
        .collect()
}

/// Reads an OpenSSL cipher list as far as it can mean anything here: names add a suite, keywords add all, `!` and `-`
/// take suites away whose names hold the word.
fn suites12(
    (setting, value): (&'static str, &str),
    all: &[SupportedCipherSuite],
    notes: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let all: Vec<_> = all.iter().copied().filter(|it| it.tls13().is_none()).collect();
    let name_of = |suite: &SupportedCipherSuite| cipher_name(Some(suite.suite()));
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    for word in words(value) {
        if let Some(word) = word.strip_prefix(['!', '-']) {
            let parts = openssl_parts(word);
            chosen.retain(|suite| !parts.iter().all(|part| name_of(suite).contains(part)));
            continue;
        }
        let parts = openssl_parts(word);
        let before = chosen.len();
        let fitting: Vec<_> = match word.trim_start_matches('+') {
            word if word.starts_with('@') => continue,
            "default" | "secure" | "normal" | "fast" | "all" | "DEFAULT" | "ALL" | "HIGH" => all.clone(),
            word => {
                let exact: Vec<_> = all.iter().copied().filter(|suite| name_of(suite) == word).collect();
                if exact.is_empty() && !parts.is_empty() {
                    all.iter()
                        .copied()
                        .filter(|it| parts.iter().all(|part| name_of(it).contains(part)))
                        .collect()
                } else {
                    exact
                }
            }
        };
        let is_new = |suite: &SupportedCipherSuite| chosen.iter().all(|it| it.suite() != suite.suite());
        let new: Vec<_> = fitting.iter().copied().filter(is_new).collect();
        chosen.extend(new);
        if fitting.is_empty() && chosen.len() == before {
            notes.push(format!("{setting}: \"{word}\" does not exist here and is left out"));
        }
    }
    if chosen.is_empty() && !value.trim().is_empty() {
        return Err(TlsError::NoCiphers { setting, value: value.to_owned() });
    }
    Ok(if chosen.is_empty() { all } else { chosen })
}

/// The parts of a suite's name that an OpenSSL word such as `ECDHE+AESGCM` asks for; empty where it asks for nothing
/// that exists.
fn openssl_parts(word: &str) -> Vec<&str> {
    let part = |word| match word {
        "EECDH" | "kEECDH" | "kECDHE" => Some("ECDHE"),
        "AESGCM" => Some("GCM"),
        "aECDSA" => Some("ECDSA"),
        "aRSA" => Some("RSA"),
        "AES" => Some("AES"),
        "HIGH" => Some(""),
        "ECDHE" | "ECDSA" | "RSA" | "AES128" | "AES256" | "CHACHA20" | "SHA256" | "SHA384" => Some(word),
        _ => None,
    };
    word.split('+').map(part).collect::<Option<Vec<_>>>().unwrap_or_else(|| vec![word])
}

/// Curves that there are here, by OpenSSL's names and the standard's.
const CURVES: [(&[&str], &dyn SupportedKxGroup); 4] = [
    (&["prime256v1", "secp256r1", "p-256"], kx_group::SECP256R1),
    (&["secp384r1", "p-384"], kx_group::SECP384R1),
    (&["x25519"], kx_group::X25519),
    (&["x25519mlkem768"], kx_group::X25519MLKEM768),
];

/// `None`: rustls's own choice, the hybrid with ML-KEM first.
fn curves(
    (setting, value): (&'static str, &str),
    notes: &mut Vec<String>,
) -> Result<Option<Vec<&'static dyn SupportedKxGroup>>, TlsError> {
    if matches!(value.trim().to_ascii_lowercase().as_str(), "" | "auto" | "none") {
        return Ok(None);
    }
    let mut chosen = Vec::new();
    for word in words(value) {
        let name = word.to_ascii_lowercase();
        match CURVES.iter().find(|(names, _)| names.contains(&name.as_str())) {
            Some((_, curve)) => chosen.push(*curve),
            None => notes.push(format!("{setting}: \"{word}\" does not exist here and is left out")),
        }
    }
    if chosen.is_empty() {
        let known: Vec<_> = CURVES.iter().filter_map(|(names, _)| names.first().copied()).collect();
        return Err(TlsError::Value { setting, value: format!("{value} (here: {})", known.join(", ")) });
    }
    Ok(Some(chosen))
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ':', ' ', '\t']).filter(|word| !word.is_empty())
}

/// OpenSSL's name of a suite, which SHOW and the logs print.
pub(in crate::net) fn cipher_name(suite: Option<CipherSuite>) -> &'static str {
    match suite {
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => "ECDHE-RSA-AES256-GCM-SHA384",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => "ECDHE-RSA-AES128-GCM-SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}

/// OpenSSL's name of a protocol version.
pub(in crate::net) fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ciphers: &str) -> Result<Vec<&'static str>, TlsError> {
        let all = aws_lc_rs::default_provider().cipher_suites;
        let suites = suites12(("client_tls_ciphers", ciphers), &all, &mut Vec::new())?;
        Ok(suites.iter().map(|it| cipher_name(Some(it.suite()))).collect())
    }

    #[test]
    fn protocol_lists_are_read_as_openssl_users_write_them() {
        for (value, expected) in [
            ("secure", Some(2)),
            ("all", Some(2)),
            ("", Some(2)),
            ("tlsv1.3", Some(1)),
            ("tlsv1.0", Some(1)),
            ("tlsv1.0,tlsv1.1,tlsv1.2", Some(1)),
            ("all,!tlsv1.2", Some(1)),
            ("!tlsv1.3", Some(1)),
            ("tlsv1.2:tlsv1.3", Some(2)),
            ("sslv3", None),
            ("tlsv1.3,!tlsv1.3", None),
        ] {
            let mut notes = Vec::new();
            let count = versions(("client_tls_protocols", value), &mut notes).ok().map(|it| it.len());
            assert_eq!(count, expected, "{value}");
            assert_eq!(notes.len(), value.matches("tlsv1.0").count() + value.matches("tlsv1.1").count());
        }
    }

    #[test]
    fn cipher_lists_keep_what_exists() {
        for (value, count) in [
            ("default", 6),
            ("fast", 6),
            ("", 6),
            ("HIGH:!aNULL:!MD5", 6),
            ("HIGH:MEDIUM:+3DES:!aNULL", 6),
            ("ECDHE-RSA-AES256-GCM-SHA384", 1),
            ("ECDHE-RSA-AES256-GCM-SHA384:AES256-SHA", 1),
            ("EECDH+AESGCM", 4),
            ("HIGH:!CHACHA20", 4),
            ("ECDHE+ECDSA", 3),
        ] {
            assert_eq!(names(value).map(|it| it.len()).ok(), Some(count), "{value}");
        }
        assert!(names("AES256-SHA").is_err());
    }

    #[test]
    fn an_unknown_tls13_suite_is_an_error_in_openssls_words() {
        let all = aws_lc_rs::default_provider().cipher_suites;
        let error = suites13(("client_tls13_ciphers", "unknown"), &all).expect_err("no such suite");
        assert!(error.to_string().contains("failed to set the TLSv1.3 cipher suites"), "{error}");
        let one = suites13(("client_tls13_ciphers", "TLS_CHACHA20_POLY1305_SHA256"), &all);
        assert_eq!(one.map(|it| it.len()).ok(), Some(1));
    }

    #[test]
    fn curves_have_openssls_names() {
        let mut notes = Vec::new();
        assert!(curves(("client_tls_ecdhcurve", "auto"), &mut notes).is_ok_and(|it| it.is_none()));
        assert!(
            curves(("client_tls_ecdhcurve", "prime256v1"), &mut notes)
                .is_ok_and(|it| it.is_some_and(|it| it.len() == 1))
        );
        assert!(notes.is_empty());
        let some = curves(("client_tls_ecdhcurve", "secp521r1:P-384"), &mut notes);
        assert!(some.is_ok_and(|it| it.is_some_and(|it| it.len() == 1)));
        assert_eq!(notes, ["client_tls_ecdhcurve: \"secp521r1\" does not exist here and is left out"]);
        let none = curves(("client_tls_ecdhcurve", "brainpool"), &mut notes).err().map(|it| it.to_string());
        let text =
            "invalid client_tls_ecdhcurve: brainpool (here: prime256v1, secp384r1, x25519, x25519mlkem768)";
        assert_eq!(none.as_deref(), Some(text));
    }
}
