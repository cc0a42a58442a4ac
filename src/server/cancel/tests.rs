//! Cancels against a scripted server.

use super::*;
use crate::config::{Settings, SslMode};
use crate::ids::WorkerId;
use crate::net::tls::tests::{Authority, for_hosts};
use crate::server::ServerConn;
use crate::server::tests::{Fake, Heard, Step, connector, key, plain, target, welcome};
use crate::wire::startup::First;

const SOON: Duration = Duration::from_secs(10);

async fn cancel(connector: &Connector, conn: &ServerConn, limit: Duration) -> Result<(), CancelError> {
    connector.send_cancel(&conn.cancel_route().unwrap(), limit).await?.acted_on(limit).await
}

#[tokio::test]
async fn a_cancel_goes_to_the_same_server_with_its_key_and_waits_for_its_end() {
    let fake = Fake::new();
    let target = target(fake.port);
    let connector = connector(&plain());
    let login = fake.play(vec![Step::First, Step::Send(welcome())]);
    let conn = connector.connect(&target, WorkerId(0)).await.unwrap();
    let (fake, _) = login.await.unwrap();
    let cancelled = fake.play(vec![Step::First]);
    cancel(&connector, &conn, SOON).await.unwrap();
    let (fake, heard) = cancelled.await.unwrap();
    assert!(matches!(&heard[0], Heard::First(First::Cancel(sent)) if *sent == key()), "{heard:?}");

    let stuck = fake.play(vec![Step::First, Step::AwaitEnd]);
    let short = Duration::from_millis(50);
    let error = cancel(&connector, &conn, short).await.unwrap_err();
    assert_eq!(error.to_string(), "cancel_wait_timeout");
    drop(stuck.await.unwrap());
    let error = cancel(&connector, &conn, SOON).await.unwrap_err();
    assert!(matches!(error, CancelError::Connect(_)), "nobody listens any more: {error}");
}

#[tokio::test]
async fn a_cancel_is_encrypted_where_the_connection_is() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["127.0.0.1"]));
    let settings = Settings {
        server_tls_sslmode: SslMode::VerifyFull,
        server_tls_ca_file: Some(authority.path("ca.pem")),
        client_tls_sslmode: SslMode::Require,
        client_tls_cert_file: Some(authority.path("server.pem")),
        client_tls_key_file: Some(authority.path("server-key.pem")),
        ..Settings::default()
    };
    let tls = Arc::new(Tls::of(&settings).unwrap());
    let begin =
        || vec![Step::First, Step::Send(b"S".to_vec()), Step::StartTls(Arc::clone(&tls)), Step::First];
    let fake = Fake::new();
    let target = target(fake.port);
    let connector = connector(&settings);
    let mut script = begin();
    script.push(Step::Send(welcome()));
    let login = fake.play(script);
    let conn = connector.connect(&target, WorkerId(0)).await.unwrap();
    let (fake, _) = login.await.unwrap();
    let cancelled = fake.play(begin());
    cancel(&connector, &conn, SOON).await.unwrap();
    let (fake, heard) = cancelled.await.unwrap();
    assert!(matches!(&heard[1], Heard::First(First::Cancel(sent)) if *sent == key()), "{heard:?}");
    // A server that has lost its TLS does not get the key in clear text.
    let refusing = fake.play(vec![Step::First, Step::Send(b"N".to_vec()), Step::AwaitEnd]);
    assert!(cancel(&connector, &conn, SOON).await.is_err());
    refusing.await.unwrap();
}
