//! Logins by LDAP, against a slapd of the test's own.

use std::net::TcpListener;

use crate::support::prelude::*;
use crate::support::slapd::{BASE, Slapd};

/// Ann and Bob, who need roles of their own, in a cluster that asks them for nothing.
fn cluster() -> &'static Cluster {
    static MADE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let mut owner = Cluster::shared().connect("app", "postgres");
        for role in ["ann", "bob"] {
            owner.query(&format!("CREATE ROLE {role} LOGIN"));
        }
    });
    Cluster::shared()
}

/// A pooler that knows no users and lets them in by these options.
fn with_options(slapd: &Slapd, options: &str) -> Setup {
    let options =
        options.replace("PORT", &slapd.port.to_string()).replace("TLS", &slapd.tls_port.to_string());
    let server = format!("host = \"127.0.0.1\"\nport = {}", cluster().port);
    let conf = slapd.client_conf(&format!("TLS_CACERT {}\n", slapd.authority()));
    Setup::bare(&server)
        .database("app", "")
        .set("auth_type", "\"ldap\"")
        .set("auth_ldap_options", &format!("'{options}'"))
        .environment("LDAPCONF", &conf)
}

fn log_in(pooler: &Pooler, user: &str, password: &str) -> Result<Raw, String> {
    let mut client = pooler.dial();
    match client.login(&[("user", user), ("database", "app")], password) {
        Ok(()) => Ok(client),
        Err(message) => Err(message.text()),
    }
}

#[test]
fn users_bind_in_every_way_there_is() {
    let slapd = Slapd::start();
    for options in [
        format!("ldapserver=127.0.0.1 ldapport=PORT ldapprefix=\"uid=\" ldapsuffix=\",ou=people,{BASE}\""),
        format!("ldapserver=127.0.0.1 ldapport=PORT ldapbasedn=\"{BASE}\""),
        format!("ldapserver=\"127.0.0.1:1 127.0.0.1\" ldapport=PORT ldapbasedn=\"{BASE}\""),
        format!("ldapserver=127.0.0.1 ldapport=PORT ldapbasedn=\"{BASE}\" ldapsearchattribute=uid"),
        format!(
            "ldapserver=127.0.0.1 ldapport=PORT ldapbasedn=\"{BASE}\" ldapbinddn=\"cn=reader,{BASE}\" ldapbindpasswd=reader-secret"
        ),
        format!(
            "ldapserver=127.0.0.1 \"ldapport\"=PORT ldapbasedn=\"{BASE}\" ,ldapsearchfilter=\"mail=$username@example.net\""
        ),
        format!("ldapurl=\"ldap://127.0.0.1:PORT/ou=people,{BASE}?uid?one\""),
        format!("ldapurl=\"ldap://127.0.0.1:PORT/{BASE}??sub?(|(uid=$username)(mail=$username))\""),
        format!("ldapurl=\"ldaps://localhost:TLS/{BASE}?uid?sub\""),
        format!("ldapserver=localhost ldapport=TLS ldapscheme=ldaps ldapbasedn=\"{BASE}\""),
        format!("ldapserver=localhost ldapport=PORT ldaptls=1 ldapbasedn=\"{BASE}\""),
    ] {
        let pooler = with_options(&slapd, &options).start();
        let mut client =
            log_in(&pooler, "ann", "ann-secret").unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(client.value("SELECT current_user"), "ann", "{options}");
        for (user, password) in [("ann", "bob-secret"), ("nobody", "ann-secret"), ("an*", "ann-secret")] {
            let refused = log_in(&pooler, user, password).map(drop);
            assert_eq!(refused, Err("LDAP authentication failed".to_owned()), "{options}");
        }
        assert_eq!(log_in(&pooler, "ann", "").map(drop), Err("empty password returned by client".to_owned()));
    }
}

#[test]
fn whom_ldap_cannot_tell_apart_does_not_come_in() {
    let slapd = Slapd::start();
    for (options, log) in [
        (
            format!("ldapurl=\"ldap://127.0.0.1:PORT/{BASE}??sub?(mail=both@example.net)\""),
            "returned more than one entry",
        ),
        (format!("ldapurl=\"ldap://127.0.0.1:PORT/{BASE}?uid\""), "returned no entries"),
        (
            format!(
                "ldapserver=127.0.0.1 ldapport=PORT ldapbasedn=\"{BASE}\" ldapbinddn=\"cn=reader,{BASE}\" ldapbindpasswd=wrong"
            ),
            "could not perform initial LDAP bind",
        ),
        (
            format!("ldapserver=127.0.0.1 ldapport=PORT ldapbasedn=\"{BASE}\" ldapsearchfilter=\"(((\""),
            "could not search LDAP",
        ),
        (
            format!("ldapurl=\"ldaps://localhost:PORT/{BASE}?uid?sub\""),
            "could not connect to ldaps://localhost",
        ),
        (
            format!("ldapserver=localhost ldapport=TLS ldaptls=1 ldapbasedn=\"{BASE}\""),
            "could not connect to ldap://localhost",
        ),
    ] {
        let pooler = with_options(&slapd, &options).start();
        let refused = log_in(&pooler, "ann", "ann-secret").map(drop);
        assert_eq!(refused, Err("LDAP authentication failed".to_owned()), "{options}");
        assert!(pooler.log().contains(log), "{options}");
        assert!(!pooler.log().contains("ann-secret"));
    }
}

#[test]
fn the_servers_certificate_must_be_good_unless_ldap_conf_says_otherwise() {
    let slapd = Slapd::start();
    let options = format!("ldapurl=\"ldaps://localhost:TLS/{BASE}?uid?sub\"");
    let pooler = with_options(&slapd, &options).environment("LDAPCONF", "/dev/null").start();
    assert_eq!(log_in(&pooler, "ann", "ann-secret").map(drop), Err("LDAP authentication failed".to_owned()));
    drop(pooler);
    let setup = with_options(&slapd, &options);
    let lax = slapd.client_conf("TLS_REQCERT never\n");
    let pooler = setup.environment("LDAPCONF", &lax).start();
    assert!(log_in(&pooler, "ann", "ann-secret").is_ok());
}

#[test]
fn the_password_goes_on_to_a_server_that_asks_for_one() {
    let slapd = Slapd::start();
    let options = format!("ldapserver=127.0.0.1 ldapport=PORT ldapbasedn=\"{BASE}\"");
    let pooler = with_options(&slapd, &options).start();
    let mut client = log_in(&pooler, "scram_user", "scram-secret").unwrap();
    assert_eq!(client.value("SELECT current_user"), "scram_user");
}

#[test]
fn a_server_that_does_not_answer_holds_up_nobody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = crate::support::place::directory("hba");
    let hba = directory.join("hba.conf");
    let port = silent.local_addr().unwrap().port();
    let text = format!(
        "host all ann all ldap ldapserver=127.0.0.1 ldapport={port} ldapbasedn=x\nhost all all all scram-sha-256"
    );
    crate::support::place::write(&hba, &text);
    let pooler = Setup::of(cluster())
        .set("auth_type", "\"hba\"")
        .set("max_client_conn", "200")
        .set("auth_hba_file", &format!("{:?}", hba.display().to_string()))
        .start();
    let waiting: Vec<Raw> = (0..100)
        .map(|_| {
            let mut client = pooler.dial();
            client.send(&startup(PROTOCOL_3_0, &[("user", "ann"), ("database", "app")]));
            assert_eq!(client.next().map(|it| it.tag), Some(b'R'));
            client.send(&password("ann-secret"));
            client
        })
        .collect();
    let began = Instant::now();
    let mut client = pooler.dial();
    client.login(&[("user", "app"), ("database", "app")], "app-secret").unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(waiting);
}
