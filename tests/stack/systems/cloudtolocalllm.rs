//! CloudToLocalLLM: three pods of 50 connections on one pool, TLS on both sides, passwords that change.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{client, program, text};
use crate::servers::postgres::{Image, Postgres};
use crate::servers::weir::Weir;
use crate::shell;
use crate::support::certs::Certificates;
use crate::support::place;
use crate::support::raw::Raw;

const PASSWORD: &str = "a password of Sixteen+ characters 1";

struct Cluster {
    config: PathBuf,
    postgres: Postgres,
    weir: Weir,
}

/// A certificate and its key as the README has them made, as `NAME.crt` and `NAME.key`.
fn make_certificate(directory: &Path, name: &str, common_name: &str) {
    let mut openssl = place::command(shell::program("openssl"));
    openssl.args(["req", "-new", "-x509", "-days", "365", "-nodes", "-subj", &format!("/CN={common_name}")]);
    openssl.arg("-out").arg(directory.join(format!("{name}.crt")));
    openssl.arg("-keyout").arg(directory.join(format!("{name}.key")));
    shell::run(&mut openssl).succeeded();
    shell::run(place::command("chmod").arg("600").arg(directory.join(format!("{name}.key")))).succeeded();
}

impl Cluster {
    fn start() -> Self {
        let config = shell::copy_of(&["config/cloudtolocalllm"]).join("config/cloudtolocalllm");
        make_certificate(&config, "server", "postgres.cloudtolocalllm.svc.cluster.local");
        make_certificate(&config, "tls", "pgweir.cloudtolocalllm.svc.cluster.local");
        place::write(&config.join("postgres-password"), PASSWORD);
        place::write(&config.join("readonly-password"), "another password of many characters");
        let directory = config.display().to_string();
        let mut image = Image::new("appuser", PASSWORD, "cloudtolocalllm").environment("SECRETS", &directory);
        image.init = vec![config.join("init")];
        let postgres = image.start();
        for (setting, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
            postgres.execute(&format!("ALTER SYSTEM SET {setting} = '{directory}/{file}'"));
        }
        postgres.execute("ALTER SYSTEM SET ssl = 'on'");
        postgres.execute("SELECT pg_reload_conf()");
        crate::support::eventually("PostgreSQL has TLS", || postgres.execute("SHOW ssl") == "on");
        let weir = weir(&config, &postgres, &[("PGHOST", "127.0.0.1")]);
        Self { config, postgres, weir }
    }

    /// The API's own variables, from the ConfigMap that it is deployed with.
    fn api(&self) -> Command {
        let mut api = client("cloudtolocalllm.mjs", &self.weir, ("cloudtolocalllm", "appuser", PASSWORD));
        for line in text(&self.config.join("application.yaml")).lines() {
            let Some((name, value)) = line.trim().split_once(": ") else { continue };
            if name.starts_with("DB_POOL") || name == "DB_SSL_MODE" {
                api.env(name, value.trim_matches('"'));
            }
        }
        // Machines that run tests may be slow and busy; how long anything takes is not what is tested.
        api.env("DB_POOL_CONNECTION_TIMEOUT", "300000");
        api
    }
}

fn weir(config: &Path, postgres: &Postgres, environment: &[(&str, &str)]) -> Weir {
    let (directory, port) = (config.display().to_string(), postgres.port.to_string());
    let mut all = vec![("PGPORT", port.as_str()), ("SECRETS", &directory), ("TLS_DIR", &directory)];
    all.extend([("LISTEN_ADDR", "127.0.0.1")]);
    all.extend(environment);
    Weir::start(&config.join("pgweir.toml"), &all)
}

#[test]
fn cloudtolocalllm_serves_three_pods_of_fifty_over_tls() {
    let cluster = Cluster::start();
    let printed = shell::run(&mut cluster.api()).succeeded();
    assert!(printed.starts_with("servers "), "{printed}");
    let count = |condition: &str| {
        let sql =
            format!("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE {condition}");
        cluster.postgres.execute(&sql).parse::<u32>().unwrap()
    };
    let pooled = "client_addr IS NOT NULL AND usename = 'appuser'";
    assert!(count(&format!("{pooled} AND ssl")) >= 1);
    assert_eq!(count(&format!("{pooled} AND NOT ssl")), 0, "every server connection has TLS");
    assert!(count(pooled) <= 40);
    assert_eq!(cluster.postgres.execute("SHOW max_connections"), "100");

    // Without TLS nobody comes in, and is told so.
    let mut plain = Raw::dial(("127.0.0.1", cluster.weir.port));
    let refused = plain.login(&[("user", "appuser"), ("database", "cloudtolocalllm")], PASSWORD).unwrap_err();
    assert!(refused.text().contains("SSL required"), "{refused}");

    // The read-only role reads what migrations made, and nothing more.
    let readonly = text(&cluster.config.join("readonly-password"));
    let psql = |port: u16, login: (&str, &str, &str), sql: &str| {
        shell::run(program("psql", port, login).env("PGSSLMODE", "require").args(["-XAtc", sql]))
    };
    let reader = ("cloudtolocalllm", "readonly_user", readonly.as_str());
    assert_eq!(psql(cluster.weir.port, reader, "SELECT count(*) FROM admin_roles").succeeded(), "100\n");
    assert!(
        psql(cluster.weir.port, reader, "DELETE FROM admin_roles").failed(1).contains("permission denied")
    );
    assert!(psql(cluster.weir.port, reader, "CREATE TABLE t ()").failed(1).contains("permission denied"));

    // The wait here ends before the application's own does.
    let shown = psql(cluster.weir.port, ("pgweir", "appuser", PASSWORD), "SHOW CONFIG").succeeded();
    for line in [
        "query_wait_timeout|25|",
        "server_idle_timeout|600|",
        "max_client_conn|500|",
        "server_tls_sslmode|require|",
    ] {
        assert!(shown.contains(&format!("\n{line}")), "{line}");
    }
    every_mode_of_tls_is_what_it_says(&cluster);
    a_backup_comes_back_whole(&cluster);
    a_password_is_changed_without_a_drop(&cluster);
    outside_of_the_cluster_the_certificate_is_verified(&cluster);
}

/// The document's six modes towards a PostgreSQL that has TLS, with a certificate that no authority signed.
fn every_mode_of_tls_is_what_it_says(cluster: &Cluster) {
    let authority = cluster.config.join("server.crt").display().to_string();
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let rows = [
        ("disable", "127.0.0.1", Some("f\n")),
        ("allow", "127.0.0.1", Some("t\n")),
        ("prefer", "127.0.0.1", Some("t\n")),
        ("require", "127.0.0.1", Some("t\n")),
        // It is its own authority; the address is not the name that it bears.
        ("verify-ca", "127.0.0.1", Some("t\n")),
        ("verify-full", "127.0.0.1", None),
    ];
    for (mode, host, wanted) in rows {
        let mut environment = vec![("SERVER_TLS_SSLMODE", mode), ("PGHOST", host)];
        if mode.starts_with("verify") {
            environment.push(("SERVER_TLS_CA_FILE", &authority));
        }
        let weir = weir(&cluster.config, &cluster.postgres, &environment);
        let mut psql = program("psql", weir.port, ("cloudtolocalllm", "appuser", PASSWORD));
        let answer = shell::run(psql.env("PGSSLMODE", "require").args(["-XAtc", sql]));
        match wanted {
            Some(wanted) => assert_eq!(answer.succeeded(), wanted, "{mode}"),
            None => assert_ne!(answer.code, Some(0), "{mode}: {answer:?}"),
        }
    }
    // And the other way round: clients' modes, towards pgweir.
    let certificate = cluster.config.join("tls.crt");
    for (mode, is_served) in [
        ("disable", false),
        ("allow", true),
        ("prefer", true),
        ("require", true),
        ("verify-ca", true),
        ("verify-full", false),
    ] {
        let mut psql = program("psql", cluster.weir.port, ("cloudtolocalllm", "appuser", PASSWORD));
        psql.env("PGSSLMODE", mode).env("PGSSLROOTCERT", &certificate).args(["-XAtc", "SELECT 1"]);
        let answer = shell::run(&mut psql);
        assert_eq!(answer.code == Some(0), is_served, "{mode}: {answer:?}");
    }
}

fn a_backup_comes_back_whole(cluster: &Cluster) {
    let backups = cluster.config.join("backups");
    shell::run(place::command("mkdir").arg(&backups)).succeeded();
    let checksum =
        "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM admin_roles AS t";
    let before = cluster.postgres.execute(checksum);
    // As the CronJob: straight to PostgreSQL.
    let mut backup = place::command("bash");
    backup.arg(cluster.config.join("backup.sh")).env("BACKUPS", &backups).env("PGSSLMODE", "require");
    backup.env("PGHOST", "127.0.0.1").env("PGPORT", cluster.postgres.port.to_string());
    backup.env("PGUSER", "appuser").env("PGPASSWORD", PASSWORD).env("PGDATABASE", "cloudtolocalllm");
    let said = shell::run(&mut backup).succeeded();
    let file = said.trim().strip_prefix("Backup completed: ").expect("it names the file");
    cluster.postgres.execute("DROP TABLE admin_roles");
    // And back through the pool in session mode.
    let mut restore = place::command("bash");
    restore.args(["-c", "gunzip -c \"$0\" | psql -q -X -v ON_ERROR_STOP=1", file]);
    restore.env("PGHOST", "127.0.0.1").env("PGPORT", cluster.weir.port.to_string());
    restore.env("PGSSLMODE", "require").env("PGDATABASE", "cloudtolocalllm_session");
    shell::run(restore.env("PGUSER", "appuser").env("PGPASSWORD", PASSWORD)).succeeded();
    assert_eq!(cluster.postgres.execute(checksum), before);
    assert!(before.starts_with("100 "));
    // A dump that fails leaves nothing behind.
    let mut failing = place::command("bash");
    failing.arg(cluster.config.join("backup.sh")).env("BACKUPS", &backups);
    failing.env("PGHOST", "127.0.0.1").env("PGPORT", "1");
    assert_ne!(shell::run(&mut failing).code, Some(0));
    assert_eq!(std::fs::read_dir(&backups).unwrap().count(), 1);
}

fn a_password_is_changed_without_a_drop(cluster: &Cluster) {
    const NEW: &str = "the next password of Sixteen+ chars 2";
    let mut here = program("psql", cluster.weir.port, ("cloudtolocalllm", "appuser", PASSWORD));
    here.env("PGSSLMODE", "require").args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
    here.args(["-c", "SELECT pg_sleep(2)", "-c", "SELECT 'still here'"]).stdout(std::process::Stdio::piped());
    let here = here.spawn().unwrap();
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(2)' AND state = 'active'";
    crate::support::eventually("the session is there", || cluster.postgres.execute(sleeping) == "1");
    cluster.postgres.execute(&format!("ALTER ROLE appuser PASSWORD '{NEW}'"));
    place::write(&cluster.config.join("postgres-password"), NEW);
    cluster.weir.reload();
    crate::support::eventually("the new password is taken", || {
        let mut psql = program("psql", cluster.weir.port, ("cloudtolocalllm", "appuser", NEW));
        shell::run(psql.env("PGSSLMODE", "require").args(["-XAtc", "SELECT 1"])).code == Some(0)
    });
    let output = here.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("still here"), "a session goes on");
    let mut old = program("psql", cluster.weir.port, ("cloudtolocalllm", "appuser", PASSWORD));
    shell::run(old.env("PGSSLMODE", "require").args(["-XAtc", "SELECT 1"])).failed(2);
}

fn outside_of_the_cluster_the_certificate_is_verified(cluster: &Cluster) {
    let certificates = Certificates::get();
    place::write(&cluster.config.join("server.crt"), &certificates.server.certificate);
    place::write(&cluster.config.join("server.key"), &certificates.server.key);
    place::write(&cluster.config.join("ca.crt"), &certificates.authority);
    cluster.postgres.execute("SELECT pg_reload_conf()");
    let authority = cluster.config.join("ca.crt").display().to_string();
    let verified = [("SERVER_TLS_SSLMODE", "verify-full"), ("SERVER_TLS_CA_FILE", authority.as_str())];
    let password = text(&cluster.config.join("postgres-password"));
    let logs_in = |weir: &Weir| {
        let mut psql = program("psql", weir.port, ("cloudtolocalllm", "appuser", &password));
        shell::run(psql.env("PGSSLMODE", "require").args(["-XAtc", "SELECT 1"])).code == Some(0)
    };
    let right =
        weir(&cluster.config, &cluster.postgres, &[&verified[..], &[("PGHOST", "localhost")]].concat());
    assert!(logs_in(&right));
    place::write(&cluster.config.join("ca.crt"), &certificates.stranger_authority);
    let wrong =
        weir(&cluster.config, &cluster.postgres, &[&verified[..], &[("PGHOST", "localhost")]].concat());
    assert!(!logs_in(&wrong));
}

#[test]
fn cloudtolocalllms_settings_fit_its_server() {
    // 2 pgweir × 40, 3 for the superuser: what the README says is what the files have.
    let config = shell::root().join("config/cloudtolocalllm");
    assert!(text(&config.join("kustomization.yaml")).contains("count: 2"));
    assert!(text(&config.join("pgweir.toml")).contains("max_db_connections = 40"));
    assert!(text(&config.join("postgres.yaml")).contains("max_connections=100"));
}
