//! Logins by PAM, through the system's library and a service file that only the pgweir under test sees.
//!
//! The file is mounted over `/etc/pam.d` in a mount namespace of pgweir's own, so that nothing of the machine changes.
//! Where the kernel gives no such namespace the tests say so and pass.

use std::path::PathBuf;

use crate::support::place;
use crate::support::prelude::*;

/// Good are `app` with `right`, unless its account is closed, and the server's password of `scram_user`.
const SCRIPT: &str = r#"#!/bin/sh
DIR=$(dirname "$0")
case $PAM_TYPE in
account) [ "$PAM_USER" != plain_user ] ;;
auth)
    password=$(tr -d '\0')
    [ "$PAM_SERVICE $PAM_RHOST" = "pgbouncer 127.0.0.1" ] || exit 1
    case "$PAM_USER $password" in
    "app right" | "scram_user scram-secret" | "plain_user plain-secret") exit 0 ;;
    "app slow") while [ ! -e "$DIR/go" ]; do sleep 0.05; done; exit 0 ;;
    esac
    exit 1 ;;
esac
"#;

/// A pooler that asks PAM, with a directory of its own in the place of `/etc/pam.d`; `None` where there can be none.
fn pooler() -> Option<(Pooler, PathBuf)> {
    use std::os::unix::fs::PermissionsExt;
    let directory = place::directory("pam");
    let script = directory.join("judge");
    place::write(&script, SCRIPT);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let judge = format!("pam_exec.so quiet expose_authtok {}", script.display());
    place::write(&directory.join("pgbouncer"), &format!("auth required {judge}\naccount required {judge}\n"));
    let mount = format!("mount --bind {} /etc/pam.d", directory.display());
    // Root in the first namespace, which may mount; somebody else in the second, because pgweir refuses to be root.
    let enter = format!("{mount} && exec unshare --map-user=1000 \"$@\"");
    let within = ["unshare", "-rm", "sh", "-c", &enter, "sh"];
    let possible = place::command(within[0]).args(&within[1..]).arg("true").output();
    if !possible.is_ok_and(|it| it.status.success()) {
        eprintln!("SKIPPED: the kernel gives no mount namespace to put a PAM service into");
        return None;
    }
    let server = format!("host = \"127.0.0.1\"\nport = {}", Cluster::shared().port);
    let setup = Setup::bare(&server).database("app", "").set("auth_type", "\"pam\"");
    Some((setup.within(&within).start(), directory))
}

fn log_in(pooler: &Pooler, user: &str, password: &str) -> Result<Raw, String> {
    let mut client = pooler.dial();
    match client.login(&[("user", user), ("database", "app")], password) {
        Ok(()) => Ok(client),
        Err(message) => Err(message.text()),
    }
}

#[test]
fn pam_says_who_comes_in() {
    let Some((pooler, _)) = pooler() else { return };
    let mut client = log_in(&pooler, "app", "right").unwrap();
    assert_eq!(client.value("SELECT current_user"), "app");
    let refused = Err("PAM authentication failed".to_owned());
    assert_eq!(log_in(&pooler, "app", "wrong").map(drop), refused);
    assert_eq!(log_in(&pooler, "nobody", "right").map(drop), refused);
    assert_eq!(log_in(&pooler, "plain_user", "plain-secret").map(drop), refused, "its account is closed");
    let log = pooler.log();
    assert!(log.contains("pam_authenticate() failed") && log.contains("pam_acct_mgmt() failed"), "{log}");
    assert_eq!(log_in(&pooler, "app", "").map(drop), Err("empty password returned by client".to_owned()));
    // No auth_file has its password: the servers are given the one that PAM found good.
    let mut client = log_in(&pooler, "scram_user", "scram-secret").unwrap();
    assert_eq!(client.value("SELECT current_user"), "scram_user");
    assert!(!pooler.log().contains("scram-secret"));
}

#[test]
fn a_module_that_takes_its_time_holds_up_nobody_else() {
    let Some((pooler, directory)) = pooler() else { return };
    let mut fast = log_in(&pooler, "app", "right").unwrap();
    let mut slow: Vec<Raw> = (0..8)
        .map(|_| {
            let mut client = pooler.dial();
            client.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
            assert_eq!(client.next().map(|it| it.tag), Some(b'R'));
            client.send(&password("slow"));
            client
        })
        .collect();
    assert_eq!(fast.value("SELECT 1"), "1");
    log_in(&pooler, "app", "right").unwrap().goodbye();
    place::write(&directory.join("go"), "");
    for client in &mut slow {
        client.ready();
    }
}
