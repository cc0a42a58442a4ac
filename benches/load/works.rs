//! The works of the table: what pgbench and psql are told to do, and which figures come of it.

use std::fmt::Write as _;

use super::*;
use crate::figures::{Better, Measure, Row};
use crate::idle::{Connection, allowed_clients, resident};

const CPU: Measure = less("CPU µs per transaction", 1, true);
const RATE: Measure = Measure { name: "transactions/s", better: Better::More, digits: 0, chart: true };
const P50: Measure = less("latency p50, ms", 3, false);
const P99: Measure = less("latency p99, ms", 3, true);
const CPU_PER_GB: Measure = less("CPU s per GB", 2, true);
const CPU_PER_CONNECTION: Measure = less("CPU µs per connection", 0, true);
const IDLE: Measure = less("bytes per idle client", 0, true);
const RESIDENT: Measure = less("resident kB with them", 0, false);
const LEFT: Measure = less("memory after they left : before", 2, false);

const fn less(name: &'static str, digits: usize, chart: bool) -> Measure {
    Measure { name, better: Better::Less, digits, chart }
}

/// Bytes of a transfer: see [`transfers`].
const MB: usize = 1_000_000;
/// Clients that are there before memory is measured: they make what all share.
const FIRST_CLIENTS: usize = 50;

/// Something to be measured of each subject.
pub enum Work {
    /// pgbench with these arguments.
    Load { name: String, arguments: Vec<String>, database: &'static str, bars: Bars },
    /// A script of pgbench's that moves so many bytes.
    Transfer { name: &'static str, sql: &'static str, bytes: usize, bar: f64 },
    /// psql's `\\copy` from or to a file of so many bytes.
    Copy { name: &'static str, command: String, bytes: usize, bar: f64 },
    /// A connection for each transaction.
    Connections { name: &'static str, ssl_mode: &'static str, bar: f64 },
}

/// What the ratios are to be.
#[derive(Clone, Copy, Default)]
pub struct Bars {
    cpu: Option<f64>,
    rate: Option<f64>,
    latency: Option<f64>,
}

impl Work {
    /// Its lines of the table, still without figures; in the order in which [`Work::run`] gives them.
    pub fn rows(&self) -> Vec<Row> {
        let row =
            |work: &str, measure, bar| Row { work: work.into(), measure, bar, samples: BTreeMap::new() };
        match self {
            Self::Load { name, bars, .. } => vec![
                row(name, CPU, bars.cpu),
                row(name, RATE, bars.rate),
                row(name, P50, bars.latency),
                row(name, P99, bars.latency),
            ],
            Self::Transfer { name, bar, .. } | Self::Copy { name, bar, .. } => {
                vec![row(name, CPU_PER_GB, Some(*bar))]
            }
            Self::Connections { name, bar, .. } => vec![row(name, CPU_PER_CONNECTION, Some(*bar))],
        }
    }

    /// Does it once.
    pub fn run(&self, subject: &Subject, site: &Site) -> Vec<Option<f64>> {
        let seconds = ["-T".to_owned(), site.plan.seconds.to_string()];
        let before = subject.pid.map(ticks);
        let spent = || {
            let spent = subject.pid.map(ticks)?.saturating_sub(before?);
            Some(spent as f64 / TICKS_PER_SECOND)
        };
        let figures = match self {
            Self::Load { arguments, database, .. } => {
                let arguments: Vec<String> = arguments.iter().chain(&seconds).cloned().collect();
                let latencies = pgbench(subject, site, (database, "disable"), &arguments);
                let count = latencies.len() as f64;
                let at = |part: f64| latencies.get((count * part) as usize).map(|it| f64::from(*it) / 1000.0);
                let rate = count / site.plan.seconds as f64;
                vec![spent().map(|it| it * 1e6 / count), Some(rate), at(0.5), at(0.99)]
            }
            Self::Transfer { sql, bytes, .. } => {
                let script = site.directory.join("transfer.sql");
                place::write(&script, sql);
                let times = site.plan.transfers * (10 * MB).div_ceil(*bytes) / 4;
                let script = script.to_str().expect("the path is ASCII");
                let arguments =
                    ["-c", "4", "-j", "2", "-f", script, "-t", &times.to_string()].map(String::from);
                let done = pgbench(subject, site, (DATABASE, "disable"), &arguments).len();
                vec![spent().map(|it| it / (done * bytes) as f64 * 1e9)]
            }
            Self::Copy { command, bytes, .. } => {
                psql(subject, command);
                vec![spent().map(|it| it / *bytes as f64 * 1e9)]
            }
            Self::Connections { ssl_mode, .. } => {
                let arguments = ["-S", "-C", "-c", "8", "-j", "2"].map(String::from);
                let arguments: Vec<String> = arguments.into_iter().chain(seconds).collect();
                // PostgreSQL itself offers no TLS here.
                let ssl_mode = if subject.pid.is_some() { ssl_mode } else { "disable" };
                let done = pgbench(subject, site, (DATABASE, ssl_mode), &arguments).len();
                vec![spent().map(|it| it * 1e6 / done as f64)]
            }
        };
        figures.into_iter().map(|it: Option<f64>| it.filter(|it| it.is_finite())).collect()
    }
}

/// All of them, except for memory.
pub fn all(site: &Site) -> Vec<Work> {
    let mut works = loads();
    let pipeline = site.directory.join("pipeline.sql");
    place::write(&pipeline, &pipeline_of(10));
    let bars = Bars { rate: Some(2.3), ..Bars::default() };
    let script = pipeline.to_str().expect("the path is ASCII");
    works.push(load("pipelines of 10 selects", DATABASE, bars, &["-M", "prepared", "-f", script, "-c", "8"]));
    let sleep = site.directory.join("sleep.sql");
    place::write(&sleep, "SELECT pg_sleep(0.002);\n");
    let bars = Bars { cpu: Some(0.85), rate: Some(1.0), latency: Some(1.0) };
    let script = sleep.to_str().expect("the path is ASCII");
    works.push(load("500 clients, 10 servers, 2 ms", NARROW, bars, &["-f", script, "-c", "500"]));
    works.extend(transfers(site));
    works.push(Work::Connections { name: "connections, plain", ssl_mode: "disable", bar: 1.0 });
    works.push(Work::Connections { name: "connections, TLS", ssl_mode: "require", bar: 0.65 });
    works
}

fn load(name: &str, database: &'static str, bars: Bars, arguments: &[&str]) -> Work {
    let arguments = arguments.iter().map(|it| (*it).to_owned()).chain(["-j".into(), "2".into()]).collect();
    Work::Load { name: name.into(), arguments, database, bars }
}

/// pgbench's select-only in its three protocols.
fn loads() -> Vec<Work> {
    const BARS: [(usize, [f64; 3]); 3] =
        [(8, [1.0, 0.95, 0.82]), (64, [0.95, 0.9, 0.8]), (256, [0.95, 0.95, 0.8])];
    let lone = Bars { latency: Some(1.0), ..Bars::default() };
    let mut works = vec![load("simple, 1 client", DATABASE, lone, &["-S", "-M", "simple", "-c", "1"])];
    for (clients, bars) in BARS {
        for (mode, bar) in ["simple", "extended", "prepared"].into_iter().zip(bars) {
            let name = format!("{mode}, {clients} clients");
            let bars = Bars { cpu: Some(bar), ..Bars::default() };
            works.push(load(&name, DATABASE, bars, &["-S", "-M", mode, "-c", &clients.to_string()]));
        }
    }
    works
}

fn pipeline_of(selects: usize) -> String {
    let mut script = String::from("\\set aid random(1, 100000 * :scale)\n\\startpipeline\n");
    for _ in 0..selects {
        script.push_str("SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n");
    }
    script + "\\endpipeline\n"
}

fn transfers(site: &Site) -> Vec<Work> {
    let file = site.directory.join("lines");
    let line = "x".repeat(99) + "\n";
    place::write(&file, &line.repeat(100 * MB / line.len()));
    let sink = "\\copy sink from";
    vec![
        Work::Transfer {
            name: "10,000 rows of 1 kB",
            sql: "SELECT repeat('x', 1000) FROM generate_series(1, 10000);\n",
            bytes: 10 * MB,
            bar: 0.45,
        },
        Work::Transfer {
            name: "results of 100 kB",
            sql: "SELECT repeat('x', 1000) FROM generate_series(1, 100);\n",
            bytes: MB / 10,
            bar: 0.5,
        },
        Work::Transfer {
            name: "a row of 10 MB",
            sql: "SELECT repeat('x', 10000000);\n",
            bytes: 10 * MB,
            bar: 0.4,
        },
        Work::Copy {
            name: "COPY in of 100 MB",
            command: format!("{sink} '{}'", file.display()),
            bytes: 100 * MB,
            bar: 0.5,
        },
        Work::Copy {
            name: "COPY out of 100 MB",
            command: "\\copy (SELECT repeat('x', 999) FROM generate_series(1, 100000)) to '/dev/null'".into(),
            bytes: 100 * MB,
            bar: 0.6,
        },
    ]
}

/// Runs pgbench and returns the latencies of all transactions in microseconds, the shortest first. On a machine that
/// does much else there may be none.
fn pgbench(subject: &Subject, site: &Site, target: (&str, &str), arguments: &[String]) -> Vec<u32> {
    let logs = site.directory.join("logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir(&logs).expect("the directory takes another");
    place::give_away(&logs);
    let (mut database, ssl_mode) = target;
    if subject.pid.is_none() {
        database = DATABASE;
    }
    let mut command = place::command(place::postgres_program("pgbench"));
    command.env("PGSSLMODE", ssl_mode).args(["-n", "-h", "127.0.0.1", "-U", USER, "-l", "--log-prefix"]);
    command.arg(logs.join("l")).args(["-p", &subject.port.to_string()]).args(arguments);
    run(command.arg(database));
    let mut latencies: Vec<u32> = Vec::new();
    for entry in fs::read_dir(&logs).expect("pgbench writes logs") {
        let text = fs::read_to_string(entry.expect("a log").path()).expect("a log is text");
        // client, transaction, microseconds, script, seconds, microseconds
        latencies.extend(text.lines().filter_map(|it| it.split(' ').nth(2)?.parse::<u32>().ok()));
    }
    latencies.sort_unstable();
    latencies
}

fn psql(subject: &Subject, text: &str) {
    let mut command = place::command(place::postgres_program("psql"));
    command.env("PGSSLMODE", "disable").args(["-X", "-q", "-h", "127.0.0.1", "-U", USER, "-d", DATABASE]);
    run(command.args(["-p", &subject.port.to_string(), "-c", text]));
}

/// Memory of idle clients, in plain and over TLS, each in a pooler that has served nobody else.
pub fn memory(site: &Site, table: &mut Table) {
    let clients = allowed_clients(site.plan.idle_clients);
    for (encrypted, what, bar) in [(false, "plain", 0.85), (true, "TLS 1.3", 0.45)] {
        let mut work = String::new();
        let _ = write!(work, "{clients} idle clients, {what}");
        let mut rows = [(IDLE, Some(bar)), (RESIDENT, None), (LEFT, None)].map(|(measure, bar)| Row {
            work: work.clone(),
            measure,
            bar,
            samples: BTreeMap::new(),
        });
        for (number, program) in site.programs.iter().enumerate() {
            let (subject, guarded) = start_pooler(program, site);
            let found = memory_of(&subject, clients, encrypted);
            guarded.stop();
            for (row, value) in rows.iter_mut().zip(found) {
                // PostgreSQL itself is the first subject.
                row.samples.insert(number + 1, vec![value]);
            }
        }
        for row in rows {
            println!("{}", table.line(&row));
            table.rows.push(row);
        }
    }
}

fn memory_of(subject: &Subject, clients: usize, encrypted: bool) -> [f64; 3] {
    let pid = subject.pid.expect("a pooler has a process");
    let tls = encrypted.then(|| certs::client_config(None));
    let open = |_| login(subject.port, DATABASE, tls.as_ref()).expect("the pooler takes another client");
    let first: Vec<Connection> = (0..FIRST_CLIENTS).map(open).collect();
    thread::sleep(Duration::from_millis(500));
    let before = resident(pid) as f64;
    let others: Vec<Connection> = (first.len()..clients).map(open).collect();
    thread::sleep(Duration::from_millis(500));
    let after = resident(pid) as f64;
    let count = others.len() as f64;
    drop(others);
    thread::sleep(Duration::from_secs(5));
    let left = resident(pid) as f64;
    [(after - before).max(0.0) / count, after / 1024.0, left / before]
}
