//! Certificates for the tests, made anew by each process: one authority, a server, clients, and a stranger's authority.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A certificate and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Everything that TLS tests present to each other.
pub struct Certificates {
    /// The authority's certificate, as PEM.
    pub authority: String,
    /// For `localhost` and 127.0.0.1.
    pub server: Pair,
    /// Another for the same names, as after a renewal.
    pub renewed: Pair,
    /// For `elsewhere.example`: a known issuer, but the wrong name.
    pub elsewhere: Pair,
    /// Of the user `cert_user`.
    pub client: Pair,
    /// An authority that nobody here trusts.
    pub stranger_authority: String,
    /// Says it is `cert_user`, by the stranger's authority.
    pub stranger: Pair,
}

impl Certificates {
    /// The ones of this process.
    pub fn get() -> &'static Self {
        static MADE: OnceLock<Certificates> = OnceLock::new();
        MADE.get_or_init(|| {
            let (authority, issuer) = authority("pgweir tests");
            let (stranger_authority, stranger_issuer) = authority_of_stranger();
            Self {
                authority,
                server: server(&issuer, &["localhost", "127.0.0.1"]),
                renewed: server(&issuer, &["localhost", "127.0.0.1"]),
                elsewhere: server(&issuer, &["elsewhere.example"]),
                client: client(&issuer, "cert_user"),
                stranger_authority,
                stranger: client(&stranger_issuer, "cert_user"),
            }
        })
    }
}

/// What a client needs for TLS with a server that has a certificate of our authority; `own` is what it shows itself.
pub fn client_config(own: Option<&Pair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = Certificates::get().authority.as_bytes();
    roots.add(CertificateDer::from_pem_slice(authority).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has the versions").with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("certificate and key belong together")
        }
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Arc::new(config)
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names to go wrong");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("keys can be made");
    let certificate = params.self_signed(&key).expect("the authority signs itself");
    (certificate.pem(), Issuer::new(params, key))
}

fn authority_of_stranger() -> (String, Issuer<'static, KeyPair>) {
    authority("somebody else")
}

fn server(issuer: &Issuer<'static, KeyPair>, names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names are valid");
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    sign(params, issuer)
}

fn client(issuer: &Issuer<'static, KeyPair>, user: &str) -> Pair {
    let mut params = CertificateParams::new(Vec::new()).expect("no names to go wrong");
    params.distinguished_name.push(DnType::CommonName, user);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    sign(params, issuer)
}

/// A server's certificate whose time is over.
pub fn expired() -> Pair {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("the name is valid");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().expect("keys can be made");
    let certificate = params.self_signed(&key).expect("it signs itself");
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn sign(params: CertificateParams, issuer: &Issuer<'static, KeyPair>) -> Pair {
    let key = KeyPair::generate().expect("keys can be made");
    let certificate = params.signed_by(&key, issuer).expect("the authority signs");
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}
