//! TLS on both sides, in every mode.

use crate::support::certs::{Certificates, Pair, client_config};
use crate::support::prelude::*;

const APP: &[(&str, &str)] = &[("user", "app"), ("database", "app")];

/// A pooler with a certificate.
fn with_certificate(mode: &str) -> Setup {
    certified(Setup::of(Cluster::shared()), mode)
}

/// The same with a certificate.
pub fn certified(setup: Setup, mode: &str) -> Setup {
    let certificates = Certificates::get();
    setup
        .file("server.crt", &certificates.server.certificate)
        .file("server.key", &certificates.server.key)
        .file("ca.crt", &certificates.authority)
        .set("client_tls_sslmode", &format!("\"{mode}\""))
        .set("client_tls_cert_file", "\"server.crt\"")
        .set("client_tls_key_file", "\"server.key\"")
        .set("client_tls_ca_file", "\"ca.crt\"")
}

/// Asks for TLS and goes through the handshake.
pub fn encrypted(pooler: &Pooler, own: Option<&Pair>) -> Result<Raw, String> {
    let mut client = pooler.dial();
    client.send(&ssl_request());
    assert_eq!(client.byte(), Some(b'S'));
    client.into_tls(client_config(own), "localhost")
}

#[test]
fn clients_may_come_over_tls() {
    for mode in ["allow", "prefer", "require"] {
        let pooler = with_certificate(mode).start();
        let mut client = encrypted(&pooler, None).unwrap();
        client.login(APP, "").unwrap();
        assert_eq!(client.value("SELECT 'encrypted'"), "encrypted");
        assert_eq!(client.value("SELECT length(repeat('x', 1000000))"), "1000000");
        let row = client.query("SELECT repeat('x', 5000000)").swap_remove(1);
        assert_eq!(row.body.len(), 5_000_006);
    }
}

#[test]
fn who_must_come_over_tls_and_does_not_is_told_so() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let pooler = with_certificate(mode).start();
        let error = pooler.refusal(APP, "");
        assert_eq!(error.text(), "SSL required");
        assert_eq!(error.sqlstate(), "28000");
    }
    for mode in ["allow", "prefer"] {
        let pooler = with_certificate(mode).start();
        assert_eq!(pooler.app().value("SELECT 'plain'"), "plain");
    }
}

#[test]
fn direct_tls_needs_no_request() {
    let pooler = with_certificate("require").start();
    let mut client = pooler.dial().into_tls(client_config(None), "localhost").unwrap();
    assert_eq!(client.alpn().as_deref(), Some(&b"postgresql"[..]));
    client.login(APP, "").unwrap();
    assert_eq!(client.value("SELECT 'direct'"), "direct");
}

#[test]
fn what_follows_a_request_unencrypted_is_not_believed() {
    let pooler = with_certificate("prefer").start();
    let mut client = pooler.dial();
    client.send(&[ssl_request(), startup(PROTOCOL_3_0, APP)].concat());
    while client.byte().is_some() {}
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}

#[test]
fn a_clients_certificate_is_checked() {
    let certificates = Certificates::get();
    for mode in ["verify-ca", "verify-full"] {
        let pooler = with_certificate(mode).start();
        let mut client = encrypted(&pooler, Some(&certificates.client)).unwrap();
        client.login(APP, "").unwrap();
        assert_eq!(client.value("SELECT 1"), "1");
        for own in [None, Some(&certificates.stranger)] {
            // With TLS 1.3 the client hears of it with the first read.
            if let Ok(mut client) = encrypted(&pooler, own) {
                client.try_send(&startup(PROTOCOL_3_0, APP));
                assert!(
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.ready())).is_err(),
                    "{mode}"
                );
            }
        }
    }
}

#[test]
fn a_certificate_is_a_login() {
    let certificates = Certificates::get();
    let setup =
        || with_certificate("verify-full").set("auth_type", "\"cert\"").database("app", "user = \"app\"");
    let pooler = setup().start();
    let mut client = encrypted(&pooler, Some(&certificates.client)).unwrap();
    client.login(&[("user", "cert_user"), ("database", "app")], "").unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    let mut client = encrypted(&pooler, Some(&certificates.client)).unwrap();
    let error = client.login(APP, "").unwrap_err();
    assert_eq!(
        (error.sqlstate().as_str(), error.text().as_str()),
        ("28000", "certificate authentication failed")
    );
}

#[test]
fn servers_are_reached_over_tls_as_the_mode_says() {
    let cluster = Cluster::shared();
    let encrypted = |setup: Setup| {
        let setup =
            setup.file("ca.crt", &Certificates::get().authority).set("server_tls_ca_file", "\"ca.crt\"");
        let pooler = setup.start();
        let sql =
            "SELECT ssl::text || ' ' || coalesce(version, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        pooler.app().value(sql)
    };
    let mode = |mode: &str| Setup::of(cluster).set("server_tls_sslmode", &format!("\"{mode}\""));
    assert_eq!(encrypted(mode("disable")), "false ");
    for it in ["allow", "prefer", "require", "verify-ca"] {
        assert_eq!(encrypted(mode(it)), "true TLSv1.3", "{it}");
    }
    let localhost = "host = \"localhost\"";
    assert_eq!(encrypted(mode("verify-full").database("app", localhost)), "true TLSv1.3");
}

#[test]
fn a_server_that_is_not_whom_it_should_be_is_refused() {
    let certificates = Certificates::get();
    let cluster = Cluster::shared();
    let stranger = Setup::of(cluster)
        .file("ca.crt", &certificates.stranger_authority)
        .set("server_tls_ca_file", "\"ca.crt\"")
        .set("query_wait_timeout", "2");
    for mode in ["verify-ca", "verify-full"] {
        let pooler = stranger.clone().set("server_tls_sslmode", &format!("\"{mode}\"")).start();
        assert!(Raw::try_connect(pooler.address(), "app", "app").is_err(), "{mode}");
    }
    // Without a check any certificate will do.
    let pooler = stranger.set("server_tls_sslmode", "\"require\"").start();
    assert_eq!(pooler.app().value("SELECT 1"), "1");
    // A known issuer but another's name.
    let elsewhere = Cluster::private(&[]);
    elsewhere.replace_certificate(&certificates.elsewhere);
    let setup = |mode: &str| {
        Setup::of(&elsewhere)
            .file("ca.crt", &certificates.authority)
            .set("server_tls_ca_file", "\"ca.crt\"")
            .set("query_wait_timeout", "2")
            .set("server_tls_sslmode", &format!("\"{mode}\""))
    };
    assert_eq!(setup("verify-ca").start().app().value("SELECT 1"), "1");
    assert!(Raw::try_connect(setup("verify-full").start().address(), "app", "app").is_err());
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_a_must() {
    let cluster = Cluster::private(&["ssl = off"]);
    let mode = |mode: &str| Setup::of(&cluster).set("server_tls_sslmode", &format!("\"{mode}\""));
    let setup = |it: &str| mode(it).set("query_wait_timeout", "2");
    assert_eq!(setup("prefer").start().app().value("SELECT 1"), "1");
    let pooler = setup("require").start();
    assert!(Raw::try_connect(pooler.address(), "app", "app").is_err());
    assert!(pooler.log().contains("server refused SSL"), "{}", pooler.log());
}

#[test]
fn pgweir_shows_its_own_certificate_to_servers() {
    let certificates = Certificates::get();
    let pooler = Setup::of(Cluster::shared())
        .file("client.crt", &certificates.client.certificate)
        .file("client.key", &certificates.client.key)
        .set("server_tls_sslmode", "\"require\"")
        .set("server_tls_cert_file", "\"client.crt\"")
        .set("server_tls_key_file", "\"client.key\"")
        .start();
    assert_eq!(pooler.connect("app", "cert_user").value("SELECT current_user"), "cert_user");
}

#[test]
fn a_renewed_certificate_is_shown_after_a_reload_without_a_restart() {
    let certificates = Certificates::get();
    let mut pooler = with_certificate("require").start();
    let mut old = encrypted(&pooler, None).unwrap();
    old.login(APP, "").unwrap();
    let first = old.peer_certificate();
    pooler.write("server.crt", &certificates.renewed.certificate);
    pooler.write("server.key", &certificates.renewed.key);
    pooler.reload(|setup| setup);
    eventually("the new certificate is shown", || {
        encrypted(&pooler, None).unwrap().peer_certificate() != first
    });
    assert_eq!(old.value("SELECT 'still there'"), "still there");
    // A broken one is not taken.
    pooler.write("server.crt", "no certificate");
    pooler.reload(|setup| setup);
    eventually("the log says so", || pooler.log().contains("server.crt"));
    let mut client = encrypted(&pooler, None).unwrap();
    client.login(APP, "").unwrap();
    // Nor is it looked at where something else is set.
    let mut console = encrypted(&pooler, None).unwrap();
    console.login(&[("user", "admin"), ("database", "pgbouncer")], "").unwrap();
    assert_eq!(tags(&console.query("SET verbose = 1")), "CZ");
    assert!(tags(&console.query("SET client_tls_protocols = 'tlsv1.3'")).contains('E'));
}

#[test]
fn a_handshake_that_stands_still_holds_up_nobody() {
    let pooler = with_certificate("prefer").set("workers", "1").start();
    let stuck: Vec<Raw> = (0..20)
        .map(|_| {
            let mut client = pooler.dial();
            client.send(&ssl_request());
            client.byte();
            client.send(b"\x16\x03\x01");
            client
        })
        .collect();
    let mut client = encrypted(&pooler, None).unwrap();
    client.login(APP, "").unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    drop(stuck);
}

#[test]
fn cancels_go_over_tls_too() {
    let cluster = Cluster::shared();
    let pooler = with_certificate("require").set("server_tls_sslmode", "\"require\"").start();
    let mut client = encrypted(&pooler, None).unwrap();
    client.login(APP, "").unwrap();
    let mark = cluster.unique("tls_cancel");
    client.send(&query(&format!("SELECT pg_sleep(600) AS {mark}")));
    eventually("it runs", || {
        cluster.connections(&format!("state = 'active' AND query LIKE '%(600) AS {mark}'")) == 1
    });
    let mut canceller = encrypted(&pooler, None).unwrap();
    canceller.send(&cancel_request(client.pid, &client.key));
    while canceller.next().is_some() {}
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
}

#[test]
fn whoever_leaves_or_is_sent_away_hears_the_end_of_tls() {
    type End = fn(&mut Pooler, &mut Raw);
    let ends: [(&str, End); 7] = [
        ("Terminate", |_, client| client.send(&terminate())),
        ("kill", |pooler, _| drop(pooler.console().query("KILL app"))),
        ("kill in a query", |pooler, client| {
            client.send(&query("SELECT pg_sleep(600)"));
            eventually("it runs", || pooler.pool("app", "app", "cl_active") == 1);
            drop(pooler.console().query("KILL app"));
        }),
        ("shutdown", |pooler, _| pooler.signal(Signal::INT)),
        ("at once", |pooler, _| pooler.signal(Signal::QUIT)),
        ("idle in a transaction", |_, client| drop(client.query("BEGIN"))),
        ("broken protocol", |_, client| client.send(b"\0\0\0\0\0\0\0\0")),
    ];
    for (what, end) in ends {
        let mut pooler = with_certificate("prefer").set("idle_transaction_timeout", "0.1").start();
        let mut client = encrypted(&pooler, None).unwrap();
        client.login(APP, "").unwrap();
        end(&mut pooler, &mut client);
        assert!(client.hears_the_end(), "{what}");
    }
    let pooler = with_certificate("prefer").start();
    let mut client = encrypted(&pooler, None).unwrap();
    client.login(&[("user", "app"), ("database", "nowhere")], "").unwrap_err();
    assert!(client.hears_the_end(), "refused");
    let mut client = encrypted(&pooler, None).unwrap();
    client.login(&[("user", "admin"), ("database", "pgbouncer")], "").unwrap();
    client.send(&terminate());
    assert!(client.hears_the_end(), "console");
}
