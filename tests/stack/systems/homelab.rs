//! Homelab: five databases with a user each on a small server, passwords from files.

use std::path::PathBuf;

use super::{client, program, setting, text};
use crate::servers::postgres::{Image, Postgres};
use crate::servers::weir::Weir;
use crate::shell;
use crate::support::place;
use crate::support::raw::Raw;

const SERVICES: [&str; 4] = ["vikunja", "hedgedoc", "linkding", "navidrome"];

struct Homelab {
    config: PathBuf,
    postgres: Postgres,
    weir: Weir,
    secrets: PathBuf,
}

impl Homelab {
    fn start() -> Self {
        let config = shell::copy_of(&["config/homelab"]).join("config/homelab");
        let secrets = config.join("secrets");
        shell::run(place::command(config.join("secrets.sh")).arg(&secrets)).succeeded();
        let directory = secrets.display().to_string();
        let password = text(&secrets.join("postgres_password"));
        let mut image = Image::new("homelab", &password, "homelab").environment("SECRETS", &directory);
        image.config = Some(config.join("postgresql.conf"));
        image.init = vec![config.join("init")];
        let postgres = image.start();
        let port = postgres.port.to_string();
        let environment = [("PGHOST", "127.0.0.1"), ("PGPORT", port.as_str()), ("SECRETS", &directory)];
        let weir = Weir::start(&config.join("pgweir.toml"), &environment);
        Self { config, postgres, weir, secrets }
    }

    fn password(&self, user: &str) -> String {
        text(&self.secrets.join(format!("{user}_password")))
    }

    fn login(&self, service: &str) -> Raw {
        self.weir.login(service, service, &self.password(service))
    }
}

#[test]
fn homelab_gives_every_service_its_own_database_and_no_other() {
    let homelab = Homelab::start();
    for service in SERVICES {
        let mut session = homelab.login(service);
        assert_eq!(
            session.value("SELECT current_user || ' ' || current_database()"),
            format!("{service} {service}")
        );
        session.query("CREATE TABLE mine (n int)");
        session.query("INSERT INTO mine VALUES (1)");
    }
    let mut stranger = Raw::dial(("127.0.0.1", homelab.weir.port));
    let parameters = [("user", "vikunja"), ("database", "hedgedoc")];
    let refused = stranger.login(&parameters, &homelab.password("vikunja")).unwrap_err();
    assert_eq!(refused.sqlstate(), "42501", "{refused}");
    let wrong =
        Raw::dial(("127.0.0.1", homelab.weir.port)).login(&[("user", "vikunja")], "wrong").unwrap_err();
    assert_eq!(wrong.sqlstate(), "28P01");

    // The management database, and the view that tells services apart behind the pooler.
    let mut owner = homelab.weir.login("homelab", "homelab", &homelab.password("postgres"));
    let mut busy = homelab.login("navidrome");
    busy.query("BEGIN");
    busy.send(&crate::support::message::query("SELECT pg_sleep(600)"));
    let status = "SELECT status FROM service_status WHERE service_name = ";
    crate::support::eventually("navidrome is active", || {
        owner.value(&format!("{status}'navidrome'")) == "active"
    });
    assert_eq!(owner.value(&format!("{status}'vikunja'")), "inactive");
    assert_eq!(owner.value("SELECT count(*) FROM service_configs"), "4");
    owner.query("SELECT log_user_activity('vikunja', 'login', 'someone', '10.0.0.1')");
    assert_eq!(owner.value("SELECT count(*) FROM user_activity"), "1");
    owner.query("INSERT INTO backup_log (service_name, backup_type) VALUES ('vikunja', 'daily')");
    homelab
        .postgres
        .execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'");
    busy.ready();
    busy.query("ROLLBACK");

    // Real drivers: node-postgres as HedgeDoc, psycopg as linkding; who they are shows in PostgreSQL.
    let hedgedoc = homelab.password("hedgedoc");
    shell::run(&mut client("hedgedoc.mjs", &homelab.weir, ("hedgedoc", "hedgedoc", &hedgedoc))).succeeded();
    let linkding = homelab.password("linkding");
    shell::run(&mut client("linkding.py", &homelab.weir, ("linkding", "linkding", &linkding))).succeeded();
    let mut named = Raw::dial(("127.0.0.1", homelab.weir.port));
    let parameters = [("user", "linkding"), ("database", "linkding"), ("application_name", "linkding")];
    named.login(&parameters, &linkding).unwrap();
    assert!(named.value("SHOW application_name").starts_with("linkding - 127.0.0.1:"));

    // Sizes: all pools together fit below the server's 30 connections.
    let admin = ("homelab", &*homelab.password("postgres"));
    assert_eq!(setting(&homelab.weir, admin, "max_db_connections"), "4");
    assert_eq!(homelab.postgres.execute("SHOW max_connections"), "30");
    let servers = homelab
        .postgres
        .execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'");
    assert!(servers.parse::<u32>().unwrap() <= 27, "{servers}");
    all_services_at_work_fit_into_the_container(&homelab);

    every_database_comes_back_from_its_dump(&homelab);
    // Backups: pg_dump through the pool in session mode.
    let mut dump = program("pg_dump", homelab.weir.port, ("homelab_backup", admin.0, admin.1));
    let dump = shell::run(&mut dump).succeeded();
    assert!(dump.contains("CREATE VIEW public.service_status") && dump.contains("dump complete"));
    let mut ready = program("pg_isready", homelab.weir.port, ("homelab", admin.0, admin.1));
    assert_eq!(shell::run(&mut ready).code, Some(0));
}

/// Every server that pgweir may open, each in a transaction that has read and sorted: PostgreSQL stays below the container's
/// 256 MB, and the image's other processes have room.
fn all_services_at_work_fit_into_the_container(homelab: &Homelab) {
    let services = SERVICES.iter().flat_map(|service| (0..4).map(|_| homelab.login(service)));
    let owners = (0..3).map(|_| homelab.weir.login("homelab", "homelab", &homelab.password("postgres")));
    let mut clients: Vec<Raw> = services.chain(owners).collect();
    for client in &mut clients {
        client.query("BEGIN");
        client.query("SELECT count(*) FROM (SELECT md5(n::text) FROM generate_series(1, 20000) n ORDER BY 1) AS sorted");
    }
    let pids = homelab.postgres.execute("SELECT pid FROM pg_stat_activity");
    assert!(pids.lines().count() >= 19, "{pids}");
    let kilobytes = |pid: &str| -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
    };
    let sum: u64 = pids.lines().map(kilobytes).sum();
    if sum == 0 {
        // A container's root may not look into others' processes.
        return shell::skipped("the memory of PostgreSQL's processes may not be read here");
    }
    assert!(sum < 220_000, "{sum} kB");
}

/// backup.sh, all databases lost, and what its head says brings them back: rows, owners, and who may connect.
fn every_database_comes_back_from_its_dump(homelab: &Homelab) {
    let names = || ["homelab"].into_iter().chain(SERVICES);
    let backups = homelab.config.join("backups");
    let backup = || {
        let mut command = place::command(homelab.config.join("backup.sh"));
        command
            .env("IN_CONTAINER", "")
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", homelab.postgres.port.to_string());
        command.env("PGPASSWORD", homelab.password("postgres"));
        command
    };
    assert!(shell::run(backup().arg(&backups)).failed(2).contains("Usage"));
    shell::run(place::command("mkdir").arg(&backups)).succeeded();
    let before: Vec<String> = SERVICES.iter().map(|name| homelab.postgres.contents(name)).collect();
    let files = shell::run(backup().arg(&backups)).succeeded();
    let files: Vec<&str> = files.lines().collect();
    assert_eq!(files.len(), 5, "{files:?}");
    let logged = "SELECT string_agg(service_name, ' ' ORDER BY id) FROM backup_log WHERE backup_type = 'pg_dump' AND success";
    assert_eq!(homelab.postgres.execute(logged), "homelab vikunja hedgedoc linkding navidrome");
    for name in names() {
        homelab.postgres.execute_in("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"));
    }
    for file in files {
        let mut restore =
            program("psql", homelab.postgres.port, ("postgres", "homelab", &homelab.password("postgres")));
        let dump = shell::run(place::command("gunzip").args(["-c", file])).succeeded();
        let sql = backups.join("restore.sql");
        place::write(&sql, &dump);
        shell::run(restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(sql)).succeeded();
    }
    let after: Vec<String> = SERVICES.iter().map(|name| homelab.postgres.contents(name)).collect();
    assert_eq!(after, before);
    assert_eq!(homelab.login("vikunja").value("SELECT count(*) FROM mine"), "1");
    let mut stranger = Raw::dial(("127.0.0.1", homelab.weir.port));
    let parameters = [("user", "vikunja"), ("database", "hedgedoc")];
    let refused = stranger.login(&parameters, &homelab.password("vikunja")).unwrap_err();
    assert_eq!(refused.sqlstate(), "42501", "{refused}");
    // One that cannot be made is told, and noted where that is possible.
    homelab.postgres.execute_in("postgres", "ALTER DATABASE navidrome RENAME TO lost");
    let told = shell::run(backup().arg(&backups)).failed(1);
    assert!(told.contains("The dump of navidrome failed"), "{told}");
    let failed = "SELECT string_agg(service_name, ' ') FROM backup_log WHERE NOT success";
    assert_eq!(homelab.postgres.execute(failed), "navidrome");
    homelab.postgres.execute_in("postgres", "ALTER DATABASE lost RENAME TO navidrome");
}

#[test]
fn homelabs_secrets_are_made_once_and_kept() {
    let directory = place::directory("secrets");
    let script = shell::root().join("config/homelab/secrets.sh");
    let copy = directory.join("secrets.sh");
    std::fs::copy(&script, &copy).unwrap();
    place::give_away(&copy);
    let run = || shell::run(place::command("bash").arg(&copy).arg(directory.join("secrets"))).succeeded();
    assert_eq!(run().matches(": made").count(), 5);
    let first = text(&directory.join("secrets/vikunja_password"));
    assert_eq!(first.len(), 48);
    assert_eq!(run().matches(": kept").count(), 5);
    assert_eq!(text(&directory.join("secrets/vikunja_password")), first);
    let _ = std::fs::remove_dir_all(directory);
}
