//! Spike: Prisma's statements on a transaction pool, a direct route, roles and tenants, Redis with Sentinel.

use std::path::PathBuf;

use super::{program, setting, text};
use crate::servers::postgres::{Image, Postgres};
use crate::servers::redis::Redis;
use crate::servers::weir::Weir;
use crate::shell;
use crate::support::message::{bind, describe_statement, execute, parse, rows, sync, tags};
use crate::support::place;
use crate::support::raw::Raw;

struct Spike {
    config: PathBuf,
    postgres: Postgres,
    weir: Weir,
}

const APP: (&str, &str) = ("spike_app", "the app's");
const MONITOR: (&str, &str) = ("spike_monitor", "the monitor's");
const ADMIN: (&str, &str) = ("postgres", "the admin's");

impl Spike {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more variables for pgweir.
    fn start_with(more: &[(&str, &str)]) -> Self {
        let config = shell::copy_of(&["config/spike"]).join("config/spike");
        let mut image = Image::new(ADMIN.0, ADMIN.1, "spike_dev")
            .environment("SPIKE_APP_PASSWORD", APP.1)
            .environment("SPIKE_MONITOR_PASSWORD", MONITOR.1);
        image.config = Some(config.join("postgres/postgresql.conf"));
        image.options = vec![format!("hba_file={}", config.join("postgres/pg_hba.conf").display())];
        image.init = vec![config.join("postgres/init")];
        let postgres = image.start();
        let (port, hba) = (postgres.port.to_string(), config.join("pgweir_hba.conf").display().to_string());
        let mut environment = vec![
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &port),
            ("HBA_FILE", &hba),
            ("POSTGRES_PASSWORD", ADMIN.1),
            ("SPIKE_APP_PASSWORD", APP.1),
            ("SPIKE_MONITOR_PASSWORD", MONITOR.1),
        ];
        environment.extend(more);
        let weir = Weir::start(&config.join("pgweir.toml"), &environment);
        Self { config, postgres, weir }
    }

    fn login(&self, database: &str, (user, password): (&str, &str)) -> Raw {
        self.weir.login(database, user, password)
    }
}

/// What Prisma's engine sends: a named statement in a round trip of its own, then executions of it.
fn prisma(client: &mut Raw, number: usize, sql: &str, values: &[Option<&str>]) -> Vec<Vec<Option<String>>> {
    let name = format!("s{number}");
    client.send(&[parse(&name, sql, &[]), describe_statement(&name), sync()].concat());
    let prepared = tags(&client.ready());
    assert!(prepared == "1tTZ" || prepared == "1tnZ", "{prepared}");
    client.send(&[bind("", &name, values), execute("", 0), sync()].concat());
    rows(&client.ready())
}

#[test]
fn spike_serves_prisma_and_keeps_tenants_apart() {
    let spike = Spike::start();
    let mut direct = spike.login("spike_dev_direct", ADMIN);
    // `db push`: one session, advisory locks, DDL.
    direct.query("SELECT pg_advisory_lock(72707369)");
    direct.query("CREATE TABLE courses (id serial PRIMARY KEY, tenant_id text NOT NULL, title text)");
    direct.query("SELECT app.protect('courses')");
    assert_eq!(direct.value("SELECT pg_advisory_unlock(72707369)"), "t");

    // Thirty clients, each with names of its own that all begin with s0, on twenty servers at most.
    let mut clients: Vec<Raw> = (0..30).map(|_| spike.login("spike_dev", APP)).collect();
    for number in 0..5 {
        for (n, client) in clients.iter_mut().enumerate() {
            let sql = format!("SELECT $1::text || ' {number}'");
            let value = n.to_string();
            assert_eq!(prisma(client, number, &sql, &[Some(&value)]), [[Some(format!("{n} {number}"))]]);
        }
    }
    for client in &mut clients {
        client.send(&[bind("", "s3", &[Some("again")]), execute("", 0), sync()].concat());
        assert_eq!(rows(&client.ready()), [[Some("again 3".to_owned())]]);
    }
    tenants_are_kept_apart(&mut clients);
    each_user_may_do_what_its_role_is_for(&spike);
    let shown = |name| setting(&spike.weir, ADMIN, name);
    assert_eq!((shown("default_pool_size"), shown("pool_mode")), ("20".to_owned(), "transaction".to_owned()));
    for (name, value) in [("shared_buffers", "256MB"), ("work_mem", "4MB"), ("effective_cache_size", "1GB")] {
        assert_eq!(spike.postgres.execute(&format!("SHOW {name}")), value);
    }
    a_backup_comes_back_whole(&spike);
}

/// Two tenants in turn on the same server: neither sees the other's rows, and after each transaction nobody's.
fn tenants_are_kept_apart(clients: &mut [Raw]) {
    for (n, tenant) in ["a", "b", "a", "b"].into_iter().enumerate() {
        let client = &mut clients[n % 2];
        client.query("BEGIN");
        prisma(client, 10 + n, "SELECT set_config('app.tenant_id', $1, true)", &[Some(tenant)]);
        let insert = "INSERT INTO courses (tenant_id, title) VALUES ($1, 'course')";
        prisma(client, 20 + n, insert, &[Some(tenant)]);
        let seen = client.rows("SELECT DISTINCT tenant_id FROM courses");
        assert_eq!(seen, [[Some(tenant.to_owned())]]);
        assert_eq!(client.failure("INSERT INTO courses (tenant_id) VALUES ('other')"), "42501");
        client.query("ROLLBACK");
        client.query("BEGIN");
        prisma(client, 30 + n, "SELECT set_config('app.tenant_id', $1, true)", &[Some(tenant)]);
        prisma(client, 40 + n, insert, &[Some(tenant)]);
        client.query("COMMIT");
        assert_eq!(client.value("SELECT count(*) FROM courses"), "0", "without a tenant nothing is seen");
    }
    let servers: std::collections::BTreeSet<String> =
        clients.iter_mut().map(|client| client.value("SELECT pg_backend_pid()")).collect();
    assert!(servers.len() < clients.len(), "{} servers", servers.len());
}

fn each_user_may_do_what_its_role_is_for(spike: &Spike) {
    assert_eq!(spike.login("spike_dev", APP).failure("CREATE TABLE t ()"), "42501");
    let mut monitor = spike.login("spike_dev", MONITOR);
    assert_eq!(monitor.failure("SELECT * FROM courses"), "42501");
    assert_eq!(monitor.value("SELECT count(*) FROM monitoring.locks"), "0");
    assert_eq!(monitor.failure("CREATE TEMPORARY TABLE t ()"), "25006");
    let mut console = spike.login("pgweir", MONITOR);
    assert!(!console.rows("SHOW POOLS").is_empty());
    assert_eq!(console.failure("PAUSE"), "42501");
    // pgweir_hba.conf: the application has no business on the console, nor its administrator on the pool.
    for (database, (user, password)) in [("pgweir", APP), ("spike_dev", ADMIN)] {
        let mut stranger = Raw::dial(("127.0.0.1", spike.weir.port));
        let refused = stranger.login(&[("user", user), ("database", database)], password).unwrap_err();
        assert_eq!(refused.sqlstate(), "28000", "{user} on {database}: {refused}");
    }
}

fn a_backup_comes_back_whole(spike: &Spike) {
    let backups = spike.config.join("backups");
    let script = |name: &str| {
        let mut command = place::command("bash");
        command.arg(spike.config.join("scripts").join(name)).env("BACKUP_DIR", &backups);
        command.env("PGHOST", "127.0.0.1").env("PGUSER", ADMIN.0).env("PGPASSWORD", ADMIN.1);
        command.env("PGPORT", spike.postgres.port.to_string());
        command
    };
    // One from long ago goes when a new one is there.
    std::fs::create_dir(&backups).unwrap();
    place::give_away(&backups);
    let old = backups.join("spike_dev_20200101_020000.sql.gz");
    place::write(&old, "");
    shell::run(place::command("touch").args(["-d", "31 days ago"]).arg(&old)).succeeded();
    let checksum = "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM courses AS t";
    let before = spike.postgres.execute(checksum);
    let file = shell::run(&mut script("backup.sh")).succeeded().trim().to_owned();
    assert!(!old.exists());
    let metadata = text(&PathBuf::from(file.replace(".sql.gz", ".json")));
    assert!(
        metadata.contains("\"database\": \"spike_dev\"") && metadata.contains("\"sha256\""),
        "{metadata}"
    );
    shell::run(place::command("gunzip").args(["-t", &file])).succeeded();
    spike.postgres.execute("DROP TABLE courses");
    let mut restore = script("backup.sh");
    restore = {
        let mut psql = place::command("bash");
        psql.args(["-c", "gunzip -c \"$0\" | psql -q -X -v ON_ERROR_STOP=1 -d spike_dev", &file]);
        restore.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
            psql.env(name, value);
        });
        psql
    };
    shell::run(&mut restore).succeeded();
    assert_eq!(spike.postgres.execute(checksum), before);
    assert!(before.starts_with("4 "), "{before}");
    let complaint = shell::run(script("backup.sh").env("PGPORT", "1")).failed(1);
    assert!(complaint.contains("pg_dump of spike_dev failed"), "{complaint}");
    assert_eq!(shell::run(script("backup.sh").env("RETENTION_DAYS", "a")).code, Some(2));
}

#[test]
fn spikes_redis_fails_over_and_its_monitor_notices_what_is_away() {
    let spike = Spike::start();
    let redis = spike.config.join("redis/redis.conf");
    let secret = ["--requirepass", "secret", "--masterauth", "secret"];
    let master = Redis::start(&redis, "secret", &secret);
    let replica = {
        let port = master.port.to_string();
        Redis::start(&redis, "secret", &[&secret[..], &["--replicaof", "127.0.0.1", &port]].concat())
    };
    for (name, value) in
        [("maxmemory", "268435456"), ("maxmemory-policy", "allkeys-lru"), ("appendonly", "yes")]
    {
        assert_eq!(master.ask(&["CONFIG", "GET", name]).lines().nth(1), Some(value));
    }
    assert_eq!(master.ask(&["CONFIG", "GET", "aof-use-rdb-preamble"]).lines().nth(1), Some("yes"));

    // sentinel.sh makes Sentinel's own copy of the file, with the password; the master's address is another one here, and
    // patience shorter.
    let directory = spike.config.join("redis");
    let sentinel_conf = text(&directory.join("sentinel.conf"))
        .replace("redis-master 6379", &format!("127.0.0.1 {}", master.port))
        .replace("down-after-milliseconds spike 5000", "down-after-milliseconds spike 1000");
    let (test_conf, own) = (directory.join("test.conf"), shell::scratch("sentinel"));
    place::write(&test_conf, &sentinel_conf);
    let sentinel_environment = [
        ("SENTINEL_CONF", test_conf.to_str().unwrap()),
        ("SENTINEL_DIR", own.to_str().unwrap()),
        ("REDIS_PASSWORD", "secret"),
    ];
    let sentinel = Redis::by_script(&directory.join("sentinel.sh"), "", &sentinel_environment);
    master.ask(&["SET", "session:1", "kept"]);
    crate::support::eventually("the replica follows", || replica.ask(&["GET", "session:1"]) == "kept");
    crate::support::eventually("Sentinel knows the replica", || {
        sentinel.ask(&["SENTINEL", "REPLICAS", "spike"]).contains(&replica.port.to_string())
    });

    let monitor = || {
        let mut monitor = place::command("bash");
        monitor.arg(spike.config.join("scripts/monitor.sh")).env("PGPORT", spike.weir.port.to_string());
        monitor.env("PGHOST", "127.0.0.1").env("PGPASSWORD", MONITOR.1).env("REDIS_PASSWORD", "secret");
        monitor.env("DATA_DIR", "/dev").env("REDIS_HOST", "127.0.0.1");
        monitor
    };
    let good = shell::run(monitor().env("REDIS_PORT", master.port.to_string())).succeeded();
    for part in [
        "== connections",
        "spike_monitor",
        "== pgweir",
        "connected_slaves:1",
        "maxmemory_human:256",
        "disk used",
        "disks have read",
        "network has received",
    ] {
        assert!(good.contains(part), "{part} is not in\n{good}");
    }
    a_query_that_waits_for_a_lock_is_found(&spike, || {
        shell::run(monitor().env("REDIS_PORT", master.port.to_string()))
    });

    let old = master.port.to_string();
    drop(master);
    crate::support::eventually("Sentinel makes the replica the master", || {
        sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "spike"]).contains(&replica.port.to_string())
    });
    crate::support::eventually("it takes writes", || replica.ask(&["SET", "session:2", "new"]) == "OK");
    assert_eq!(replica.ask(&["GET", "session:1"]), "kept");
    let bad = shell::run(monitor().env("REDIS_PORT", &old));
    assert!(bad.code == Some(1) && bad.stdout.contains("PROBLEM: Redis does not answer"), "{bad:?}");
}

/// One transaction holds a row's lock, another waits for it: the monitor says who, and for whom.
fn a_query_that_waits_for_a_lock_is_found(spike: &Spike, monitor: impl Fn() -> shell::Outcome) {
    let (mut holder, mut waiter) = (spike.login("spike_dev", APP), spike.login("spike_dev", APP));
    spike.postgres.execute("CREATE TABLE locked (n int); INSERT INTO locked VALUES (1)");
    holder.query("BEGIN");
    holder.query("UPDATE locked SET n = 2");
    waiter.send(&crate::support::message::query("UPDATE locked SET n = 3"));
    crate::support::eventually("one waits", || {
        spike.postgres.execute("SELECT count(*) FROM monitoring.locks") == "1"
    });
    let told = monitor();
    assert!(told.code == Some(1) && told.stdout.contains("PROBLEM: 1 queries wait for locks"), "{told:?}");
    assert!(told.stdout.contains("UPDATE locked SET n = 3"), "{told:?}");
    holder.query("COMMIT");
    waiter.ready();
}

/// What the README says of production: TLS, and nobody without it.
#[test]
fn spike_in_production_demands_tls() {
    let pair = &crate::support::certs::Certificates::get().server;
    let files = shell::scratch("tls");
    let (certificate, key) = (files.join("tls.crt"), files.join("tls.key"));
    place::write(&certificate, &pair.certificate);
    place::write(&key, &pair.key);
    let tls = [
        ("CLIENT_TLS_SSLMODE", "require"),
        ("CLIENT_TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("CLIENT_TLS_KEY_FILE", key.to_str().unwrap()),
    ];
    let spike = Spike::start_with(&tls);
    let psql = |mode: &str| {
        let mut psql = program("psql", spike.weir.port, ("spike_dev", APP.0, APP.1));
        shell::run(psql.env("PGSSLMODE", mode).args(["-XAtc", "SELECT current_user"]))
    };
    assert_eq!(psql("require").succeeded(), "spike_app\n");
    assert!(psql("disable").failed(2).contains("SSL required"));
}

#[test]
fn spikes_direct_route_takes_a_dump() {
    let spike = Spike::start();
    let mut dump = program("pg_dump", spike.weir.port, ("spike_dev_direct", ADMIN.0, ADMIN.1));
    assert!(shell::run(&mut dump).succeeded().contains("CREATE VIEW monitoring.locks"));
}
