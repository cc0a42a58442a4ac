//! pgweir under load, beside PostgreSQL itself and PgBouncer: `cargo bench --bench load [-- --quick] [NAME=PROGRAM …]`.
//!
//! Starts a PostgreSQL, the poolers in front of it, and pgbench against each in turn, round after round, so that what
//! else the machine does hits all of them alike. Prints medians with the least and the most, and the ratio to PgBouncer
//! with the bar that it is to meet; `target/load/report.html` shows the same with charts.
//!
//! `PGWEIR` names the program (default: `target/shipped/pgweir`, built where it is missing), `PGBOUNCER` the other
//! one (default: the one on the path, if any). A `NAME=PROGRAM` is started with the path of a pgbouncer.ini as its only
//! argument: a script can translate that for poolers that are configured in another way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[path = "../../tests/support/certs.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod certs;
mod figures;
mod idle;
#[path = "../../tests/support/place.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod place;
mod works;

use figures::Table;
use idle::login;
use place::Guarded;
use works::Work;

const DATABASE: &str = "bench";
/// The same database through a small pool.
const NARROW: &str = "narrow";
const USER: &str = "postgres";
/// pgbench's scale: 1,000,000 accounts.
const SCALE: &str = "10";
/// Servers of the pool.
const POOL_SIZE: usize = 20;
/// Servers of the small one.
const NARROW_SIZE: usize = 10;
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// USER_HZ on all that Linux runs on: see proc_pid_stat(5).
const TICKS_PER_SECOND: f64 = 100.0;

/// How much is measured.
struct Plan {
    name: &'static str,
    rounds: usize,
    seconds: u64,
    /// Each so often in a round.
    transfers: usize,
    idle_clients: usize,
}

const FULL: Plan = Plan { name: "full", rounds: 5, seconds: 4, transfers: 40, idle_clients: 10_000 };
const QUICK: Plan = Plan { name: "quick", rounds: 3, seconds: 1, transfers: 8, idle_clients: 2000 };

/// A program that takes PgBouncer's configuration.
struct Program {
    name: String,
    path: PathBuf,
}

/// Something that pgbench can be pointed at.
struct Subject {
    name: String,
    port: u16,
    /// A pooler's process.
    pid: Option<i32>,
}

/// Where everything is.
struct Site {
    plan: Plan,
    directory: PathBuf,
    programs: Vec<Program>,
    postgres_port: u16,
}

fn main() {
    let plan = if std::env::args().any(|it| it == "--quick") { QUICK } else { FULL };
    let programs = programs();
    let directory = place::directory("load");
    let (postgres, postgres_port) = start_postgres(&directory);
    let site = Site { plan, directory, programs, postgres_port };
    let poolers: Vec<(Subject, Guarded)> = site.programs.iter().map(|it| start_pooler(it, &site)).collect();
    let direct = Subject { name: "PostgreSQL".into(), port: postgres_port, pid: None };
    let subjects: Vec<&Subject> = [&direct].into_iter().chain(poolers.iter().map(|it| &it.0)).collect();
    let mut table = Table {
        subjects: subjects.iter().map(|it| it.name.clone()).collect(),
        setting: setting(&site),
        rows: Vec::new(),
    };
    println!("{}\n\n{}", table.setting, table.heads());
    for work in works::all(&site) {
        measure(&work, &site, &subjects, &mut table);
    }
    poolers.into_iter().for_each(|it| it.1.stop());
    works::memory(&site, &mut table);
    postgres.stop();
    let report = target().join("load/report.html");
    fs::create_dir_all(report.parent().expect("it is in a directory")).expect("the target is ours");
    fs::write(&report, table.page()).expect("the report can be written");
    println!("\n{}", report.display());
    fs::remove_dir_all(&site.directory).expect("the directory is ours");
}

fn setting(site: &Site) -> String {
    format!(
        "{} run: {} rounds of {} s, subjects in turn; pool of {POOL_SIZE}; {} processors; medians (least–most); CPU is the \
         pooler's own, of all threads, user and system, from /proc",
        site.plan.name,
        site.plan.rounds,
        site.plan.seconds,
        thread::available_parallelism().map_or(1, usize::from)
    )
}

/// Measures one work of all subjects, each going first in turn, and prints its lines.
fn measure(work: &Work, site: &Site, subjects: &[&Subject], table: &mut Table) {
    let mut rows: Vec<figures::Row> = work.rows();
    for round in 0..site.plan.rounds {
        for number in 0..subjects.len() {
            let number = (number + round) % subjects.len();
            let found = work.run(subjects[number], site);
            for (row, value) in rows.iter_mut().zip(found) {
                if let Some(value) = value {
                    row.samples.entry(number).or_default().push(value);
                }
            }
        }
    }
    for row in rows {
        println!("{}", table.line(&row));
        table.rows.push(row);
    }
}

/// The poolers there are, pgweir first.
fn programs() -> Vec<Program> {
    let path = std::env::var_os("PGWEIR").map_or_else(build_pgweir, PathBuf::from);
    let mut programs = vec![Program { name: "pgweir".into(), path: reachable(path) }];
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        places.find_map(|it| Some(it.join("pgbouncer")).filter(|it| it.exists()))
    };
    match std::env::var_os("PGBOUNCER").map(PathBuf::from).or_else(on_path) {
        Some(path) => programs.push(Program { name: "PgBouncer".into(), path: reachable(path) }),
        None => println!("PgBouncer is not installed: nothing to compare with.\n"),
    }
    let others = std::env::args().skip(1).filter_map(|it| {
        let (name, path) = it.split_once('=')?;
        Some(Program { name: name.to_owned(), path: reachable(path.into()) })
    });
    programs.extend(others);
    programs
}

/// Cargo's directory.
fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn build_pgweir() -> PathBuf {
    let program = target().join("shipped/pgweir");
    if !program.exists() {
        println!("building {} …", program.display());
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--profile", "shipped", "--bin", "pgweir"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo runs").success(), "pgweir can't be built");
    }
    program
}

/// The program as a file that the servers' user may run.
fn reachable(program: PathBuf) -> PathBuf {
    if place::command("test").arg("-x").arg(&program).status().expect("test runs").success() {
        return program;
    }
    let copy = place::directory("bin").join(program.file_name().expect("a program has a name"));
    fs::copy(&program, &copy).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    place::give_away(&copy);
    copy
}

fn start_postgres(directory: &Path) -> (Guarded, u16) {
    let data = directory.join("data");
    let arguments = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"];
    run(place::command(place::postgres_program("initdb")).arg("-D").arg(&data).args(arguments));
    let port = place::free_port();
    let settings = format!(
        "\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\n\
         shared_buffers = 256MB\nmax_connections = 700\nautovacuum = off\n"
    );
    let file = data.join("postgresql.conf");
    let sample = fs::read_to_string(&file).expect("initdb writes it");
    place::write(&file, &(sample + &settings));
    let data = data.to_str().expect("the path is ASCII");
    let server = Guarded::start(directory, &place::postgres_program("postgres"), &["-D", data]);
    eventually("PostgreSQL", directory, || login(port, "postgres", None).is_ok());
    let tool = |name: &str| {
        let mut command = place::command(place::postgres_program(name));
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER]);
        command
    };
    run(tool("createdb").arg(DATABASE));
    run(tool("pgbench").args(["-i", "-q", "-s", SCALE, DATABASE]));
    run(tool("psql").args(["-q", "-d", DATABASE, "-c", "CREATE UNLOGGED TABLE sink (line text)"]));
    (server, port)
}

/// Starts a pooler with a configuration that both of them understand.
fn start_pooler(program: &Program, site: &Site) -> (Subject, Guarded) {
    let port = place::free_port();
    let home = site.directory.join(format!("{}-{port}", program.name));
    fs::create_dir(&home).expect("the directory takes another");
    place::give_away(&home);
    let server = &certs::Certificates::get().server;
    place::write(&home.join("server.crt"), &server.certificate);
    place::write(&home.join("server.key"), &server.key);
    place::write(&home.join("users.txt"), &format!("\"{USER}\" \"\"\n"));
    let (at, postgres_port) = (home.display(), site.postgres_port);
    let configuration = format!(
        "[databases]\n{DATABASE} = host=127.0.0.1 port={postgres_port}\n\
         {NARROW} = host=127.0.0.1 port={postgres_port} dbname={DATABASE} pool_size={NARROW_SIZE}\n\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
         auth_file = {at}/users.txt\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\n\
         max_client_conn = {}\nmax_prepared_statements = 200\nlog_connections = 0\nlog_disconnections = 0\n\
         client_tls_sslmode = allow\nclient_tls_cert_file = {at}/server.crt\n\
         client_tls_key_file = {at}/server.key\nclient_tls_ca_file = {at}/server.crt\n",
        site.plan.idle_clients + 1000
    );
    let file = home.join("pooler.ini");
    place::write(&file, &configuration);
    let guarded = Guarded::start(&home, &program.path, &[file.to_str().expect("the path is ASCII")]);
    eventually(&program.name, &home, || login(port, DATABASE, None).is_ok());
    (Subject { name: program.name.clone(), port, pid: Some(guarded.pid) }, guarded)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn eventually(what: &str, directory: &Path, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{what} does not take logins:\n{}", log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Processor time of all threads of a process: utime and stime of proc_pid_stat(5).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let after_name = stat.rsplit_once(')').expect("the name is in parentheses").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    [11, 12].iter().map(|it| fields[*it].parse::<u64>().expect("ticks are numbers")).sum()
}
