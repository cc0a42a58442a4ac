//! `auth_type = hba`: which rule applies to whom, and what a reload makes of it.

use std::path::{Path, PathBuf};

use crate::support::place;
use crate::support::prelude::*;

struct Files {
    directory: PathBuf,
}

impl Files {
    fn new(hba: &str, ident: &str) -> Self {
        let files = Self { directory: place::directory("hba") };
        files.write(hba, ident);
        files
    }

    fn write(&self, hba: &str, ident: &str) {
        place::write(&self.directory.join("hba.conf"), hba);
        place::write(&self.directory.join("ident.conf"), ident);
    }

    fn setup(&self) -> Setup {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        Setup::of(Cluster::shared())
            .set("auth_type", "\"hba\"")
            .set("auth_hba_file", &quoted(&self.directory.join("hba.conf")))
            .set("auth_ident_file", &quoted(&self.directory.join("ident.conf")))
    }
}

/// What a login over TCP comes to: `asked for` and the error.
fn login(pooler: &Pooler, database: &str, user: &str, password: &str) -> Result<(), String> {
    pooler.dial().login(&[("user", user), ("database", database)], password).map_err(|it| it.text())
}

fn over_unix(pooler: &Pooler, user: &str) -> Result<String, String> {
    let mut client = Raw::dial_unix(pooler.directory(), pooler.port);
    match client.login(&[("user", user), ("database", "app")], "") {
        Ok(()) => Ok(client.value("SELECT current_user")),
        Err(message) => Err(message.text()),
    }
}

fn refused<T>(text: &str) -> Result<T, String> {
    Err(text.to_owned())
}

#[test]
fn the_first_rule_that_fits_decides() {
    let files = Files::new(
        "host pgbouncer admin all trust\nhost app never_let_in all reject\nhost app app 127.0.0.0/8 trust\n\
         host app plain_user 127.0.0.1 255.255.255.255 password\nhost app2 app all md5\n\
         hostssl all scram_user all trust\nhost app ssl_user 10.0.0.0/8 trust",
        "",
    );
    let pooler = files.setup().start();
    assert_eq!(login(&pooler, "app", "app", "any"), Ok(()));
    assert_eq!(login(&pooler, "app", "plain_user", "plain-secret"), Ok(()));
    assert_eq!(login(&pooler, "app", "plain_user", "wrong"), refused("password authentication failed"));
    assert_eq!(login(&pooler, "app2", "app", "app-secret"), Ok(()));
    assert_eq!(login(&pooler, "app2", "app", "wrong"), refused("password authentication failed"));
    assert_eq!(login(&pooler, "app", "never_let_in", "no-secret"), refused("login rejected"));
    for user in ["scram_user", "ssl_user", "nobody"] {
        assert_eq!(login(&pooler, "app", user, "x"), refused("no authentication method is found"), "{user}");
    }
    assert!(!pooler.show("SHOW VERSION").is_empty());
}

#[test]
fn a_unix_sockets_user_is_the_operating_systems() {
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    let me = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let files = Files::new(
        "local all plain_user peer\nlocal all md5_user,app peer map=people\nlocal all all peer map=all_of_them\nhost all all all peer",
        &format!("people {me} app\npeople \"somebody else\" md5_user\nall_of_them {me} all"),
    );
    let pooler = files.setup().start();
    let socket = pooler.directory().join(format!(".s.PGSQL.{}", pooler.port));
    eventually("it listens there too", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let rejected = || refused("unix socket login rejected");
    assert_eq!(over_unix(&pooler, "app"), Ok("app".to_owned()));
    assert_eq!(over_unix(&pooler, "app2"), Ok("app2".to_owned()));
    assert_eq!(over_unix(&pooler, "plain_user"), rejected(), "it is not {me}");
    assert_eq!(over_unix(&pooler, "md5_user"), rejected(), "the map has it for somebody else");
    assert_eq!(over_unix(&pooler, "unknown"), rejected());
    assert_eq!(login(&pooler, "app", "app", "app-secret"), rejected().map(|_: String| ()));
}

#[test]
fn a_reload_brings_new_rules_and_a_broken_file_none() {
    let files = Files::new("host all all all reject\nhost all all all trust", "");
    let mut pooler = files.setup().start();
    assert_eq!(login(&pooler, "app", "app", ""), refused("login rejected"));
    files.write("host all all all trust", "");
    pooler.reload(|setup| setup);
    eventually("the new rules apply", || login(&pooler, "app", "app", "").is_ok());
    files.write("host all app2 all trust\nhost all all all nonsense", "");
    pooler.reload(|setup| setup);
    eventually("the mistake is reported", || pooler.log().contains("could not parse hba config line 2"));
    assert_eq!(login(&pooler, "app", "app", ""), Ok(()), "the old rules are in force");
}
