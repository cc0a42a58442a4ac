//! A client of rustls's own against it: pieces, ends, key updates, nonsense.

use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncWriteExt, split};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::tests::{Authority, for_hosts};
use super::*;
use crate::net::Stream;

/// What a client and a server go by.
fn ends(version: &'static rustls::SupportedProtocolVersion) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["localhost"]));
    let source = |setting, name: &str| (setting, authority.path(name));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (certificate, key) = (source("certificate", "server.pem"), source("key", "server-key.pem"));
    let identity = super::super::material::certified_key(
        super::super::material::Source { setting: certificate.0, path: &certificate.1 },
        super::super::material::Source { setting: key.0, path: &key.1 },
        &provider,
    );
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.unwrap())));
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    let ca = super::super::material::Source { setting: "ca", path: &authority.path("ca.pem") };
    roots.add(ca.certificates().unwrap().remove(0)).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(client), Arc::new(server))
}

/// A client and a server that have shaken hands.
async fn pair(version: &'static rustls::SupportedProtocolVersion) -> (TlsStream<Stream>, Accepted) {
    let (client, server) = ends(version);
    let (near, far) = Stream::pair().unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(client).connect(name, far);
    let accepting = Accepted::accept(server, near.into_socket().unwrap());
    let (client, server) = tokio::join!(connecting, accepting);
    (client.unwrap(), server.unwrap())
}

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// Bytes that tell their place.
fn text(count: usize) -> Vec<u8> {
    (0..count).map(|it| (it % 251) as u8).collect()
}

fn buffers(stream: &Accepted) -> [usize; 3] {
    [stream.incoming.capacity(), stream.plain.capacity(), stream.outgoing.capacity()]
}

/// Sends back what it reads, in pieces of its own.
async fn echo(stream: Accepted, piece: usize, mut left: usize) -> Accepted {
    let (mut input, mut output) = split(stream);
    let mut buffer = vec![0; piece];
    while left > 0 {
        let read = input.read(&mut buffer).await.unwrap();
        let (one, other) = buffer[..read].split_at(read / 3);
        let written = output.write_vectored(&[IoSlice::new(one), IoSlice::new(other)]).await.unwrap();
        output.write_all(&buffer[written..read]).await.unwrap();
        left -= read;
    }
    output.flush().await.unwrap();
    input.unsplit(output)
}

#[tokio::test]
async fn bytes_come_and_go_whole_whatever_the_pieces() {
    let versions = VERSIONS.into_iter();
    let cases = versions.flat_map(|it| [1, 7, 1000, 16 * 1024, 100_000].map(|piece| (it, piece)));
    for (version, piece) in cases {
        let (client, server) = pair(version).await;
        let sent = text(300.min(piece) * 1000);
        let (mut client_in, mut client_out) = split(client);
        let says = async {
            client_out.write_all(&sent).await.unwrap();
            client_out.flush().await.unwrap();
        };
        let mut heard = vec![0; sent.len()];
        let hears = async { client_in.read_exact(&mut heard).await.unwrap() };
        let ((), server, _) = tokio::join!(says, echo(server, piece, sent.len()), hears);
        assert!(heard == sent, "{version:?} in pieces of {piece}");
        assert_eq!(buffers(&server), [0; 3], "an idle stream has no buffer");
    }
}

/// Else a worker would sign for whoever sends the first byte by itself.
#[tokio::test]
async fn a_client_hello_is_costly_however_it_comes() {
    let (client, server) = ends(&rustls::version::TLS13);
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(client, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let (near, _far) = Stream::pair().unwrap();
    let mut stream = Accepted::begin(server, near.into_socket().unwrap(), &hello[..1]).await.unwrap();
    for piece in [&hello[1..2], &hello[2..]] {
        assert!(stream.is_costly());
        assert!(matches!(stream.advance(Want::Nothing), Ok(Reached::Blocked)));
        stream.incoming.extend_from_slice(piece);
    }
    assert!(stream.is_costly());
    assert!(matches!(stream.advance(Want::Nothing), Ok(Reached::Blocked)));
    assert!(!stream.is_costly(), "a Finished is all that is to come");
}

#[test]
fn an_idle_stream_is_small() {
    assert!(size_of::<Accepted>() <= 1600, "{}", size_of::<Accepted>());
}

#[tokio::test]
async fn its_end_is_told_from_a_cut() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version).await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
        // The other direction stays open.
        server.write_all(b"heard").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"heard");

        let (mut client, mut server) = pair(version).await;
        client.write_all(b"cut").await.unwrap();
        drop(client.into_inner());
        let mut heard = Vec::new();
        let error = server.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!((heard.as_slice(), error.kind()), (&b"cut"[..], io::ErrorKind::UnexpectedEof));
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_says_that_nothing_more_comes() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version).await;
        server.write_all(b"last words").await.unwrap();
        drop(server);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
    }
}

#[tokio::test]
async fn keys_are_changed_by_either_side() {
    let (mut client, mut server) = pair(&rustls::version::TLS13).await;
    for round in 0..20_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round; 10]).await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 10];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [round; 10]);
        if round % 2 == 0 {
            let UnbufferedStatus { state: Ok(ConnectionState::WriteTraffic(traffic)), .. } =
                server.tls.process_tls_records(&mut [])
            else {
                panic!("it is at rest")
            };
            traffic.refresh_traffic_keys().unwrap();
        }
        server.write_all(&[round]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn nonsense_ends_it_with_an_alert() {
    for (version, nonsense) in [
        (VERSIONS[0], &b"\x17\x03\x03\x00\x20this is no record of this session"[..]),
        (VERSIONS[1], b"\x17\x03\x03\x00\x20this is no record of this session"),
        (VERSIONS[1], b"Q\0\0\0\x0bselect"),
        (VERSIONS[1], b"\x16\x03\x03\xff\xff"),
    ] {
        let (mut client, mut server) = pair(version).await;
        client.get_mut().0.write_all(nonsense).await.unwrap();
        let error = server.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.get_ref().is_some_and(|it| it.is::<rustls::Error>()), "{error}");
        assert!(server.read(&mut [0; 10]).await.is_err(), "nothing comes after it");
        assert!(server.write(b"x").await.is_err());
        let told = client.read(&mut [0; 10]).await.unwrap_err().to_string();
        assert!(told.contains("fatal alert"), "{told}");
    }
}

#[tokio::test]
async fn who_does_not_read_is_sent_no_more_than_the_limit() {
    let (mut client, mut server) = pair(&rustls::version::TLS13).await;
    let block = vec![7; 1024 * 1024];
    let mut sent = 0;
    while let Ok(count) = timeout(Duration::from_millis(200), server.write(&block)).await {
        sent += count.unwrap();
    }
    assert!(server.outgoing.len() <= PLAIN_BYTES_MAX + 4 * RECORD_OVERHEAD_BYTES + 5);
    let mut heard = vec![0; sent];
    let (read, flushed) = tokio::join!(client.read_exact(&mut heard), server.flush());
    read.unwrap();
    flushed.unwrap();
    assert!(heard.iter().all(|it| *it == 7));
}

#[tokio::test]
async fn it_is_readable_when_there_is_something_to_read_and_keeps_it() {
    let (mut client, mut server) = pair(&rustls::version::TLS13).await;
    let readable = timeout(Duration::from_millis(50), poll_fn(|cx| server.poll_readable(cx))).await;
    assert!(readable.is_err(), "nothing was said");
    client.write_all(b"some").await.unwrap();
    client.write_all(b"thing").await.unwrap();
    for _ in 0..3 {
        poll_fn(|cx| server.poll_readable(cx)).await;
    }
    let mut heard = [0; 9];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"something");
    client.shutdown().await.unwrap();
    poll_fn(|cx| server.poll_readable(cx)).await;
    assert_eq!(server.read(&mut heard).await.unwrap(), 0);
}
