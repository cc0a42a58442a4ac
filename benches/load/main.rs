//! pgweir under load, beside PostgreSQL itself, PgBouncer and bare forwarders: `cargo bench --bench load [-- --quick]`.
//!
//! Starts all that it needs, has each subject do each work in turn, round after round, so that what else the machine
//! does hits all of them alike, and prints medians with the least and the most, the ratio to PgBouncer and the bar that
//! it is to meet. `target/load/report.html` shows the same with charts. Nothing fails on a figure: it is a measurement.
//! `-- --help` lists the options.
//!
//! The parts, each using those above it: `options`; `figures` (the table), `chart`, `page`; `process` (what the kernel
//! accounts); `clients`; `serve` (forwarders, a PostgreSQL that does nothing); `site`, `pooler`, `pgbench` (who runs
//! where, and what pgbench did); `works` (what is done, a row each).

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use std::{io, thread};

#[path = "../../tests/support/certs.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod certs;
mod chart;
mod clients;
mod figures;
mod options;
mod page;
mod pgbench;
#[path = "../../tests/support/place.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod place;
mod pooler;
mod process;
mod serve;
mod site;
mod works;

use figures::{Head, Role, Table};
use options::Options;
use pooler::{POOL_SIZE, Subject};
use site::Site;

/// The version that the bars are ratios to.
const PGBOUNCER: &str = "PgBouncer 1.25";
/// Files that this process, or a pooler, may have open besides two for each client.
const OTHER_FILES: usize = 4000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|it| it == serve::ORDER) {
        return serve::serve(&words[1..]);
    }
    match Options::parse(words.into_iter()) {
        Ok(options) => measure(&options),
        Err(text) => {
            print!("{text}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(options: &Options) {
    let subjects = pooler::subjects(options);
    let site = Site::start(options.form);
    clients::allow_files(site.plan.idle_clients + OTHER_FILES);
    let works = works::all(&site).into_iter().filter(|it| options.wants(&it.name));
    if options.list {
        works.for_each(|it| println!("{}", it.name));
        return site.end();
    }
    let heads = subjects.iter().map(|it| Head { name: it.name.clone(), role: it.role });
    let mut table = Table { subjects: heads.collect(), setting: setting(&site, &subjects), rows: Vec::new() };
    println!("{}\n", table.setting.join("\n"));
    let report = pooler::target().join("load/report.html");
    let begun = Instant::now();
    for work in works {
        work.measure(&site, &subjects, &mut table);
        // Whoever interrupts it has what there is.
        let _ = write(&report, &page::page(&table));
    }
    subjects.iter().for_each(Subject::stop);
    let took = begun.elapsed().as_secs();
    table.setting.push(format!("took {took} s; load average at the end: {}", load_average()));
    println!("{}took {took} s\n", table.summary());
    say(&report, write(&report, &page::page(&table)));
    if let Some(file) = &options.chart {
        say(file, write(file, &chart::picture(&table)));
    }
    site.end();
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, text)
}

fn say(file: &Path, written: io::Result<()>) {
    match written {
        Ok(()) => println!("{}", file.display()),
        Err(error) => println!("{}: {error}", file.display()),
    }
}

/// How the figures come about.
fn setting(site: &Site, subjects: &[Subject]) -> Vec<String> {
    let plan = &site.plan;
    let mut lines = vec![
        format!(
            "{} run: {} rounds of {} s ({} of what hardly changes), subjects in turn; pool of {POOL_SIZE}",
            plan.name, plan.rounds, plan.seconds, plan.few_rounds
        ),
        "CPU is that of the process in the middle alone: all its threads, user and system, as the kernel accounts it"
            .to_owned(),
    ];
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let machine = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = machine.lines().find_map(|it| it.strip_prefix("model name")?.split_once(": "));
    lines.push(format!(
        "{processors} processors ({}), Linux {}; load average at the start: {}",
        model.map_or("unknown", |it| it.1),
        kernel.trim(),
        load_average()
    ));
    for subject in subjects.iter().filter(|it| !matches!(it.role, Role::Forwarder(_))) {
        let version = subject.version();
        let stands_in = subject.role == Role::PgBouncer && !version.starts_with(PGBOUNCER);
        let remark = if stands_in { ", which stands in for 1.25.2: the bars are ratios to that" } else { "" };
        lines.push(format!("{}: {version}{remark}", subject.name));
    }
    lines
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
