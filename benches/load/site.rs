//! Where everything is: the PostgreSQL and the stand-in for one that all subjects are put in front of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::options::Form;
use crate::place::{self, Guarded};
use crate::{clients, pgbench, serve};

pub const DATABASE: &str = "bench";
/// The same database through a small pool.
pub const NARROW: &str = "narrow";
pub const USER: &str = "postgres";
pub const PASSWORD: &str = "load-secret";
/// pgbench's scale: 1,000,000 accounts.
const SCALE: &str = "10";
/// How long anything may take to come up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How much is measured.
pub struct Plan {
    pub name: &'static str,
    pub rounds: usize,
    /// Rounds of what hardly changes from one to the next.
    pub few_rounds: usize,
    pub seconds: u64,
    /// Bytes of a transfer, in MB.
    pub transfer_mb: usize,
    /// Connections of each of the clients that connect anew each time.
    pub connections: usize,
    pub idle_clients: usize,
    pub pools: usize,
    /// How long a client reads a byte a second.
    pub slow_seconds: u64,
    /// What is sent before one Sync, in MB.
    pub batch_mb: usize,
    pub users: usize,
}

const FULL: Plan = Plan {
    name: "full",
    rounds: 5,
    few_rounds: 5,
    seconds: 4,
    transfer_mb: 400,
    connections: 250,
    idle_clients: 10_000,
    pools: 2000,
    slow_seconds: 30,
    batch_mb: 300,
    users: 10_000,
};

const QUICK: Plan = Plan {
    name: "quick",
    rounds: 3,
    few_rounds: 1,
    seconds: 1,
    transfer_mb: 40,
    connections: 25,
    idle_clients: 2000,
    pools: 2000,
    slow_seconds: 2,
    batch_mb: 300,
    users: 10_000,
};

pub struct Site {
    pub plan: Plan,
    pub directory: PathBuf,
    pub postgres_port: u16,
    /// PostgreSQL's stand-in: see `serve::mock`.
    pub mock_port: u16,
    /// Of [`USER`], as PostgreSQL keeps it.
    pub scram_secret: String,
    postgres: Option<Guarded>,
    helpers: Vec<Guarded>,
    /// The bench's own program, where the servers' user may run it.
    program: PathBuf,
}

impl Site {
    pub fn start(form: Form) -> Self {
        let plan = if form == Form::Quick { QUICK } else { FULL };
        let directory = place::directory("load");
        let program = reachable(std::env::current_exe().expect("a process has a program"));
        let (postgres, postgres_port) = start_postgres(&directory);
        let mut site = Self {
            plan,
            directory,
            postgres_port,
            mock_port: 0,
            scram_secret: String::new(),
            postgres: Some(postgres),
            helpers: Vec::new(),
            program,
        };
        site.scram_secret = site.set_password();
        let (mock, port) = site.serve("mock").expect("the bench's own program runs");
        site.helpers.push(mock);
        site.mock_port = port;
        site
    }

    /// Starts one of the bench's own servers, in front of PostgreSQL.
    pub fn serve(&self, who: &str) -> Result<(Guarded, u16), String> {
        let port = place::free_port();
        let home = self.home(who, port);
        let (here, there) = (port.to_string(), self.postgres_port.to_string());
        let server = Guarded::start(&home, &self.program, &[serve::ORDER, who, &here, &there]);
        match eventually(who, &home, || clients::login(port, DATABASE, None).map(drop)) {
            Ok(()) => Ok((server, port)),
            Err(error) => {
                server.stop();
                Err(error)
            }
        }
    }

    /// A new directory for a server.
    pub fn home(&self, name: &str, port: u16) -> PathBuf {
        let word: String = name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect();
        let home = self.directory.join(format!("{word}-{port}"));
        fs::create_dir(&home).expect("the directory takes another");
        place::give_away(&home);
        home
    }

    /// A file for clients to read.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        place::write(&path, text);
        path.to_str().expect("the path is ASCII").to_owned()
    }

    fn set_password(&self) -> String {
        let sql = format!(
            "SET password_encryption = 'scram-sha-256'; ALTER ROLE {USER} PASSWORD '{PASSWORD}'; \
             SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'"
        );
        let mut psql = tool("psql", self.postgres_port);
        let output = output(psql.args(["-X", "-q", "-At", "-d", "postgres", "-c", &sql]));
        output.lines().last().expect("psql prints the secret").to_owned()
    }

    /// Ends what still runs and removes what was written.
    pub fn end(mut self) {
        self.helpers.drain(..).chain(self.postgres.take()).for_each(Guarded::stop);
        fs::remove_dir_all(&self.directory).expect("the directory is ours");
    }
}

fn start_postgres(directory: &Path) -> (Guarded, u16) {
    let data = directory.join("data");
    let arguments = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"];
    output(place::command(place::postgres_program("initdb")).arg("-D").arg(&data).args(arguments));
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
    let ready = eventually("PostgreSQL", directory, || clients::login(port, "postgres", None).map(drop));
    ready.unwrap_or_else(|error| panic!("{error}"));
    output(tool("createdb", port).arg(DATABASE));
    output(tool("pgbench", port).args(["-i", "-q", "-s", SCALE, DATABASE]));
    output(tool("psql", port).args(["-q", "-d", DATABASE, "-c", "CREATE UNLOGGED TABLE sink (line text)"]));
    (server, port)
}

/// One of PostgreSQL's programs, for a server on this port.
pub fn tool(name: &str, port: u16) -> Command {
    let mut command = place::command(place::postgres_program(name));
    command.env("PGSSLMODE", "disable").args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER]);
    command
}

/// Runs what is needed for anything to be measured at all.
fn output(command: &mut Command) -> String {
    pgbench::finished(command.stdout(Stdio::piped()), PATIENCE * 3).unwrap_or_else(|error| panic!("{error}"))
}

/// The program as a file that the servers' user may run.
pub fn reachable(program: PathBuf) -> PathBuf {
    if place::command("test").arg("-x").arg(&program).status().expect("test runs").success() {
        return program;
    }
    let copy = place::directory("bin").join(program.file_name().expect("a program has a name"));
    fs::copy(&program, &copy).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    place::give_away(&copy);
    copy
}

/// Tries until it succeeds.
pub fn eventually<E: std::fmt::Display>(
    what: &str,
    home: &Path,
    mut ready: impl FnMut() -> Result<(), E>,
) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ready() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                let log = fs::read_to_string(home.join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                return Err(format!("{what} takes no logins: {error}; its log ends: {last}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
