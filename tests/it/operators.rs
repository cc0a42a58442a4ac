//! Tools that were written for PgBouncer, against pgweir: an exporter, a fixture, readers that go by position.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::drivers::{drivers, finish, root};
use crate::support::bouncer::{self, Bouncer};
use crate::support::place;
use crate::support::prelude::*;

/// Starts this program with the databases `app` and `app2`, and has `app` do a little.
fn busy(program: &Path) -> (Bouncer, Raw) {
    let place = format!("host=127.0.0.1 port={}", Cluster::shared().port);
    let bouncer = Bouncer::start(
        program,
        &format!("app = {place}\napp2 = {place} pool_size=7"),
        "pool_mode = transaction\nmax_client_conn = 321\n",
    );
    let mut client = bouncer.connect("app", "app");
    for query in ["SELECT 1", "BEGIN", "SELECT 2", "COMMIT", "SELECT pg_sleep(0.1)"] {
        client.query(query);
    }
    client.send(&[extended("SELECT $1::int", &[Some("3")]), sync()].concat());
    client.ready();
    client.send(&[parse("s", "SELECT 4", &[]), bind("", "s", &[]), execute("", 0), sync()].concat());
    client.ready();
    (bouncer, client)
}

/// The exporter from PyPI, ended when it is dropped.
struct Exporter(Child, u16);

impl Exporter {
    fn start(bouncer: &Bouncer) -> Self {
        let port = place::free_port();
        let config = bouncer.directory().join("exporter.yml");
        let dsn = format!("postgresql://stats:stats-secret@127.0.0.1:{}/pgbouncer", bouncer.port);
        let text = format!(
            "exporter_host: 127.0.0.1\nexporter_port: {port}\npgbouncers:\n  - dsn: {dsn}\n    extra_labels:\n      site: here\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(drivers().join("tools/bin/python"));
        command.args(["-W", "ignore", "-c", "from prometheus_pgbouncer_exporter.cli import main; main()"]);
        command.arg("--config").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let exporter = Self(command.spawn().unwrap(), port);
        eventually("the exporter listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        exporter
    }

    /// Its samples of PgBouncer: name with labels, and value.
    fn samples(&self) -> Vec<(String, f64)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.1)).unwrap();
        stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("pgbouncer_"));
        lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The exporter's samples of a pooler that has done a little; those of the console left out, which PgBouncer counts.
fn exported(program: &Path) -> Vec<(String, f64)> {
    let (bouncer, _client) = busy(program);
    let samples = Exporter::start(&bouncer).samples();
    samples.into_iter().filter(|(name, _)| !name.contains("database=\"pgbouncer\"")).collect()
}

#[test]
fn the_exporter_from_pypi_finds_all_it_looks_for() {
    let samples = exported(place::pgweir_program());
    let value = |name: &str| {
        let found = samples.iter().find(|sample| sample.0 == name);
        found.unwrap_or_else(|| panic!("no {name} in {samples:#?}")).1
    };
    for (name, expected) in [
        ("pgbouncer_up{site=\"here\"}", 1.0),
        ("pgbouncer_stats_queries_total{database=\"app\",site=\"here\"}", 7.0),
        ("pgbouncer_stats_transactions_total{database=\"app\",site=\"here\"}", 5.0),
        ("pgbouncer_pools_client_active_connections{database=\"app\",site=\"here\",user=\"app\"}", 1.0),
        ("pgbouncer_pools_client_waiting_connections{database=\"app\",site=\"here\",user=\"app\"}", 0.0),
        ("pgbouncer_pools_server_idle_connections{database=\"app\",site=\"here\",user=\"app\"}", 1.0),
        ("pgbouncer_pools_client_maxwait_seconds{database=\"app\",site=\"here\",user=\"app\"}", 0.0),
        (
            "pgbouncer_databases_database_pool_size{backend_database=\"app2\",database=\"app2\",site=\"here\"}",
            7.0,
        ),
        (
            "pgbouncer_databases_database_current_connections{backend_database=\"app\",database=\"app\",site=\"here\"}",
            1.0,
        ),
        ("pgbouncer_config_max_client_conn{site=\"here\"}", 321.0),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    let slept = value("pgbouncer_stats_queries_duration_microseconds_total{database=\"app\",site=\"here\"}");
    assert!((100_000.0..10_000_000.0).contains(&slept), "{slept}");
    for name in ["received", "sent"] {
        let bytes = value(&format!("pgbouncer_stats_{name}_bytes_total{{database=\"app\",site=\"here\"}}"));
        assert!((100.0..10_000.0).contains(&bytes), "{name}: {bytes}");
    }
    if let Some(pgbouncer) = bouncer::pgbouncer() {
        let names =
            |samples: &[(String, f64)]| samples.iter().map(|it| it.0.clone()).collect::<BTreeSet<_>>();
        let theirs = exported(pgbouncer);
        assert_eq!(names(&samples), names(&theirs), "pgweir's samples, then PgBouncer's");
        let counted = |samples: &[(String, f64)]| {
            let counts =
                samples.iter().filter(|(name, _)| !name.contains("duration") && !name.contains("bytes"));
            counts.cloned().collect::<Vec<_>>()
        };
        assert_eq!(counted(&samples), counted(&theirs), "pgweir's counts, then PgBouncer's");
    }
}

/// What a reader by position expects in a column.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Text,
    /// Read into an integer.
    Number,
    /// NULL, or read into a text.
    MaybeText,
}

/// SHOW STATS as CloudNativePG and pgmetrics read it: one name, eleven totals, eleven averages.
fn stats_layout() -> Vec<Kind> {
    [vec![Kind::Text], vec![Kind::Number; 22]].concat()
}

/// SHOW POOLS as they read it: two names, thirteen numbers, the mode, and a NULL where there is one host.
fn pools_layout() -> Vec<Kind> {
    [vec![Kind::Text; 2], vec![Kind::Number; 13], vec![Kind::Text, Kind::MaybeText]].concat()
}

/// Reads a row as a client does that knows the places of the columns and not their names.
fn read_by_position(row: &[Option<String>], layout: &[Kind]) -> Vec<i64> {
    assert_eq!(row.len(), layout.len(), "{row:?}");
    let read = |(value, kind): (&Option<String>, &Kind)| match (kind, value) {
        (Kind::Text, Some(_)) | (Kind::MaybeText, _) => 0,
        (Kind::Number, Some(value)) => {
            value.parse().unwrap_or_else(|_| panic!("{value:?} is no integer: {row:?}"))
        }
        (_, None) => panic!("NULL in {row:?}"),
    };
    row.iter().zip(layout).map(read).collect()
}

/// The row of the database `app`, read by position.
fn app_by_position(bouncer: &Bouncer, what: &str, layout: &[Kind]) -> Vec<i64> {
    let rows = bouncer.connect("pgbouncer", "stats").rows(&format!("SHOW {what}"));
    rows.iter().for_each(|row| drop(read_by_position(row, layout)));
    let row = rows.iter().find(|row| row[0].as_deref() == Some("app")).unwrap();
    read_by_position(row, layout)
}

#[test]
fn stats_and_pools_can_be_read_by_position() {
    let programs = [Some(place::pgweir_program()), bouncer::pgbouncer()];
    for program in programs.into_iter().flatten() {
        let (bouncer, mut client) = busy(program);
        let stats = app_by_position(&bouncer, "STATS", &stats_layout());
        let name = program.display();
        // server_assignment_count, xact_count, query_count; client_parse_count, server_parse_count, bind_count.
        assert_eq!(stats[1..4], [5, 5, 7], "{name}: {stats:?}");
        assert_eq!(stats[9..12], [1, 1, 1], "{name}: {stats:?}");
        let [received, sent, in_transactions, in_queries] = stats[4..8] else { panic!("{stats:?}") };
        assert!(received > 0 && sent > received, "{name}: {stats:?}");
        assert!(in_transactions >= in_queries && in_queries >= 100_000, "{name}: {stats:?}");
        client.query("BEGIN");
        let pools = app_by_position(&bouncer, "POOLS", &pools_layout());
        // cl_active and sv_active; the one server is in use.
        assert_eq!((pools[2], pools[6], pools[9]), (1, 1, 0), "{name}: {pools:?}");
        client.query("COMMIT");
        let pools = app_by_position(&bouncer, "POOLS", &pools_layout());
        assert_eq!((pools[2], pools[6], pools[9]), (1, 0, 1), "{name}: {pools:?}");
    }
}

#[test]
fn debians_fixture_starts_and_stops_it() {
    let package = drivers().join("debian/fixture/usr/lib/python3/dist-packages");
    if !package.join("pgbouncer").exists() {
        println!("not tried: python3-pgbouncer is a package of Debian's, and this is another system");
        return;
    }
    let directory = place::directory("fixture");
    bouncer::link(place::pgweir_program(), &directory);
    let path = std::env::var("PATH").unwrap();
    let mut command = not_as_root(&drivers().join("tools/bin/python"));
    command.arg(root().join("tests/drivers/fixture_test.py"));
    command.env("PYTHONPATH", package).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PATH", format!("{}:{path}", directory.display()));
    command.env("PGWEIR_SERVER", Cluster::shared().port.to_string());
    let printed = finish(&mut command);
    let _ = std::fs::remove_dir_all(&directory);
    assert!(printed.ends_with("ok gone\n"), "{printed}");
}

/// A program that does not see itself as root, also where it is: neither PgBouncer nor pgweir runs as root.
fn not_as_root(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000"]).arg(program);
    command
}
