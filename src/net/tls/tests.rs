//! TLS in every mode, seen from both ends.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::SslMode;
use crate::net::{HandshakeError, Handshakes, Stream};

/// A certificate authority of a test, and a directory for what it signs.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut params = named(&dir.path().to_string_lossy());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `<name>.pem` and `<name>-key.pem`.
    pub(crate) fn sign(&self, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

pub(crate) fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

pub(crate) fn for_hosts(hosts: &[&str]) -> CertificateParams {
    CertificateParams::new(hosts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn is_for(certificate: &PeerCertificate, name: &str) -> bool {
    certificate.common_name.iter().chain(&certificate.dns_names).any(|it| it == name)
}

/// What a handshake came to, seen from both ends.
struct Met {
    client: Result<Stream, HandshakeError>,
    server: Result<Stream, HandshakeError>,
}

/// Lets our two sides meet over a socket pair: `accepting` has `client_tls_*`, `connecting` has `server_tls_*`.
async fn meet(accepting: &Settings, connecting: &Settings, host: &str) -> Met {
    let (near, far) = Stream::pair().unwrap();
    let accepting = ClientSide::of(accepting).unwrap();
    let connecting = ServerSide::of(connecting).unwrap();
    let (server, client) = tokio::join!(accepting.accept(near), connecting.connect(far, host));
    // In TLS 1.3 a client hears only afterwards that its certificate was refused.
    let client = match client {
        Ok(mut stream) if server.is_err() => match stream.read_u8().await {
            Err(error) => Err(HandshakeError::from(error)),
            Ok(_) => Ok(stream),
        },
        client => client,
    };
    Met { client, server }
}

fn disabled() -> Settings {
    Settings {
        client_tls_sslmode: SslMode::Disable,
        server_tls_sslmode: SslMode::Disable,
        ..Settings::default()
    }
}

fn accepting(mode: SslMode, authority: &Authority, name: &str) -> Settings {
    Settings {
        client_tls_sslmode: mode,
        client_tls_cert_file: Some(authority.path(&format!("{name}.pem"))),
        client_tls_key_file: Some(authority.path(&format!("{name}-key.pem"))),
        ..disabled()
    }
}

fn connecting(mode: SslMode, ca: Option<PathBuf>) -> Settings {
    Settings { server_tls_sslmode: mode, server_tls_ca_file: ca, ..disabled() }
}

fn with_certificate(settings: Settings, authority: &Authority, name: &str) -> Settings {
    Settings {
        server_tls_cert_file: Some(authority.path(&format!("{name}.pem"))),
        server_tls_key_file: Some(authority.path(&format!("{name}-key.pem"))),
        ..settings
    }
}

const VERIFY: [SslMode; 2] = [SslMode::VerifyCa, SslMode::VerifyFull];
const TRUSTING: [SslMode; 3] = [SslMode::Allow, SslMode::Prefer, SslMode::Require];

#[tokio::test]
async fn servers_are_checked_as_far_as_the_mode_says() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost", "127.0.0.1"]));
    let stranger = Authority::new();
    let server = accepting(SslMode::Require, &authority, "server");
    for mode in TRUSTING {
        let met = meet(&server, &connecting(mode, Some(stranger.path("ca.pem"))), "elsewhere").await;
        assert!(met.client.is_ok(), "{mode:?}: any certificate is good: {:?}", met.client);
    }
    for mode in VERIFY {
        for host in ["localhost", "127.0.0.1"] {
            let met = meet(&server, &connecting(mode, Some(authority.path("ca.pem"))), host).await;
            assert!(met.client.is_ok(), "{mode:?} {host}: {:?}", met.client);
        }
        let met = meet(&server, &connecting(mode, Some(stranger.path("ca.pem"))), "localhost").await;
        let error = met.client.expect_err("the issuer is unknown").to_string();
        assert!(error.contains("certificate verify failed"), "{mode:?}: {error}");
        let error = met.server.expect_err("the other side went away").to_string();
        assert!(error.contains("unknown ca"), "{mode:?}: {error}");
    }
    let elsewhere = |mode| connecting(mode, Some(authority.path("ca.pem")));
    assert!(meet(&server, &elsewhere(SslMode::VerifyCa), "elsewhere").await.client.is_ok());
    let error =
        meet(&server, &elsewhere(SslMode::VerifyFull), "elsewhere").await.client.unwrap_err().to_string();
    assert!(error.contains("name `elsewhere' not present"), "{error}");
}

#[tokio::test]
async fn clients_are_checked_as_far_as_the_mode_says() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    authority.sign("client", named("bouncer"));
    let stranger = Authority::new();
    stranger.sign("client", named("bouncer"));
    let modes = [SslMode::Allow, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];
    for mode in modes {
        let server = Settings {
            client_tls_ca_file: Some(authority.path("ca.pem")),
            ..accepting(mode, &authority, "server")
        };
        let bare = connecting(SslMode::Require, None);
        let met = meet(&server, &bare, "localhost").await;
        assert_eq!(met.server.is_ok(), !VERIFY.contains(&mode), "{mode:?} without a certificate");

        let met = meet(&server, &with_certificate(bare.clone(), &authority, "client"), "localhost").await;
        let info = met.server.unwrap().tls_info().unwrap();
        assert!(info.peer_certificate.is_some_and(|it| is_for(&it, "bouncer")), "{mode:?}");

        let met = meet(&server, &with_certificate(bare, &stranger, "client"), "localhost").await;
        let error = met.server.expect_err("its issuer is unknown").to_string();
        assert!(error.contains("certificate verify failed"), "{mode:?}: {error}");
        assert!(met.client.is_err());
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_can_check_is_not_asked_for() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    authority.sign("client", named("bouncer"));
    let server = accepting(SslMode::Require, &authority, "server");
    let client = with_certificate(connecting(SslMode::Require, None), &authority, "client");
    let info = meet(&server, &client, "localhost").await.server.unwrap().tls_info().unwrap();
    assert_eq!(info.peer_certificate, None);
}

#[tokio::test]
async fn both_protocol_versions_report_openssls_names() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let server = accepting(SslMode::Require, &authority, "server");
    for (protocols, suites13, ciphers, expected) in [
        ("tlsv1.3", "", "default", "TLSv1.3/TLS_AES_256_GCM_SHA384"),
        ("secure", "TLS_CHACHA20_POLY1305_SHA256", "default", "TLSv1.3/TLS_CHACHA20_POLY1305_SHA256"),
        ("tlsv1.2", "", "default", "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("tlsv1.2", "", "ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2/ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let server = Settings {
            client_tls_protocols: protocols.to_owned(),
            client_tls13_ciphers: Some(suites13.to_owned()),
            client_tls_ciphers: ciphers.to_owned(),
            ..server.clone()
        };
        let met = meet(&server, &connecting(SslMode::Require, None), "localhost").await;
        let info = met.server.unwrap().tls_info().unwrap();
        assert_eq!(info.to_string(), expected);
        assert!(info.alpn);
        assert_eq!(met.client.unwrap().tls_info().unwrap().to_string(), expected);
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net/tls/tests").join(name)
}

/// As `openssl x509 -req` makes them from a bare request, and as in PgBouncer's own test suite: X.509 version 1, the
/// host only in the CN.
#[tokio::test]
async fn certificates_of_x509_version_1_work_on_both_sides() {
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        let server = Settings {
            client_tls_sslmode: SslMode::VerifyFull,
            client_tls_protocols: protocols.to_owned(),
            client_tls_ca_file: Some(fixture("v1-ca.pem")),
            client_tls_cert_file: Some(fixture("v1-localhost.pem")),
            client_tls_key_file: Some(fixture("v1-localhost-key.pem")),
            ..disabled()
        };
        let client = |mode, ca| Settings {
            server_tls_cert_file: Some(fixture("v1-localhost.pem")),
            server_tls_key_file: Some(fixture("v1-localhost-key.pem")),
            ..connecting(mode, Some(ca))
        };
        let full = client(SslMode::VerifyFull, fixture("v1-ca.pem"));
        let met = meet(&server, &full, "localhost").await;
        let info = met.server.unwrap().tls_info().unwrap();
        assert!(info.peer_certificate.is_some_and(|it| is_for(&it, "localhost")));
        met.client.unwrap();
        assert!(meet(&server, &full, "elsewhere").await.client.is_err(), "the CN counts");
        let stranger = Authority::new();
        let met = meet(&server, &client(SslMode::VerifyCa, stranger.path("ca.pem")), "localhost").await;
        assert!(met.client.unwrap_err().to_string().contains("certificate verify failed"));
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_where_it_is_its_own_ca_file() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    // As `openssl req -x509` makes it: a CA's certificate used as a server's.
    let mut params = named("localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(authority.path("own.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(authority.path("own-key.pem"), key.serialize_pem()).unwrap();
    let server = accepting(SslMode::Require, &authority, "own");
    for mode in VERIFY {
        let met = meet(&server, &connecting(mode, Some(authority.path("own.pem"))), "localhost").await;
        met.client.unwrap();
        let met = meet(&server, &connecting(mode, Some(authority.path("ca.pem"))), "localhost").await;
        assert!(met.client.is_err(), "{mode:?}: another CA does not vouch for it");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_name_of_its_fault() {
    let authority = Authority::new();
    let mut params = for_hosts(&["localhost"]);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    authority.sign("server", params);
    let server = accepting(SslMode::Require, &authority, "server");
    let met =
        meet(&server, &connecting(SslMode::VerifyCa, Some(authority.path("ca.pem"))), "localhost").await;
    let error = met.client.unwrap_err().to_string();
    assert!(error.contains("certificate verify failed: certificate has expired"), "{error}");
}

#[test]
fn faults_of_settings_and_files_are_named() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    authority.sign("other", for_hosts(&["localhost"]));
    std::fs::write(authority.path("empty.pem"), "nothing").unwrap();
    let good = accepting(SslMode::Require, &authority, "server");
    let missing = Some(authority.path("missing.pem"));
    for (name, settings, text) in [
        ("no certificate", Settings { client_tls_cert_file: None, ..good.clone() }, "must be set"),
        (
            "no file",
            Settings { client_tls_cert_file: missing.clone(), ..good.clone() },
            "No such file or directory",
        ),
        (
            "no key in the file",
            Settings { client_tls_key_file: Some(authority.path("empty.pem")), ..good.clone() },
            "no private key",
        ),
        (
            "another's key",
            Settings { client_tls_key_file: Some(authority.path("other-key.pem")), ..good.clone() },
            "key values mismatch",
        ),
        (
            "no CA file",
            Settings { client_tls_sslmode: SslMode::VerifyFull, ..good.clone() },
            "client_tls_sslmode requires client_tls_ca_file",
        ),
        (
            "unknown suite",
            Settings { client_tls13_ciphers: Some("unknown".into()), ..good.clone() },
            "failed to set the TLSv1.3 cipher suites",
        ),
        (
            "no server CA",
            Settings { server_tls_sslmode: SslMode::VerifyCa, server_tls_ca_file: missing, ..disabled() },
            "invalid server_tls_ca_file",
        ),
        (
            "half a client certificate",
            Settings {
                server_tls_sslmode: SslMode::Require,
                server_tls_cert_file: Some(authority.path("server.pem")),
                ..disabled()
            },
            "server_tls_cert_file requires server_tls_key_file",
        ),
    ] {
        let error = Tls::of(&settings).expect_err(name).to_string();
        assert!(error.contains(text), "{name}: {error}");
    }
    let tls = Tls::of(&good).unwrap();
    assert!(tls.clients.certificate_expires().is_some_and(|it| it > std::time::SystemTime::now()));
    assert!(tls.clients.is_required() && tls.clients.is_offered() && !tls.servers.is_wanted());
}

/// Runs a future on a thread and a runtime of its own.
fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    })
    .join()
    .unwrap()
}

async fn echo(mut stream: Stream, count: usize) -> Stream {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// One end moves to another runtime in the middle of a conversation, with bytes on the way and inside it.
async fn moves_mid_conversation(mut stays: Stream, moves: Stream) {
    stays.write_all(b"first").await.unwrap();
    stays.flush().await.unwrap();
    let mut moves = echo(moves, 2).await;
    moves.readable().await;
    let detached = moves.detach().unwrap();
    let away = tokio::task::spawn_blocking(move || {
        elsewhere(async { echo(detached.attach().unwrap(), 6).await.detach().unwrap() })
    });
    stays.write_all(b"two").await.unwrap();
    stays.flush().await.unwrap();
    let mut heard = [0; 8];
    stays.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"firsttwo");
    let back = away.await.unwrap().attach().unwrap();
    drop(back);
    stays.readable().await;
    assert!(!matches!(stays.read(&mut heard).await, Ok(1..)), "the end arrives");
}

#[tokio::test]
async fn a_plain_stream_can_move_to_another_runtime() {
    let (one, other) = Stream::pair().unwrap();
    moves_mid_conversation(one, other).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let plain = |socket| Stream::plain(crate::net::socket::Socket::Tcp(socket));
    moves_mid_conversation(plain(dialled.unwrap()), plain(accepted.unwrap().0)).await;
}

#[tokio::test]
async fn a_tls_stream_can_move_to_another_runtime() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let server = accepting(SslMode::Require, &authority, "server");
    let client = connecting(SslMode::Require, None);
    let met = meet(&server, &client, "localhost").await;
    moves_mid_conversation(met.client.unwrap(), met.server.unwrap()).await;
    let met = meet(&server, &client, "localhost").await;
    moves_mid_conversation(met.server.unwrap(), met.client.unwrap()).await;
}

#[tokio::test]
async fn handshakes_run_on_their_own_threads_and_the_streams_come_back() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let settings = Settings {
        server_tls_sslmode: SslMode::VerifyFull,
        server_tls_ca_file: Some(authority.path("ca.pem")),
        ..accepting(SslMode::Require, &authority, "server")
    };
    let tls = Arc::new(Tls::of(&settings).unwrap());
    let threads = Handshakes::start(2).unwrap();
    let (near, far) = Stream::pair().unwrap();
    let (server, client) = tokio::join!(
        threads.accept(near, &[], Arc::clone(&tls)),
        threads.connect(far, Arc::clone(&tls), "localhost")
    );
    let (mut client, server) = (client.unwrap(), server.unwrap());
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    echo(server, 5).await;
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    assert_eq!(threads.compute(|| 6 * 7).await, Some(42));
}

#[tokio::test]
async fn what_was_received_before_a_handshake_is_its_beginning() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let settings = Settings {
        server_tls_sslmode: SslMode::Require,
        ..accepting(SslMode::Require, &authority, "server")
    };
    let tls = Arc::new(Tls::of(&settings).unwrap());
    let threads = Handshakes::start(1).unwrap();
    for most in [1, 100, 16 * 1024] {
        let (mut near, far) = Stream::pair().unwrap();
        let accepting = async {
            let mut received = vec![0; most];
            let count = near.read(&mut received).await.unwrap();
            threads.accept(near, &received[..count], Arc::clone(&tls)).await
        };
        let (server, client) = tokio::join!(accepting, threads.connect(far, Arc::clone(&tls), "localhost"));
        let mut client = client.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 5];
        server.unwrap().read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello", "{most}");
    }
}

#[tokio::test]
async fn a_client_that_is_silent_in_its_handshake_holds_up_no_other() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let settings = Settings {
        server_tls_sslmode: SslMode::Require,
        ..accepting(SslMode::Require, &authority, "server")
    };
    let tls = Arc::new(Tls::of(&settings).unwrap());
    let threads = Handshakes::start(1).unwrap();
    let (silent, mut stays) = Stream::pair().unwrap();
    let (near, far) = Stream::pair().unwrap();
    let mut waiting = Box::pin(threads.accept(silent, &[], Arc::clone(&tls)));
    let other = async {
        tokio::join!(
            threads.accept(near, &[], Arc::clone(&tls)),
            threads.connect(far, Arc::clone(&tls), "localhost")
        )
    };
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it said nothing"),
        (server, client) = other => assert!(server.is_ok() && client.is_ok()),
    }
    // Giving up closes the connection, although the handshake ran elsewhere.
    drop(waiting);
    assert!(!matches!(stays.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn an_idle_stream_is_readable_only_when_there_is_something_to_read() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let met = meet(
        &accepting(SslMode::Require, &authority, "server"),
        &connecting(SslMode::Require, None),
        "localhost",
    )
    .await;
    let plain = Stream::pair().unwrap();
    for (mut watched, mut other) in [plain, (met.client.unwrap(), met.server.unwrap())] {
        // The session ticket of TLS 1.3 has arrived by now, and is not data.
        tokio::task::yield_now().await;
        assert!(is_silent(&mut watched).await);
        other.write_all(b"notice").await.unwrap();
        other.flush().await.unwrap();
        watched.readable().await;
        let mut buffer = Vec::with_capacity(6);
        let count = watched.read_buf(&mut buffer).await.unwrap();
        assert_eq!((count, &buffer[..]), (6, &b"notice"[..]));
        assert!(is_silent(&mut watched).await, "a read that fills its buffer leaves no false alarm");
        drop(other);
        watched.readable().await;
    }
}

#[test]
fn over_a_ring_nothing_is_received_from_a_server_that_has_answered() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let (done, ended) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async move {
        let accepting = accepting(SslMode::Require, &authority, "server");
        let met = meet(&accepting, &connecting(SslMode::Require, None), "localhost").await;
        let (mut ours, mut theirs) =
            (met.client.unwrap().detach().unwrap().attach().unwrap(), met.server.unwrap());
        ours.begin_conversation();
        let mut buffer = [0; 16 * 1024];
        for turn in ["first", "again"] {
            ours.write_all(turn.as_bytes()).await.unwrap();
            ours.flush().await.unwrap();
            theirs.read_exact(&mut buffer[..turn.len()]).await.unwrap();
            theirs.write_all(b"answer").await.unwrap();
            theirs.flush().await.unwrap();
            assert_eq!(ours.read(&mut buffer).await.unwrap(), 6, "{turn}");
        }
        theirs.write_all(b"notice").await.unwrap();
        theirs.flush().await.unwrap();
        for _ in 0..10 {
            // The ring is entered each time.
            tokio::task::yield_now().await;
        }
        assert_eq!(ours.ahead(), 0, "it can rest as it is");
        ours.readable().await;
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 6);
        done.send(()).unwrap();
    };
    crate::net::ring::Ring::new().expect("this kernel has rings").block_on(&runtime, test).unwrap();
    ended.try_recv().expect("the test has come to its end");
}

async fn is_silent(stream: &mut Stream) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(stream.poll_readable(cx).is_pending())).await
}
