//! Transactions: pgbench's select-only in its three protocols, pipelines, queues, and the system calls they take.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{io, thread};

use rustix::process::Signal;

use super::{CPU, RATE, Who, Work, less};
use crate::figures::{Against, Measure, Row};
use crate::pgbench::{self, Entry, Run};
use crate::place;
use crate::pooler::{Layout, NARROW_SIZE, Subject};
use crate::site::{DATABASE, NARROW, Site};

const P50: Measure = less("latency p50, ms", 3, None);
const P99: Measure = less("latency p99, ms", 3, None);
const ADDED_P50: Measure = less("added latency p50, ms", 3, None);
const ADDED_P99: Measure = less("added latency p99, ms", 3, None);
const SYSCALLS: Measure = less("system calls per transaction", 2, None);

/// Ratios of CPU to PgBouncer's, tokio and io_uring, by clients: simple, extended, prepared.
const BARS: [(usize, [(f64, f64); 3]); 3] = [
    (8, [(1.0, 0.8), (0.95, 0.78), (0.82, 0.65)]),
    (64, [(0.95, 0.75), (0.9, 0.7), (0.8, 0.6)]),
    (256, [(0.95, 0.8), (0.95, 0.8), (0.8, 0.65)]),
];
const MODES: [&str; 3] = ["simple", "extended", "prepared"];
/// A forwarder opens a server for each client: more would be another load for PostgreSQL.
const FORWARDED_CLIENTS_MAX: usize = 64;
/// To the forwarder with the same driver.
const FORWARDER_BAR: f64 = 1.15;

/// Percentiles that are drawn.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

pub fn works(site: &Site) -> Vec<Work> {
    let mut works = vec![lone()];
    for (clients, bars) in BARS {
        for (mode, bar) in MODES.into_iter().zip(bars) {
            works.push(select_only(mode, clients, bar));
        }
    }
    works.push(system_calls());
    works.push(pipelines(site));
    works.push(queue(site));
    works
}

/// Runs pgbench against the subject's common configuration.
fn bench(subject: &Subject, site: &Site, database: &'static str, arguments: &[&str]) -> Result<Run, String> {
    let instance = subject.instance(&Layout::common(site), site)?;
    pgbench::for_seconds(site, &instance, Entry { database, ..Entry::PLAIN }, arguments)
}

fn lone() -> Work {
    let name = "a lone client, simple";
    let rows = vec![
        Row::new(name, ADDED_P50).bar(1.0, 1.0),
        // Of a tail this short the ratio is noise more often than not, but it is what is asked for.
        Row::new(name, ADDED_P99).bar(1.0, 1.0),
    ];
    Work::new(name, rows, |subject, site| {
        let run = bench(subject, site, DATABASE, &["-S", "-M", "simple", "-c", "1", "-j", "1"])?;
        Ok(vec![run.latency(0.5), run.latency(0.99)])
    })
    .by(Who::OverDirect)
}

fn select_only(mode: &'static str, clients: usize, bar: (f64, f64)) -> Work {
    let name = format!("{mode}, {clients} clients");
    let mut cpu = Row::new(&name, CPU).bar(bar.0, bar.1);
    let forwarded = mode == "prepared" && clients <= FORWARDED_CLIENTS_MAX;
    if forwarded {
        cpu = cpu.held(Against::Forwarder, FORWARDER_BAR, FORWARDER_BAR);
    }
    let mut rows = vec![cpu, Row::new(&name, RATE), Row::new(&name, P50), Row::new(&name, P99)];
    let points = |rows: &mut Vec<Row>| {
        let chart = format!("Latency of {name}, ms");
        rows.extend(PERCENTILES.map(|(label, _)| Row::new(&name, P99).at(&chart, label)));
    };
    let drawn = mode == "prepared";
    if drawn {
        points(&mut rows);
    }
    let work = Work::new(name, rows, move |subject, site| {
        let run = bench(subject, site, DATABASE, &["-S", "-M", mode, "-c", &clients.to_string()])?;
        let mut figures = vec![run.spent()?, run.rate(), run.latency(0.5), run.latency(0.99)];
        figures.extend(PERCENTILES.iter().filter(|_| drawn).map(|it| run.latency(it.1)));
        Ok(figures)
    });
    if forwarded { work.by(Who::PoolersAndForwarders) } else { work }
}

fn pipelines(site: &Site) -> Work {
    const SELECTS: usize = 10;
    let mut script = String::from("\\set aid random(1, 100000 * :scale)\n\\startpipeline\n");
    for _ in 0..SELECTS {
        script.push_str("SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n");
    }
    let file = site.write("pipeline.sql", &(script + "\\endpipeline\n"));
    let name = format!("pipelines of {SELECTS}, 8 clients");
    let rows = vec![Row::new(&name, RATE).bar(2.3, 2.3), Row::new(&name, CPU)];
    Work::new(name, rows, move |subject, site| {
        let run = bench(subject, site, DATABASE, &["-M", "prepared", "-f", &file, "-c", "8"])?;
        Ok(vec![run.rate(), run.spent()?])
    })
}

fn queue(site: &Site) -> Work {
    const CLIENTS: &str = "500";
    let file = site.write("sleep.sql", "SELECT pg_sleep(0.002);\n");
    let name = format!("{CLIENTS} clients, {NARROW_SIZE} servers, 2 ms");
    let rows = vec![
        Row::new(&name, RATE).bar(1.0, 1.0),
        Row::new(&name, P99).bar(1.0, 1.0),
        Row::new(&name, CPU).bar(0.85, 0.85),
    ];
    Work::new(name, rows, move |subject, site| {
        let run = bench(subject, site, NARROW, &["-M", "simple", "-f", &file, "-c", CLIENTS])?;
        Ok(vec![run.rate(), run.latency(0.99), run.spent()?])
    })
}

fn system_calls() -> Work {
    const CLIENTS: usize = 8;
    const EACH: usize = 600;
    let name = format!("prepared, {CLIENTS} clients, counted");
    // Held to a number, not to a ratio.
    let rows = vec![Row::new(&name, SYSCALLS).held(Against::Nothing, 4.5, 2.0)];
    Work::new(name, rows, |subject, site| {
        let instance = subject.instance(&Layout::common(site), site)?;
        let (clients, each) = (CLIENTS.to_string(), EACH.to_string());
        let arguments = ["-S", "-M", "prepared", "-c", &clients, "-t", &each];
        // Servers are opened, and statements are known, before anything is counted.
        pgbench::run(site, &instance, Entry::PLAIN, &["-S", "-M", "prepared", "-c", &clients, "-t", "50"])?;
        let counter = Counter::attach(instance.process()?, site)?;
        let run = pgbench::run(site, &instance, Entry::PLAIN, &arguments);
        let calls = counter.detach()?;
        run?;
        Ok(vec![calls / (CLIENTS * EACH) as f64])
    })
    .by(Who::PoolersAndForwarders)
    .a_few_times()
}

/// strace, counting the calls of a process.
struct Counter {
    strace: Child,
    summary: String,
}

impl Counter {
    fn attach(pid: i32, site: &Site) -> Result<Self, String> {
        let summary = site.write("calls", "");
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-q", "-o", &summary, "-p", &pid.to_string()]);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let strace = spawned.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "strace is not installed".to_owned(),
            _ => format!("strace: {error}"),
        })?;
        let mut counter = Self { strace, summary };
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|it| it.starts_with("TracerPid:") && !it.ends_with("\t0"))
        };
        for _ in 0..200 {
            if traced() {
                return Ok(counter);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = counter.strace.kill();
        let _ = counter.strace.wait();
        Err("strace may not look".into())
    }

    /// How many calls there were.
    fn detach(mut self) -> Result<f64, String> {
        place::signal(self.strace.id().cast_signed(), Signal::INT);
        self.strace.wait().map_err(|error| format!("strace: {error}"))?;
        let text = fs::read_to_string(&self.summary).map_err(|error| error.to_string())?;
        let total = text.lines().find(|it| it.trim_end().ends_with(" total"));
        // Share of time, seconds, microseconds for each, calls.
        let calls = total.and_then(|it| it.split_whitespace().nth(3)?.parse().ok());
        calls.ok_or_else(|| "strace counted nothing".into())
    }
}
