//! pgweir under pgbench, beside PostgreSQL itself and PgBouncer: `cargo bench --bench load [-- --quick]`.
//!
//! Starts a PostgreSQL, the poolers in front of it, and pgbench against each in turn, round after round, so that what
//! else the machine does hits all of them alike. Prints transactions per second, latencies, the processor time that
//! the pooler spends on a transaction, and its memory for an idle client; medians, with the least and the most.
//!
//! `PGWEIR` names the program (default: `target/shipped/pgweir`, built where it is missing), `PGBOUNCER` the other
//! one (default: the one on the path, if any).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[path = "../tests/support/certs.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod certs;
#[path = "../tests/support/place.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod place;

use place::Guarded;

const DATABASE: &str = "bench";
const USER: &str = "postgres";
/// pgbench's scale: 1,000,000 accounts.
const SCALE: &str = "10";
/// Servers of the pool.
const POOL_SIZE: usize = 20;
/// Idle clients whose memory is measured.
const IDLE_CLIENTS: usize = 5000;
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// USER_HZ on all that Linux runs on: see proc_pid_stat(5).
const TICKS_PER_SECOND: f64 = 100.0;

/// One thing to measure: pgbench's protocol, and its number of clients.
type Scenario = (&'static str, usize);

struct Plan {
    rounds: usize,
    seconds: u64,
    scenarios: &'static [Scenario],
    idle_clients: usize,
}

const FULL: Plan = Plan {
    rounds: 5,
    seconds: 5,
    scenarios: &[("simple", 64), ("extended", 64), ("prepared", 64), ("prepared", 8)],
    idle_clients: IDLE_CLIENTS,
};
const QUICK: Plan =
    Plan { rounds: 3, seconds: 2, scenarios: &[("simple", 64), ("prepared", 64)], idle_clients: 500 };

/// A program with its arguments that speaks PgBouncer's configuration.
struct Program {
    name: &'static str,
    path: PathBuf,
}

/// Something that pgbench can be pointed at.
struct Subject {
    name: &'static str,
    port: u16,
    /// A pooler's process.
    pid: Option<i32>,
}

/// What a round of pgbench showed.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: Option<f64>,
}

fn main() {
    let plan = if std::env::args().any(|it| it == "--quick") { QUICK } else { FULL };
    let programs = programs();
    let directory = place::directory("load");
    let (postgres, postgres_port) = start_postgres(&directory);
    let poolers: Vec<(Subject, Guarded)> =
        programs.iter().map(|it| start_pooler(it, &directory, postgres_port)).collect();
    let direct = Subject { name: "PostgreSQL", port: postgres_port, pid: None };
    let subjects: Vec<&Subject> = [&direct].into_iter().chain(poolers.iter().map(|it| &it.0)).collect();
    println!(
        "{} rounds of {} s each, select-only, pool of {POOL_SIZE}, {} processors\n",
        plan.rounds,
        plan.seconds,
        thread::available_parallelism().map_or(1, usize::from)
    );
    for scenario in plan.scenarios {
        println!("{}", measure_load(*scenario, &plan, &subjects, &directory));
    }
    poolers.into_iter().for_each(|it| it.1.stop());
    println!("{}", measure_memory(&plan, &programs, &directory, postgres_port));
    postgres.stop();
    fs::remove_dir_all(&directory).expect("the directory is ours");
}

/// The poolers there are, pgweir first.
fn programs() -> Vec<Program> {
    let path = std::env::var_os("PGWEIR").map_or_else(build_pgweir, PathBuf::from);
    let mut programs = vec![Program { name: "pgweir", path: reachable(path) }];
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        places.find_map(|it| Some(it.join("pgbouncer")).filter(|it| it.exists()))
    };
    match std::env::var_os("PGBOUNCER").map(PathBuf::from).or_else(on_path) {
        Some(path) => programs.push(Program { name: "PgBouncer", path: reachable(path) }),
        None => println!("PgBouncer is not installed: nothing to compare with.\n"),
    }
    programs
}

fn build_pgweir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let program = target.join("shipped/pgweir");
    if !program.exists() {
        println!("building {} …", program.display());
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--profile", "shipped", "--bin", "pgweir"]).current_dir(root);
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
         shared_buffers = 256MB\nmax_connections = 200\nautovacuum = off\n"
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
    (server, port)
}

/// Starts a pooler with a configuration that both of them understand.
fn start_pooler(program: &Program, directory: &Path, postgres_port: u16) -> (Subject, Guarded) {
    let port = place::free_port();
    let home = directory.join(format!("{}-{port}", program.name));
    fs::create_dir(&home).expect("the directory takes another");
    place::give_away(&home);
    let server = &certs::Certificates::get().server;
    place::write(&home.join("server.crt"), &server.certificate);
    place::write(&home.join("server.key"), &server.key);
    place::write(&home.join("users.txt"), &format!("\"{USER}\" \"\"\n"));
    let at = home.display();
    let configuration = format!(
        "[databases]\n{DATABASE} = host=127.0.0.1 port={postgres_port}\n\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
         auth_file = {at}/users.txt\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\n\
         max_client_conn = {}\nmax_prepared_statements = 200\nlog_connections = 0\nlog_disconnections = 0\n\
         client_tls_sslmode = allow\nclient_tls_cert_file = {at}/server.crt\n\
         client_tls_key_file = {at}/server.key\n",
        IDLE_CLIENTS + 100
    );
    let file = home.join("pooler.ini");
    place::write(&file, &configuration);
    let guarded = Guarded::start(&home, &program.path, &[file.to_str().expect("the path is ASCII")]);
    eventually(program.name, &home, || login(port, DATABASE, None).is_ok());
    (Subject { name: program.name, port, pid: Some(guarded.pid) }, guarded)
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

fn measure_load(scenario: Scenario, plan: &Plan, subjects: &[&Subject], directory: &Path) -> String {
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    for round in 0..plan.rounds {
        for number in 0..subjects.len() {
            // Each goes first in turn.
            let number = (number + round) % subjects.len();
            let sample = pgbench(subjects[number], scenario, plan.seconds, directory);
            samples.entry(number).or_default().push(sample);
        }
    }
    let (mode, clients) = scenario;
    let mut out = format!("{mode}, {clients} clients\n");
    let heads = ["", "transactions/s", "p50 ms", "p99 ms", "pooler CPU µs/transaction"];
    let [name, per_second, p50, p99, cpu] = heads;
    let _ = writeln!(out, "  {name:10} {per_second:>26} {p50:>20} {p99:>20} {cpu:>26}");
    for (number, samples) in &samples {
        let column = |of: fn(&Sample) -> Option<f64>, digits: usize| {
            let values: Vec<f64> = samples.iter().filter_map(of).collect();
            spread(values, digits)
        };
        let name = subjects[*number].name;
        let per_second = column(|it| Some(it.per_second), 0);
        let (p50, p99) = (column(|it| Some(it.p50_ms), 3), column(|it| Some(it.p99_ms), 3));
        let cpu = column(|it| it.cpu_us, 1);
        let _ = writeln!(out, "  {name:10} {per_second:>26} {p50:>20} {p99:>20} {cpu:>26}");
    }
    if let (Some(ours), Some(theirs)) = (samples.get(&1), samples.get(&2)) {
        let ratio = |of: fn(&Sample) -> f64| {
            let median = |samples: &[Sample]| median(samples.iter().map(of).collect());
            median(ours) / median(theirs)
        };
        let _ = writeln!(
            out,
            "  pgweir : PgBouncer = {:.2} transactions/s, {:.2} p50, {:.2} p99, {:.2} CPU",
            ratio(|it| it.per_second),
            ratio(|it| it.p50_ms),
            ratio(|it| it.p99_ms),
            ratio(|it| it.cpu_us.unwrap_or(f64::NAN))
        );
    }
    out
}

/// One round of pgbench.
fn pgbench(subject: &Subject, (mode, clients): Scenario, seconds: u64, directory: &Path) -> Sample {
    let logs = directory.join("logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir(&logs).expect("the directory takes another");
    place::give_away(&logs);
    let before = subject.pid.map(ticks);
    let mut command = place::command(place::postgres_program("pgbench"));
    command.args(["-n", "-S", "-j", "2", "-h", "127.0.0.1", "-U", USER, "-M", mode, "-l"]);
    command.arg("--log-prefix").arg(logs.join("l"));
    command.args(["-c", &clients.to_string(), "-T", &seconds.to_string(), "-p", &subject.port.to_string()]);
    run(command.arg(DATABASE));
    let after = subject.pid.map(ticks);
    let mut latencies = Vec::new();
    for entry in fs::read_dir(&logs).expect("pgbench writes logs") {
        let text = fs::read_to_string(entry.expect("a log").path()).expect("a log is text");
        // client, transaction, microseconds, script, seconds, microseconds
        latencies.extend(text.lines().filter_map(|it| it.split(' ').nth(2)?.parse::<u32>().ok()));
    }
    assert!(!latencies.is_empty(), "{}: pgbench did nothing", subject.name);
    latencies.sort_unstable();
    let count = latencies.len() as f64;
    let at = |part: f64| f64::from(latencies[(count * part) as usize]) / 1000.0;
    let cpu_us =
        before.zip(after).map(|(before, after)| (after - before) as f64 / TICKS_PER_SECOND * 1e6 / count);
    Sample { per_second: count / seconds as f64, p50_ms: at(0.5), p99_ms: at(0.99), cpu_us }
}

/// Processor time of all threads of a process: utime and stime of proc_pid_stat(5).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let after_name = stat.rsplit_once(')').expect("the name is in parentheses").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    [11, 12].iter().map(|it| fields[*it].parse::<u64>().expect("ticks are numbers")).sum()
}

/// Memory of idle clients, in plain and over TLS, each in a pooler that has served nobody else.
fn measure_memory(plan: &Plan, programs: &[Program], directory: &Path, postgres_port: u16) -> String {
    let clients = allowed_clients(plan.idle_clients);
    let mut out = format!("resident bytes per idle client, of {clients}\n");
    let [name, plain, tls] = ["", "plain", "TLS"];
    let _ = writeln!(out, "  {name:10} {plain:>10} {tls:>10}");
    for program in programs {
        let [plain, tls] = [false, true].map(|encrypted| {
            let (subject, guarded) = start_pooler(program, directory, postgres_port);
            let per_client = idle_bytes(&subject, clients, encrypted);
            guarded.stop();
            per_client
        });
        let _ = writeln!(out, "  {:10} {plain:>10.0} {tls:>10.0}", program.name);
    }
    out
}

fn idle_bytes(subject: &Subject, clients: usize, encrypted: bool) -> f64 {
    let pid = subject.pid.expect("a pooler has a process");
    let tls = encrypted.then(|| certs::client_config(None));
    let open = |_| login(subject.port, DATABASE, tls.as_ref()).expect("the pooler takes another client");
    // The first ones make what all share.
    let first: Vec<Connection> = (0..50).map(open).collect();
    let before = resident(pid);
    let others: Vec<Connection> = (first.len()..clients).map(open).collect();
    thread::sleep(Duration::from_millis(500));
    let after = resident(pid);
    after.saturating_sub(before) as f64 / others.len() as f64
}

/// VmRSS of proc_pid_status(5), in bytes.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// As many clients as this process may have files open for, at most `wanted`. The poolers inherit what is raised here.
fn allowed_clients(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHER_FILES: u64 = 200;
    let limit = getrlimit(Resource::Nofile);
    let needed = wanted as u64 + OTHER_FILES;
    if limit.current.is_some_and(|it| it < needed) {
        let most = limit.maximum.map_or(needed, |it| it.min(needed));
        // Where it can't be raised, fewer clients are measured.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(needed);
    wanted.min(current.saturating_sub(OTHER_FILES) as usize)
}

/// A session that says nothing.
enum Connection {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Connection {
    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Logs in without a password, up to the first ReadyForQuery.
fn login(
    port: u16,
    database: &str,
    tls: Option<&std::sync::Arc<rustls::ClientConfig>>,
) -> io::Result<Connection> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut connection = match tls {
        None => Connection::Plain(socket),
        Some(config) => {
            socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
            let mut answer = [0];
            socket.read_exact(&mut answer)?;
            assert_eq!(&answer, b"S", "TLS is refused");
            let name = "localhost".try_into().expect("it is a name");
            let session = rustls::ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            Connection::Tls(Box::new(rustls::StreamOwned::new(session, socket)))
        }
    };
    let mut packet = bytes::BytesMut::new();
    pgweir::wire::startup::encode_startup(&mut packet, 0, [("user", USER), ("database", database)]);
    let stream = connection.stream();
    stream.write_all(&packet)?;
    stream.flush()?;
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        stream.read_exact(&mut body)?;
        match header[0] {
            b'Z' => return Ok(connection),
            b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
            _ => {}
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A median with the least and the most.
fn spread(values: Vec<f64>, digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() {
        return "–".into();
    }
    format!("{:.digits$} ({least:.digits$}–{most:.digits$})", median(values))
}
