//! What a connection may begin with, and what it may not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use rcgen::{CertificateParams, KeyPair};

use super::fixture::*;
use crate::client::refusal::Refusal;
use crate::client::{End, login::Lobby};
use crate::config::{AuthType, Config, SslMode};
use crate::net::listen::{Place, bind};
use crate::net::{Dialer, Endpoint, Stream, TcpOptions, Tls};
use crate::wire::CancelKey;
use crate::wire::startup::{encode_cancel_request, encode_ssl_request, encode_startup};

/// The untagged packet with this code and nothing else.
fn request(code: u32) -> BytesMut {
    let mut packet = BytesMut::new();
    packet.put_u32(8);
    packet.put_u32(code);
    packet
}

const GSS: u32 = (1234 << 16) | 5680;
const SSL: u32 = (1234 << 16) | 5679;

fn startup_packet() -> BytesMut {
    let mut packet = BytesMut::new();
    encode_startup(&mut packet, 0, [("user", "plain"), ("database", "d")]);
    packet
}

#[tokio::test]
async fn encryption_that_is_not_offered_is_declined_and_the_client_goes_on() {
    let lobby = lobby(config(AuthType::Trust));
    for requests in [&[SSL][..], &[GSS], &[GSS, SSL], &[SSL, GSS]] {
        let (tags, outcome) = play(&lobby, async |mut client| {
            for code in requests {
                client.send(&request(*code)).await;
                assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut client.stream).await.unwrap(), b'N');
            }
            client.log_in(&[("user", "plain"), ("database", "d")], "").await.asked
        })
        .await;
        assert_eq!(tags, ["ok"]);
        assert!(outcome.is_ok());
    }
}

#[tokio::test]
async fn what_is_no_first_packet_is_turned_away() {
    let lobby = lobby(config(AuthType::Trust));
    let with = |head: BytesMut, tail: &[u8]| [&head[..], tail].concat();
    let mut no_terminator = startup_packet();
    no_terminator.truncate(no_terminator.len() - 1);
    let length = no_terminator.len() as u32;
    no_terminator[..4].copy_from_slice(&length.to_be_bytes());
    let broken = Some("invalid startup packet layout: expected terminator as last byte");
    for (name, bytes, told) in [
        ("protocol 2", request(2 << 16).to_vec(), Some("old V2 protocol not supported")),
        (
            "protocol 4",
            request(4 << 16).to_vec(),
            Some("unsupported frontend protocol 4.0: server supports 3.0 to 3.2"),
        ),
        ("no parameters", with(request(3 << 16), b""), broken),
        ("no terminator", no_terminator.to_vec(), broken),
        (
            "bytes after an SSLRequest",
            with(request(SSL), b"x"),
            Some("received unencrypted data after SSL request"),
        ),
        (
            "bytes after a GSSENCRequest",
            with(request(GSS), &startup_packet()),
            Some("received unencrypted data after GSSAPI encryption request"),
        ),
        ("a length of nothing", vec![0, 0, 0, 0], None),
        ("a length without end", vec![0xff; 40], None),
        ("larger than PostgreSQL takes", [&20_000u32.to_be_bytes()[..], &[0; 100]].concat(), None),
        ("TLS where there is none", vec![0x16, 3, 1, 2, 0, 1, 0, 1], None),
        ("ssh", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), None),
        ("a cancel with a short key", with(request((1234 << 16) | 5678), b""), None),
    ] {
        let (error, outcome) = play(&lobby, async |mut client| {
            client.send(&bytes).await;
            client.error().await
        })
        .await;
        let message = error.map(|report| report.message);
        assert_eq!(message.as_deref(), told, "{name}");
        assert!(outcome.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_request_may_come_once() {
    let lobby = lobby(config(AuthType::Trust));
    for code in [SSL, GSS] {
        let (error, _) = play(&lobby, async |mut client| {
            client.send(&request(code)).await;
            assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut client.stream).await.unwrap(), b'N');
            client.send(&request(code)).await;
            client.error().await
        })
        .await;
        let text = error.unwrap().message;
        assert!(text.starts_with("unsupported frontend protocol 1234."), "{text}");
    }
}

#[tokio::test]
async fn a_web_browser_is_told_in_its_own_words() {
    let lobby = lobby(config(AuthType::Trust));
    let (answer, outcome) = play(&lobby, async |mut client| {
        client.send(b"GET / HTTP/1.1\r\nHost: localhost:6432\r\n\r\n").await;
        client.rest().await
    })
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", answer.escape_ascii());
    assert!(matches!(outcome, Err(End::Http)));
}

#[tokio::test]
async fn who_leaves_early_is_let_go() {
    let lobby = lobby(config(AuthType::Plain));
    let startup = startup_packet();
    let half_password = [&startup[..], b"p\0\0\0\x10half"].concat();
    for (name, bytes, silent) in [
        ("nothing", &b""[..], true),
        ("one byte", b"\0", false),
        ("half a length", b"\0\0", false),
        ("half a startup message", &startup[..20], false),
        ("before the password", &startup, false),
        ("in the password's header", &half_password[..startup.len() + 3], false),
        ("in the password", &half_password, false),
    ] {
        let ((), outcome) = play(&lobby, async |mut client| client.send(bytes).await).await;
        match outcome {
            Err(End::Silent) => assert!(silent, "{name}"),
            Err(End::Eof | End::Io(_)) => assert!(!silent, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(lobby.census.clients(), 0, "{name}");
    }
}

#[tokio::test]
async fn packets_may_come_byte_by_byte() {
    let lobby = lobby(config(AuthType::Plain));
    let (last, outcome) = play(&lobby, async |mut client| {
        for byte in startup_packet() {
            client.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.receive().await.unwrap().body, [0, 0, 0, 3]);
        for byte in *b"p\0\0\0\x0bsecret\0" {
            client.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        let mut last = 0;
        while let Some(message) = client.receive().await {
            last = message.tag;
        }
        last
    })
    .await;
    assert_eq!(last, b'Z');
    assert!(outcome.is_ok());
}

#[tokio::test]
async fn garbage_in_place_of_a_password_is_refused() {
    let million = [&b"p\0\x0f\x42\x44"[..], &vec![b'x'; 1_000_000]].concat();
    let largest = {
        let mut message = BytesMut::new();
        crate::wire::encode::password(&mut message, &[vec![b'x'; 65_534], vec![0]].concat());
        message.to_vec()
    };
    for (name, bytes, told) in [
        ("a query", &b"Q\0\0\0\x09oops\0"[..], "expected password response, got message type 'Q'"),
        ("an empty one", b"p\0\0\0\x05\0", "empty password returned by client"),
        ("no terminator", b"p\0\0\0\x08abcd", "invalid password packet"),
        ("a million bytes", &million, "password too long"),
        ("as long as they may be", &largest, "password authentication failed"),
    ] {
        let lobby = lobby(config(AuthType::Plain));
        let (error, outcome) = play(&lobby, async |mut client| {
            client.send(&startup_packet()).await;
            client.receive().await.unwrap();
            client.send(bytes).await;
            client.error().await
        })
        .await;
        let message = error.map(|report| report.message);
        assert_eq!(message.as_deref(), Some(told), "{name}: {outcome:?}");
        refusal(outcome);
    }
}

#[tokio::test]
async fn garbage_in_place_of_scram_is_refused() {
    let lobby = lobby(config(AuthType::ScramSha256));
    let failed = "SASL authentication failed";
    for (name, messages, told) in [
        (
            "a password",
            vec![b"secret\0".to_vec()],
            "client selected an invalid SASL authentication mechanism",
        ),
        ("no first message", vec![initial(b"")], failed),
        ("channel binding", vec![initial(b"p=tls-server-end-point,,n=,r=abc")], failed),
        ("noise at the end", vec![initial(b"n,,n=,r=abc"), b"\xff\xfe".to_vec()], failed),
        ("the first again", vec![initial(b"n,,n=,r=abc"), initial(b"n,,n=,r=abc")], failed),
    ] {
        let (error, _) = play(&lobby, async |mut client| {
            client.send(&startup_packet()).await;
            for message in &messages {
                client.receive().await.unwrap();
                client.password(message).await;
            }
            client.error().await
        })
        .await;
        assert_eq!(error.map(|report| report.message).as_deref(), Some(told), "{name}");
    }
}

#[tokio::test]
async fn cancels_are_handed_on() {
    let lobby = lobby(config(AuthType::Trust));
    for secret in [&[1u8, 2, 3, 4][..], &[7; 32], &[9; 256]] {
        let key = CancelKey::new(42, secret).unwrap();
        let mut packet = BytesMut::new();
        encode_cancel_request(&mut packet, &key);
        let ((), outcome) = play(&lobby, async |mut client| client.send(&packet).await).await;
        assert_eq!(outcome.unwrap(), Entered::Cancel(key));
    }
}

/// Two ends of a TCP connection on this machine.
async fn tcp() -> (Stream, Stream) {
    let mut settings = config(AuthType::Trust).settings;
    settings.listen_addr = vec!["127.0.0.1".to_owned()];
    settings.listen_port = 0;
    settings.unix_socket_dir = None;
    let bound = bind(&settings).unwrap().remove(0);
    let Place::Tcp(address) = *bound.place() else { panic!("not TCP") };
    let listener = bound.serve().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let dialer = Dialer::default();
    let endpoint = Endpoint::Tcp(address);
    let options = TcpOptions::default();
    let (accepted, dialled) = tokio::join!(listener.accept(&options), dialer.redial(&endpoint, until));
    (accepted.unwrap().stream.attach().unwrap(), dialled.unwrap().0)
}

/// A lobby that offers TLS, and the client's side of it.
fn with_tls(mode: SslMode) -> (Lobby<Fake>, Arc<Tls>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let mut config: Config = config(AuthType::Trust);
    config.settings.client_tls_sslmode = mode;
    config.settings.client_tls_cert_file = Some(cert_file);
    config.settings.client_tls_key_file = Some(key_file);
    let mut connecting = config.settings.clone();
    connecting.client_tls_sslmode = SslMode::Disable;
    connecting.server_tls_sslmode = SslMode::Require;
    (lobby(config), Arc::new(Tls::of(&connecting).unwrap()), dir)
}

#[tokio::test]
async fn tls_by_request_and_at_once() {
    for direct in [false, true] {
        let (lobby, client_side, _dir) = with_tls(SslMode::Require);
        let (near, far) = tcp().await;
        let client = async {
            let mut client = Client::new(far);
            if !direct {
                assert_eq!(client.ssl_request().await, b'S');
            }
            let stream = lobby.handshakes.connect(client.stream, Arc::clone(&client_side), "localhost").await;
            Client::new(stream.unwrap()).log_in(&[("user", "plain"), ("database", "d")], "").await
        };
        let (seen, outcome) = tokio::join!(client, serve(&lobby, near));
        assert_eq!(seen.asked, ["ok"], "direct: {direct}");
        assert!(outcome.is_ok());
    }
}

#[tokio::test]
async fn tls_is_asked_for_where_it_is_required_but_not_of_a_cancel() {
    let (lobby, _, _dir) = with_tls(SslMode::Require);
    let (near, far) = tcp().await;
    let client = Client::new(far).log_in(&[("user", "plain"), ("database", "d")], "");
    let (seen, outcome) = tokio::join!(client, serve(&lobby, near));
    assert_eq!(refused(&seen), Some(("28000", "SSL required")));
    assert_eq!(refusal(outcome), Refusal::TlsRequired);

    let (near, far) = tcp().await;
    let key = CancelKey::new(42, &[1; 4]).unwrap();
    let mut packet = BytesMut::new();
    encode_cancel_request(&mut packet, &key);
    let mut client = Client::new(far);
    let ((), outcome) = tokio::join!(client.send(&packet), serve(&lobby, near));
    assert_eq!(outcome.unwrap(), Entered::Cancel(key));

    let (seen, outcome) = log_in(&lobby, &[("user", "plain"), ("database", "d")], "").await;
    assert!(outcome.is_ok(), "a unix socket needs no TLS: {seen:?}");
}

#[tokio::test]
async fn a_second_request_within_tls_is_refused() {
    let (lobby, client_side, _dir) = with_tls(SslMode::Prefer);
    let (near, far) = tcp().await;
    let client = async {
        let mut client = Client::new(far);
        assert_eq!(client.ssl_request().await, b'S');
        let stream = lobby.handshakes.connect(client.stream, Arc::clone(&client_side), "localhost").await;
        let mut client = Client::new(stream.unwrap());
        let mut packet = BytesMut::new();
        encode_ssl_request(&mut packet);
        client.send(&packet).await;
        client.rest().await
    };
    let (rest, outcome) = tokio::join!(client, serve(&lobby, near));
    assert!(rest.is_empty());
    assert!(matches!(outcome, Err(End::TlsTwice)), "{outcome:?}");
}

#[tokio::test]
async fn bytes_smuggled_in_before_the_handshake_are_refused() {
    let (lobby, _, _dir) = with_tls(SslMode::Prefer);
    let (near, far) = tcp().await;
    let mut client = Client::new(far);
    let client = async {
        client.send(&[&request(SSL)[..], &startup_packet()].concat()).await;
        client.error().await
    };
    let (error, outcome) = tokio::join!(client, serve(&lobby, near));
    assert_eq!(error.unwrap().sqlstate.as_str(), "08P01");
    assert_eq!(refusal(outcome), Refusal::PlaintextAfterSslRequest);
}

#[tokio::test]
async fn a_handshake_that_fails_ends_the_connection() {
    let (lobby, _, _dir) = with_tls(SslMode::Require);
    let (near, far) = tcp().await;
    let mut client = Client::new(far);
    let client = async {
        assert_eq!(client.ssl_request().await, b'S');
        client.send(b"this is no TLS record, whatever one thinks of it").await;
        client.rest().await;
    };
    let ((), outcome) = tokio::join!(client, serve(&lobby, near));
    assert!(matches!(outcome, Err(End::Tls(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_handshake_that_stands_still_ends_with_the_login_timeout() {
    let (lobby, _, _dir) = with_tls(SslMode::Require);
    let mut config = Config::clone(&lobby.config.load());
    config.settings.client_login_timeout = Duration::from_millis(200);
    lobby.config.store(Arc::new(config));
    let (near, far) = tcp().await;
    let mut client = Client::new(far);
    let client = async {
        assert_eq!(client.ssl_request().await, b'S');
        client.rest().await
    };
    let (rest, outcome) = tokio::join!(client, serve(&lobby, near));
    assert!(rest.is_empty(), "half a handshake leaves nothing to say it in");
    assert_eq!(refusal(outcome), Refusal::LoginTimeout);
}

#[tokio::test]
async fn a_certificate_logs_in_as_whom_it_names() {
    let (lobby, connecting, dir) = with_tls(SslMode::Require);
    drop(connecting);
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "plain");
    let certificate = params.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    let (cert_file, key_file) = (dir.path().join("plain.pem"), dir.path().join("plain-key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();

    let mut config = Config::clone(&lobby.config.load());
    config.settings.auth_type = AuthType::Cert;
    config.settings.client_tls_sslmode = SslMode::VerifyFull;
    config.settings.client_tls_ca_file = Some(ca_file);
    let mut connecting = config.settings.clone();
    connecting.client_tls_sslmode = SslMode::Disable;
    connecting.server_tls_sslmode = SslMode::Require;
    connecting.server_tls_cert_file = Some(cert_file);
    connecting.server_tls_key_file = Some(key_file);
    let client_side = Arc::new(Tls::of(&connecting).unwrap());
    let lobby = super::fixture::lobby(config);

    let refused_as = Some("certificate authentication failed");
    for (user, expected) in [("plain", None), ("md5", refused_as), ("nobody", refused_as)] {
        let (near, far) = tcp().await;
        let client = async {
            let mut client = Client::new(far);
            assert_eq!(client.ssl_request().await, b'S');
            let stream = lobby.handshakes.connect(client.stream, Arc::clone(&client_side), "localhost").await;
            Client::new(stream.unwrap()).log_in(&[("user", user), ("database", "d")], "").await
        };
        let (seen, outcome) = tokio::join!(client, serve(&lobby, near));
        assert_eq!(refused(&seen).map(|it| it.1), expected, "{user}: {outcome:?}");
    }
    let (seen, _) = log_in(&lobby, &[("user", "plain"), ("database", "d")], "").await;
    assert_eq!(refused(&seen).map(|it| it.1), refused_as, "no certificate over a unix socket");
}
