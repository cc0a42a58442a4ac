//! A PostgreSQL that follows a script, for tests.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::{Connector, ServerConn, Target};
use crate::auth::{Credentials, KeyCache};
use crate::config::{Host, Settings, SslMode};
use crate::ids::{DatabaseName, IdSequence, PoolKey, UserName, WorkerId};
use crate::net::{Dialer, Handshakes, Listener, Stream, TcpOptions, Tls, listen};
use crate::wire::startup::First;
use crate::wire::{CancelKey, Header, TxStatus, encode};

/// What the server does next.
pub(super) enum Step {
    /// Reads an untagged packet.
    First,
    /// Reads a message with this tag.
    Expect(u8),
    /// Sends these bytes as they are.
    Send(Vec<u8>),
    /// Goes on as a TLS server.
    StartTls(Arc<Tls>),
    /// Waits for the client to go away.
    AwaitEnd,
}

/// What it read.
#[derive(Debug)]
pub(super) enum Heard {
    First(First),
    Message(u8, Vec<u8>),
}

pub(super) struct Fake {
    pub(super) listener: Listener,
    pub(super) port: u16,
}

impl Fake {
    pub(super) fn new() -> Self {
        let settings = Settings {
            listen_addr: vec!["127.0.0.1".to_owned()],
            listen_port: 0,
            unix_socket_dir: None,
            ..Settings::default()
        };
        let bound = listen::bind(&settings).unwrap().remove(0);
        let listen::Place::Tcp(address) = *bound.place() else { panic!("not TCP") };
        Self { listener: bound.serve().unwrap(), port: address.port() }
    }

    /// Follows the script with one client, then closes.
    pub(super) fn play(self, script: Vec<Step>) -> JoinHandle<(Self, Vec<Heard>)> {
        tokio::spawn(async move {
            let mut stream =
                self.listener.accept(&TcpOptions::default()).await.unwrap().stream.attach().unwrap();
            let mut heard = Vec::new();
            for step in script {
                match step {
                    Step::First => heard.push(Heard::First(read_first(&mut stream).await)),
                    Step::Expect(tag) => heard.push(read_message(&mut stream, tag).await),
                    Step::Send(bytes) => {
                        stream.write_all(&bytes).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                    Step::StartTls(tls) => stream = tls.clients.accept(stream).await.unwrap(),
                    Step::AwaitEnd => while !matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {},
                }
            }
            let _ = stream.shutdown().await;
            (self, heard)
        })
    }
}

async fn read_first(stream: &mut Stream) -> First {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    let size = First::size(&bytes).unwrap().unwrap();
    bytes.resize(size, 0);
    stream.read_exact(&mut bytes[4..]).await.unwrap();
    First::decode(&bytes).unwrap()
}

async fn read_message(stream: &mut Stream, tag: u8) -> Heard {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await.unwrap();
    let header = Header::peek(&header).unwrap().unwrap();
    assert_eq!(header.tag as char, tag as char);
    let mut body = vec![0; header.body];
    stream.read_exact(&mut body).await.unwrap();
    Heard::Message(tag, body)
}

/// The bytes that these encoders append.
pub(super) fn bytes(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(&mut out);
    out.to_vec()
}

pub(super) fn key() -> CancelKey {
    CancelKey::new(4711, &[1, 2, 3, 4]).unwrap()
}

/// AuthenticationOk up to ReadyForQuery.
pub(super) fn welcome() -> Vec<u8> {
    bytes(|out| {
        encode::authentication_ok(out);
        encode::parameter_status(out, "server_version", "15.4");
        encode::backend_key_data(out, &key());
        encode::ready_for_query(out, TxStatus::Idle);
    })
}

pub(super) fn ready(status: TxStatus) -> Vec<u8> {
    bytes(|out| encode::ready_for_query(out, status))
}

pub(super) fn plain() -> Settings {
    Settings {
        server_tls_sslmode: SslMode::Disable,
        client_tls_sslmode: SslMode::Disable,
        ..Settings::default()
    }
}

pub(super) fn connector(settings: &Settings) -> Connector {
    Connector {
        dialer: Arc::new(Dialer::new(TcpOptions::of(settings), crate::net::Names::default())),
        handshakes: Handshakes::start(1).unwrap(),
        tls: Arc::new(ArcSwap::from_pointee(Tls::of(settings).unwrap())),
        keys: Arc::new(KeyCache::default()),
        ids: Arc::new(IdSequence::default()),
    }
}

pub(super) fn target(port: u16) -> Target {
    Target {
        replication: crate::stats::Replication::None,
        pool: PoolKey { database: DatabaseName::from("app"), user: UserName::from("alice") },
        host: Host::Name("127.0.0.1".into()),
        port,
        dbname: "app_on_server".into(),
        startup: vec![("search_path".into(), "auth".into())],
        credentials: Credentials::password("secret"),
        connect_query: None,
        timeout: Duration::from_secs(10),
        log_connections: false,
        log_disconnections: false,
        welcome: None,
    }
}

/// A connection that is logged in, and the script going on behind it.
pub(super) async fn connected(rest: Vec<Step>) -> (ServerConn, JoinHandle<(Fake, Vec<Heard>)>) {
    let fake = Fake::new();
    let target = target(fake.port);
    let mut script = vec![Step::First, Step::Send(welcome())];
    script.extend(rest);
    let server = fake.play(script);
    let conn = connector(&plain()).connect(&target, WorkerId(0)).await.unwrap();
    (conn, server)
}
