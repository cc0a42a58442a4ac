//! Logins against a scripted server.

use super::*;
use crate::config::Settings;
use crate::net::tls::tests::{Authority, for_hosts};
use crate::server::tests::{Fake, Heard, Step, bytes, connector, key, plain, ready, target, welcome};
use crate::wire::encode;
use crate::wire::startup::First;

const WORKER: WorkerId = WorkerId(3);

async fn attempt(settings: &Settings, script: Vec<Step>) -> (Result<ServerConn, ConnectError>, Vec<Heard>) {
    let fake = Fake::new();
    let target = target(fake.port);
    let server = fake.play(script);
    let result = connector(settings).connect(&target, WORKER).await;
    let heard = server.await.unwrap().1;
    (result, heard)
}

async fn refused(script: Vec<Step>) -> ConnectError {
    attempt(&plain(), script).await.0.expect_err("this login must fail")
}

#[tokio::test]
async fn a_login_sends_the_entrys_parameters_and_learns_the_servers() {
    let (conn, heard) = attempt(&plain(), vec![Step::First, Step::Send(welcome())]).await;
    let mut conn = conn.unwrap();
    let Heard::First(First::Startup(startup)) = &heard[0] else { panic!("no start-up message: {heard:?}") };
    assert_eq!(startup.minor, 0);
    for (name, value) in [("user", "alice"), ("database", "app_on_server"), ("search_path", "auth")] {
        assert_eq!(startup.parameter(name), Some(value), "{name}");
    }
    assert_eq!(conn.key, Some(key()));
    assert_eq!(conn.session().parameters.reported.value("server_version"), Some("15.4"));
    assert_eq!((conn.home, conn.tls.is_some()), (WORKER, false));
}

#[tokio::test]
async fn servers_that_report_the_same_share_one_set() {
    let shared: Arc<Values> = Arc::new([("server_version", "15.4")].into_iter().collect());
    let fake = Fake::new();
    let target = Target { welcome: Some(Arc::clone(&shared)), ..target(fake.port) };
    let server = fake.play(vec![Step::First, Step::Send(welcome())]);
    let mut conn = connector(&plain()).connect(&target, WORKER).await.unwrap();
    assert!(Arc::ptr_eq(&conn.session().parameters.reported, &shared));
    server.await.unwrap();
}

#[tokio::test]
async fn a_status_that_changes_right_after_the_login_is_heard() {
    let late = bytes(|out| encode::parameter_status(out, "TimeZone", "UTC"));
    let (conn, _) = attempt(&plain(), vec![Step::First, Step::Send([welcome(), late].concat())]).await;
    assert_eq!(conn.unwrap().session().parameters.reported.value("TimeZone"), Some("UTC"));
}

#[tokio::test]
async fn passwords_are_given_as_the_server_asks() {
    for (name, request, answer) in [
        ("clear text", bytes(encode::authentication_cleartext), &b"secret\0"[..]),
        ("md5", bytes(|out| encode::authentication_md5(out, *b"salt")), b"md5"),
        ("scram", bytes(|out| encode::authentication_sasl(out, &["SCRAM-SHA-256"])), b"SCRAM-SHA-256\0"),
    ] {
        let script = vec![Step::First, Step::Send(request), Step::Expect(b'p'), Step::Send(welcome())];
        let (result, heard) = attempt(&plain(), script).await;
        let Heard::Message(b'p', body) = &heard[1] else { panic!("{name}: {heard:?}") };
        assert!(body.starts_with(answer), "{name}: {:?}", body.escape_ascii().to_string());
        // A SCRAM server that skips its own proof is not believed.
        assert_eq!(result.is_ok(), name != "scram", "{name}");
    }
}

#[tokio::test]
async fn the_servers_own_error_comes_back_word_for_word() {
    let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
        .detail("all taken")
        .hint("wait");
    for (name, before) in [("before authentication", vec![]), ("after it", bytes(encode::authentication_ok))]
    {
        let error = bytes(|out| report.encode(out));
        let failed = refused(vec![Step::First, Step::Send([before, error].concat())]).await;
        assert_eq!(failed.report(), report, "{name}");
    }
}

#[tokio::test]
async fn servers_that_misbehave_are_refused() {
    let endless = bytes(|out| {
        encode::authentication_ok(out);
        (0..=LOGIN_MESSAGES_MAX).for_each(|_| encode::parameter_status(out, "a", "b"));
    });
    for (name, answer, text) in [
        ("end", vec![], "server conn crashed?"),
        ("half a message", b"R\0\0\0\x08".to_vec(), "server conn crashed?"),
        ("no PostgreSQL", b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "bad packet from server"),
        ("huge message", b"S\x10\0\0\0".to_vec(), "bad packet from server"),
        ("result", bytes(|out| encode::command_complete(out, "SELECT 1")), "unknown pkt"),
        ("ready without login", ready(TxStatus::Idle), "unknown pkt"),
        ("transaction", [bytes(encode::authentication_ok), ready(TxStatus::Failed)].concat(), "unknown pkt"),
        ("more than a login", [welcome(), ready(TxStatus::Idle)].concat(), "unknown pkt"),
        ("kerberos", b"R\0\0\0\x08\0\0\0\x07".to_vec(), "unsupported authentication method"),
        ("endless", endless, "does not end"),
    ] {
        let error = refused(vec![Step::First, Step::Send(answer)]).await.to_string();
        assert!(error.contains(text), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let fake = Fake::new();
    let target = Target { timeout: Duration::from_millis(50), ..target(fake.port) };
    let server = fake.play(vec![Step::First, Step::AwaitEnd]);
    let error = connector(&plain()).connect(&target, WORKER).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout));
    assert_eq!(error.report().sqlstate, SqlState::UNABLE_TO_CONNECT);
    server.await.unwrap();
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address() {
    let fake = Fake::new();
    let target = target(fake.port);
    drop(fake);
    let error = connector(&plain()).connect(&target, WORKER).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_connect_query_may_fail_but_not_leave_a_transaction() {
    let complaint = bytes(|out| Report::error(SqlState::SYNTAX_ERROR, "oops").encode(out));
    for (name, answer, good) in [
        ("done", ready(TxStatus::Idle), true),
        ("error", [complaint, ready(TxStatus::Idle)].concat(), true),
        ("transaction", ready(TxStatus::InTransaction), false),
    ] {
        let fake = Fake::new();
        let target = Target { connect_query: Some("select 1".into()), ..target(fake.port) };
        let script = vec![Step::First, Step::Send(welcome()), Step::Expect(b'Q'), Step::Send(answer)];
        let server = fake.play(script);
        let result = connector(&plain()).connect(&target, WORKER).await;
        assert_eq!(result.is_ok(), good, "{name}: {result:?}");
        let (_, heard) = server.await.unwrap();
        assert!(matches!(&heard[1], Heard::Message(b'Q', sql) if sql == b"select 1\0"), "{name}");
    }
}

fn tls_settings(authority: &Authority, mode: SslMode) -> Settings {
    Settings {
        server_tls_sslmode: mode,
        server_tls_ca_file: Some(authority.path("ca.pem")),
        client_tls_sslmode: SslMode::Require,
        client_tls_cert_file: Some(authority.path("server.pem")),
        client_tls_key_file: Some(authority.path("server-key.pem")),
        ..Settings::default()
    }
}

#[tokio::test]
async fn tls_is_asked_for_and_used_where_the_server_has_it() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["127.0.0.1"]));
    for mode in [SslMode::Allow, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let settings = tls_settings(&authority, mode);
        let tls = Arc::new(Tls::of(&settings).unwrap());
        let script = vec![
            Step::First,
            Step::Send(b"S".to_vec()),
            Step::StartTls(tls),
            Step::First,
            Step::Send(welcome()),
            Step::AwaitEnd,
        ];
        let fake = Fake::new();
        let target = target(fake.port);
        let server = fake.play(script);
        let conn = connector(&settings).connect(&target, WORKER).await.unwrap();
        assert!(conn.stream.is_tls() && conn.tls.is_some(), "{mode:?}");
        conn.close();
        let (_, heard) = server.await.unwrap();
        assert!(matches!(heard[0], Heard::First(First::Ssl)), "{mode:?}");
        assert!(matches!(heard[1], Heard::First(First::Startup(_))), "{mode:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_good_enough_only_for_the_modes_that_say_so() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["127.0.0.1"]));
    for (mode, good) in [(SslMode::Prefer, true), (SslMode::Allow, true), (SslMode::Require, false)] {
        let script = match good {
            true => vec![Step::First, Step::Send(b"N".to_vec()), Step::First, Step::Send(welcome())],
            false => vec![Step::First, Step::Send(b"N".to_vec())],
        };
        match attempt(&tls_settings(&authority, mode), script).await.0 {
            Ok(conn) => assert!(good && !conn.stream.is_tls(), "{mode:?}"),
            Err(error) => {
                assert!(!good, "{mode:?}: {error}");
                assert_eq!(error.to_string(), "server refused SSL");
            }
        }
    }
}

#[tokio::test]
async fn what_is_injected_before_the_handshake_is_refused() {
    let authority = Authority::new();
    authority.sign("server", for_hosts(&["127.0.0.1"]));
    for (answer, text) in [
        ([b"S".to_vec(), welcome()].concat(), "received unencrypted data after SSL response"),
        ([b"N".to_vec(), welcome()].concat(), "received unencrypted data after SSL response"),
        (b"E".to_vec(), "bad sslreq answer"),
        (vec![], "server conn crashed?"),
    ] {
        let script = vec![Step::First, Step::Send(answer)];
        let error =
            attempt(&tls_settings(&authority, SslMode::Prefer), script).await.0.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
