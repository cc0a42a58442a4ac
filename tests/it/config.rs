//! Configuration as the administrator meets it: files good and bad, checked, loaded and reloaded.

use std::process::Output;

use crate::support::certs::Certificates;
use crate::support::place;
use crate::support::prelude::*;

/// Runs `pgweir check` on a file with this name and text.
fn check(name: &str, text: &str) -> (Option<i32>, String) {
    let directory = place::directory("check");
    let file = directory.join(name);
    place::write(&file, text);
    let output = run(&["check", &file.display().to_string()]);
    let path = format!("{}/", directory.display());
    let _ = std::fs::remove_dir_all(&directory);
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap().replace(&path, ""))
}

fn run(arguments: &[&str]) -> Output {
    place::command(place::pgweir_program()).args(arguments).output().unwrap()
}

#[test]
fn a_good_file_is_good() {
    let (code, printed) =
        check("good.toml", "[pgweir]\npool_mode = \"transaction\"\n[databases.app]\nport = 5433\n");
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("good.toml: good"), "{printed}");
}

#[test]
fn every_mistake_of_a_file_is_named_with_its_line_and_a_hint() {
    let text = "[pgweir]\n\
        pool_mod = \"transaction\"\n\
        server_idle_timeout = \"10m\"\n\
        default_pool_size = -1\n\
        auth_type = \"kerberos\"\n\
        listen_port = 70000\n\
        [databases.app]\n\
        prot = 5432\n\
        [users.app]\n\
        pool_size = \"many\"\n";
    let (code, printed) = check("bad.toml", text);
    assert_eq!(code, Some(1), "{printed}");
    for (line, name) in [
        (2, "pool_mod"),
        (3, "server_idle_timeout"),
        (4, "default_pool_size"),
        (5, "auth_type"),
        (6, "listen_port"),
        (8, "databases.app.prot"),
        (10, "users.app.pool_size"),
    ] {
        assert!(printed.contains(&format!("bad.toml:{line}: {name}: ")), "{name} is missing in\n{printed}");
    }
    assert!(printed.contains("hint: did you mean \"pool_mode\"?"), "{printed}");
    assert!(printed.contains("hint: units are us, ms, s, min, h, d"), "{printed}");
    assert!(printed.contains("7 mistakes"), "{printed}");
}

#[test]
fn a_file_that_is_no_toml_is_named_with_its_line() {
    let (code, printed) = check("broken.toml", "[pgweir]\npool_mode = \n");
    assert_eq!(code, Some(1));
    assert!(printed.starts_with("broken.toml:2: "), "{printed}");
}

#[test]
fn a_program_without_a_usable_file_says_so_and_fails() {
    for arguments in [&["/nowhere/pgweir.toml"][..], &[], &["one", "two"]] {
        let output = run(arguments);
        assert_eq!(output.status.code().map(|code| code != 0), Some(true), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

/// Files that read well and cannot start: PgBouncer's way of writing them, each with what is said of its sixth line.
#[test]
fn a_file_that_cannot_start_is_not_good() {
    let certificates = Certificates::get();
    let scratch = place::directory("start");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (name, text) in [
        ("server.crt", &*certificates.server.certificate),
        ("server.key", &certificates.server.key),
        ("other.key", &certificates.client.key),
        ("encrypted.key", encrypted),
        ("nothing", "nothing\n"),
    ] {
        place::write(&scratch.join(name), text);
    }
    let tls = |certificate: &str, key: &str, more: &str| {
        format!(
            "client_tls_cert_file = {dir}/{certificate}\nclient_tls_key_file = {dir}/{key}\n{more}",
            dir = scratch.display()
        )
    };
    let require = "client_tls_sslmode = require";
    let start = |settings: &str| {
        let text = format!("[pgbouncer]\nlisten_addr =\nunix_socket_dir = /tmp\n{settings}\n");
        (check("pgbouncer.ini", &text), text)
    };
    for (name, settings, said) in [
        ("good", tls("server.crt", "server.key", require), ""),
        ("another key", tls("server.crt", "other.key", require), ":5: client_tls_key_file: "),
        ("no certificate", tls("nothing", "server.key", require), ":4: client_tls_cert_file: "),
        ("a key with a passphrase", tls("server.crt", "encrypted.key", require), ":5: client_tls_key_file: "),
        (
            "no authority",
            tls("server.crt", "server.key", "client_tls_sslmode = verify-full"),
            ":6: client_tls_sslmode: ",
        ),
        (
            "a cipher",
            tls("server.crt", "server.key", &format!("client_tls_ciphers = FOO\n{require}")),
            ":6: client_tls_ciphers: ",
        ),
        (
            "a curve",
            tls("server.crt", "server.key", &format!("client_tls_ecdhcurve = foo\n{require}")),
            ":6: client_tls_ecdhcurve: ",
        ),
        (
            "half of a pair",
            format!("server_tls_cert_file = {}/server.crt", scratch.display()),
            ":4: server_tls_cert_file: ",
        ),
        ("a user", "user = nobody_here".to_owned(), ":4: user: "),
        ("a log", "logfile = /nowhere/log".to_owned(), ":4: logfile: /nowhere: "),
        ("a pid file", "pidfile = /nowhere/pid".to_owned(), ":4: pidfile: /nowhere: "),
        ("a socket", "unix_socket_dir = /nowhere".to_owned(), ":4: unix_socket_dir: "),
        ("a group", "unix_socket_group = nobody_here".to_owned(), ":4: unix_socket_group: "),
        ("a resolver", "resolv_conf = /nowhere".to_owned(), ":4: resolv_conf: /nowhere: "),
    ] {
        let ((code, printed), text) = start(&settings);
        assert_eq!(code, Some(i32::from(!said.is_empty())), "{name}: {printed}");
        assert!(printed.contains(&format!("pgbouncer.ini{said}")), "{name}: {printed}");
        if said.is_empty() {
            continue;
        }
        // And it does not start.
        let file = scratch.join("pgbouncer.ini");
        place::write(&file, &text);
        let output = run(&[&file.display().to_string()]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("FATAL"), "{name}: {output:?}");
    }
    let _ = std::fs::remove_dir_all(scratch);
}

#[test]
fn a_certificate_that_has_expired_is_noted() {
    let scratch = place::directory("expired");
    let pair = crate::support::certs::expired();
    place::write(&scratch.join("crt"), &pair.certificate);
    place::write(&scratch.join("key"), &pair.key);
    let text = format!(
        "[pgweir]\nclient_tls_sslmode = \"require\"\nclient_tls_cert_file = \"{dir}/crt\"\nclient_tls_key_file = \"{dir}/key\"\n",
        dir = scratch.display()
    );
    let (code, printed) = check("pgweir.toml", &text);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("pgweir.toml:3: note: client_tls_cert_file: the certificate has expired"),
        "{printed}"
    );
    let _ = std::fs::remove_dir_all(scratch);
}

#[test]
fn the_files_of_the_repository_are_good() {
    let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for name in ["pgweir.toml", "lingudesk/pgweir.toml"] {
        let text = std::fs::read_to_string(config.join(name)).unwrap();
        let (code, printed) = check("pgweir.toml", &text);
        assert_eq!(code, Some(0), "{name}: {printed}");
    }
}

#[test]
fn lingudesks_pools_are_what_its_documentation_says() {
    let text = include_str!("../../config/lingudesk/pgweir.toml");
    let pooler = Setup::of(Cluster::shared()).start();
    drop(pooler);
    for (name, size) in
        [("auth", 20), ("credit", 15), ("ai", 25), ("content", 30), ("audit", 10), ("admin", 5)]
    {
        let entry = text.split(&format!("[databases.lingudesk_{name}]")).nth(1).unwrap();
        let entry = entry.split("\n[").next().unwrap();
        assert!(entry.contains(&format!("pool_size = {size}\n")), "{name}: {entry}");
        let fixed = if name == "admin" {
            "pool_mode = \"session\"".to_owned()
        } else {
            format!("schema = \"{name}\"")
        };
        assert!(entry.contains(&fixed), "{name}: {entry}");
    }
}

#[test]
fn a_pgbouncer_ini_with_its_userlist_works() {
    let cluster = Cluster::shared();
    let directory = place::directory("ini");
    let port = place::free_port();
    let list = directory.join("userlist.txt");
    place::write(&list, "\"app\" \"app-secret\"\n\"admin\" \"admin-secret\"\n; a comment\n");
    let ini = format!(
        ";; as Debian has it\n[databases]\napp = host=127.0.0.1 port={} dbname='app' pool_size=2\n* = host=127.0.0.1 port={}\n\n\
         [users]\napp = pool_mode=session\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir = {}\nauth_type = scram-sha-256\nauth_file = {}\nadmin_users = admin\npool_mode = transaction\n\
         server_tls_sslmode = disable\nserver_lifetime = 1200\nignore_startup_parameters = extra_float_digits, geqo\n",
        cluster.port,
        cluster.port,
        directory.display(),
        list.display()
    );
    let file = directory.join("pgbouncer.ini");
    place::write(&file, &ini);
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut child = place::command(place::pgweir_program()).arg(&file).stderr(log).spawn().unwrap();
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut client = Raw::dial(("127.0.0.1", port));
    client.login(&[("user", "app"), ("database", "app"), ("extra_float_digits", "2")], "app-secret").unwrap();
    assert_eq!(client.value("SELECT current_database()"), "app");
    let mut console = Raw::dial(("127.0.0.1", port));
    console.login(&[("user", "admin"), ("database", "pgbouncer")], "admin-secret").unwrap();
    let config = console.rows("SHOW CONFIG");
    let value =
        |name: &str| config.iter().find(|row| row[0].as_deref() == Some(name)).unwrap()[1].clone().unwrap();
    assert_eq!((value("server_lifetime"), value("pool_mode")), ("1200".to_owned(), "transaction".to_owned()));
    let mode =
        &console.rows("SHOW POOLS").into_iter().find(|row| row[0].as_deref() == Some("app")).unwrap()[15];
    assert_eq!(mode.as_deref(), Some("session"));
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn a_reload_applies_a_good_file() {
    let mut pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut old = pooler.app();
    old.query("SELECT 1");
    pooler.reload(|setup| {
        let setup = setup.set("default_pool_size", "7").without_database("app2");
        setup.database("added", "dbname = \"app\"").user("newcomer", "password = \"x\"")
    });
    eventually("the new database is there", || Raw::try_connect(pooler.address(), "added", "app").is_ok());
    assert_eq!(pooler.connect("added", "app").value("SELECT current_database()"), "app");
    assert_eq!(pooler.refusal(&[("user", "app"), ("database", "app2")], "").sqlstate(), "3D000");
    let databases = pooler.show("SHOW DATABASES");
    assert_eq!(databases.iter().find(|row| row["name"] == "app").unwrap()["pool_size"], "7");
    assert_eq!(old.value("SELECT 'still served'"), "still served");
}

#[test]
fn a_reload_of_a_bad_file_changes_nothing_and_names_the_mistakes() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "3").start();
    let good = pooler.config();
    pooler.rewrite(&good.replace("default_pool_size = 3", "default_pool_size = 9\nnonsense = 1"));
    let answer = pooler.console().query("RELOAD");
    let refused = error(&answer);
    assert!(refused.text().contains("nonsense") || refused.to_string().contains("nonsense"), "{refused}");
    assert!(pooler.log().contains("nonsense"), "{}", pooler.log());
    let size = || {
        pooler.show("SHOW DATABASES").iter().find(|row| row["name"] == "app").unwrap()["pool_size"].clone()
    };
    assert_eq!(size(), "3");
    pooler.signal(Signal::HUP);
    assert_eq!(pooler.app().value("SELECT 1"), "1");
    assert_eq!(size(), "3");
    pooler.rewrite(&good.replace("default_pool_size = 3", "default_pool_size = 5"));
    assert_eq!(tags(&pooler.console().query("RELOAD")), "CZ");
    assert_eq!(size(), "5");
}

#[test]
fn a_reload_without_its_log_file_is_refused_and_the_old_log_says_why() {
    let mut pooler = Setup::of(Cluster::shared()).set("default_pool_size", "3").start();
    pooler.reload(|setup| setup.set("logfile", "\"/nowhere/log\"").set("default_pool_size", "4"));
    eventually("the log says so", || pooler.log().contains("/nowhere/log"));
    let databases = pooler.show("SHOW DATABASES");
    assert_eq!(databases.iter().find(|row| row["name"] == "app").unwrap()["pool_size"], "3");
}

#[test]
fn a_database_that_moved_gets_new_servers() {
    let cluster = Cluster::shared();
    let mut pooler = Setup::of(cluster).database("moving", "dbname = \"app\"").start();
    let mut client = pooler.connect("moving", "app");
    assert_eq!(client.value("SELECT current_database()"), "app");
    client.query("BEGIN");
    pooler.reload(|setup| setup.database("moving", "dbname = \"app2\""));
    let elsewhere = || pooler.connect("moving", "app").value("SELECT current_database()") == "app2";
    eventually("new clients are elsewhere", elsewhere);
    // A transaction is not torn.
    assert_eq!(client.value("SELECT current_database()"), "app");
    client.query("COMMIT");
    assert_eq!(client.value("SELECT current_database()"), "app2");
}
