//! A pgweir process with a configuration of the test's own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Instant;

use rustix::process::Signal;

use super::cluster::Cluster;
use super::message::{self, Message};
use super::place;
use super::raw::Raw;

/// A configuration in the making. By default: transaction mode, the databases `app` and `app2` and all of the
/// cluster's users, who come in by name alone; `admin` and `stats` may use the console.
#[derive(Clone)]
pub struct Setup {
    /// Lines of `[pgweir]` by name, so that a test's own replace the default ones.
    settings: BTreeMap<String, String>,
    databases: BTreeMap<String, String>,
    users: BTreeMap<String, String>,
    peers: BTreeMap<String, String>,
    /// Where the databases are by default.
    server: String,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    /// What comes before the program on its command line.
    within: Vec<String>,
}

/// The driver that all tests are to run over; without it, the default one.
const RELAY_DRIVER: &str = "PGWEIR_TEST_RELAY_DRIVER";

/// Users and passwords of every [`Cluster`], and those of the console.
const USERS: &[(&str, &str)] = &[
    ("app", "app-secret"),
    ("app2", "app2-secret"),
    ("postgres", "postgres-secret"),
    ("md5_user", "md5-secret"),
    ("scram_user", "scram-secret"),
    ("plain_user", "plain-secret"),
    ("ssl_user", "ssl-secret"),
    ("cert_user", "cert-secret"),
    ("never_let_in", "no-secret"),
    ("auth_reader", "reader-secret"),
    ("admin", "admin-secret"),
    ("stats", "stats-secret"),
];

impl Setup {
    /// The default one, in front of `cluster`.
    pub fn of(cluster: &Cluster) -> Self {
        let mut setup = Self::bare(&format!("host = \"127.0.0.1\"\nport = {}", cluster.port));
        setup = setup.database("app", "").database("app2", "");
        for (user, password) in USERS {
            setup = setup.user(user, &format!("password = \"{password}\""));
        }
        setup
    }

    /// One without databases and users; `server` has the lines that say where PostgreSQL is.
    pub fn bare(server: &str) -> Self {
        let (settings, databases, users) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let setup = Self {
            settings,
            databases,
            users,
            peers: BTreeMap::new(),
            server: server.to_owned(),
            environment: Vec::new(),
            files: Vec::new(),
            within: Vec::new(),
        };
        let setup = match std::env::var(RELAY_DRIVER) {
            Ok(driver) => setup.set("relay_driver", &format!("{driver:?}")),
            Err(_) => setup,
        };
        setup
            // Clients that share servers are to be on different workers.
            .set("workers_min", "0")
            .set("listen_addr", "\"127.0.0.1\"")
            .set("auth_type", "\"trust\"")
            .set("admin_users", "\"admin\"")
            .set("stats_users", "\"stats\"")
            .set("pool_mode", "\"transaction\"")
            .set("server_tls_sslmode", "\"disable\"")
    }

    /// A setting of `[pgweir]`, its value in TOML.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// An entry of `[databases]` on the default server, with these lines of its own (which may name another).
    pub fn database(mut self, name: &str, lines: &str) -> Self {
        let mut entry = String::new();
        let own = |key: &str| lines.lines().any(|line| line.trim_start().starts_with(&format!("{key} ")));
        for line in self.server.lines() {
            if !own(line.split(' ').next().unwrap_or_default()) {
                let _ = writeln!(entry, "{line}");
            }
        }
        let _ = writeln!(entry, "{lines}");
        self.databases.insert(name.to_owned(), entry);
        self
    }

    /// Takes an entry of `[databases]` away.
    pub fn without_database(mut self, name: &str) -> Self {
        self.databases.remove(name);
        self
    }

    /// An entry of `[users]`; its lines are added to those it has.
    pub fn user(mut self, name: &str, lines: &str) -> Self {
        let entry = self.users.entry(name.to_owned()).or_default();
        let _ = writeln!(entry, "{lines}");
        self
    }

    /// Takes an entry of `[users]` away.
    pub fn without_user(mut self, name: &str) -> Self {
        self.users.remove(name);
        self
    }

    /// An entry of `[peers]`.
    pub fn peer(mut self, id: u16, lines: &str) -> Self {
        self.peers.insert(id.to_string(), format!("{lines}\n"));
        self
    }

    /// A file beside the configuration, which may name it without a directory.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// An environment variable of the process.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the process by way of another program, which must become it: `unshare`, `sh -c 'exec "$@"' sh`.
    pub fn within(mut self, command: &[&str]) -> Self {
        self.within = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// As `pgweir.toml`.
    fn text(&self) -> String {
        let mut text = String::from("[pgweir]\n");
        for (name, value) in &self.settings {
            let _ = writeln!(text, "{name} = {value}");
        }
        for (section, entries) in
            [("databases", &self.databases), ("users", &self.users), ("peers", &self.peers)]
        {
            for (name, lines) in entries {
                let _ = write!(text, "\n[{section}.\"{name}\"]\n{lines}");
            }
        }
        text
    }

    /// Starts pgweir and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Pooler {
        let pooler = self.launch();
        pooler.wait_until_listening();
        pooler
    }

    /// Starts pgweir and waits for nothing.
    #[track_caller]
    pub fn launch(mut self) -> Pooler {
        let directory = place::directory("pgweir");
        let port = match self.settings.get("listen_port") {
            Some(port) => port.parse().expect("a port"),
            None => place::free_port(),
        };
        self = self.set("listen_port", &port.to_string());
        if !self.settings.contains_key("unix_socket_dir") {
            self = self.set("unix_socket_dir", &format!("{:?}", directory.display().to_string()));
        }
        let config = directory.join("pgweir.toml");
        place::write(&config, &self.text());
        self.files.iter().for_each(|(name, content)| place::write(&directory.join(name), content));
        let child = spawn(&directory, &config, &self, &[]);
        Pooler { directory, port, setup: self, child }
    }
}

fn spawn(directory: &Path, config: &Path, setup: &Setup, options: &[&str]) -> Child {
    let log = directory.join("log");
    let file =
        fs::OpenOptions::new().create(true).append(true).open(&log).expect("the directory takes a log");
    let mut words = setup.within.iter().map(PathBuf::from).chain([place::pgweir_program().to_path_buf()]);
    let mut command = place::command(words.next().expect("there is the program at least"));
    command
        .args(words)
        .args(options)
        .arg(config)
        .envs(setup.environment.iter().cloned())
        .env("RUST_BACKTRACE", "1");
    command.stdout(file.try_clone().expect("a file can be duplicated")).stderr(file);
    command.spawn().expect("pgweir can be started")
}

/// A running pgweir; ended when it is dropped. A panic in its log fails the test.
pub struct Pooler {
    directory: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    setup: Setup,
    child: Child,
}

impl Pooler {
    /// pgweir in front of `cluster` with the default configuration.
    #[track_caller]
    pub fn of(cluster: &Cluster) -> Self {
        Setup::of(cluster).start()
    }

    /// Starts another process with the same configuration and these options, and waits for nothing.
    pub fn another(&self, options: &[&str]) -> Child {
        spawn(&self.directory, &self.directory.join("pgweir.toml"), &self.setup, options)
    }

    /// Has another process take its place, and waits until the old one has ended. Returns its way of ending.
    #[track_caller]
    pub fn reboot(&mut self) -> ExitStatus {
        let next = self.another(&["-R"]);
        let mut old = std::mem::replace(&mut self.child, next);
        let mut ended = None;
        super::eventually("the old process ends", || {
            ended = old.try_wait().expect("a child can be waited for");
            ended.is_some()
        });
        ended.expect("just seen")
    }

    /// Another process is its process from now on; the old one has ended.
    pub fn replace(&mut self, child: Child) {
        self.child = child;
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address it listens on.
    pub fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    /// The directory with its configuration, its log and its unix socket.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    #[track_caller]
    fn wait_until_listening(&self) {
        let deadline = Instant::now() + super::PATIENCE;
        while std::net::TcpStream::connect(self.address()).is_err() {
            let gone = !Path::new(&format!("/proc/{}/exe", self.child.id())).exists();
            assert!(!gone && Instant::now() < deadline, "pgweir does not listen:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// All it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// A session of `user`, who needs no password.
    #[track_caller]
    pub fn connect(&self, database: &str, user: &str) -> Raw {
        Raw::connect(self.address(), database, user)
    }

    /// A session of `app` in the database `app`.
    #[track_caller]
    pub fn app(&self) -> Raw {
        self.connect("app", "app")
    }

    /// A connection on which nothing has been said.
    pub fn dial(&self) -> Raw {
        Raw::dial(self.address())
    }

    /// What a login is refused with.
    #[track_caller]
    pub fn refusal(&self, parameters: &[(&str, &str)], password: &str) -> Message {
        self.dial().login(parameters, password).expect_err("the login must be refused")
    }

    /// A session on the console.
    #[track_caller]
    pub fn console(&self) -> Raw {
        self.connect("pgbouncer", "admin")
    }

    /// The rows of a console command, each by column name.
    #[track_caller]
    pub fn show(&self, command: &str) -> Vec<BTreeMap<String, String>> {
        let answer = self.console().query(command);
        let failed = answer.iter().find(|message| message.tag == b'E');
        assert!(failed.is_none(), "{command}: {answer:?}");
        let names = answer.iter().find(|message| message.tag == b'T').map(Message::names).unwrap_or_default();
        let row = |row: Vec<Option<String>>| {
            names.iter().cloned().zip(row.into_iter().map(Option::unwrap_or_default)).collect()
        };
        message::rows(&answer).into_iter().map(row).collect()
    }

    /// Whether SHOW STATE says so: `active`, `paused` or `suspended`.
    #[track_caller]
    pub fn is(&self, state: &str) -> bool {
        self.show("SHOW STATE").iter().any(|row| row["key"] == state && row["value"] == "yes")
    }

    /// A number of SHOW POOLS for the pool of this database and user; 0 where there is no such pool.
    #[track_caller]
    pub fn pool(&self, database: &str, user: &str, column: &str) -> u64 {
        let pools = self.show("SHOW POOLS");
        let pool = pools.iter().find(|pool| pool["database"] == database && pool["user"] == user);
        pool.map_or(0, |pool| pool[column].parse().expect("SHOW POOLS has numbers"))
    }

    /// Changes the file and reloads it with SIGHUP, without waiting for the effect.
    pub fn reload(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        self.rewrite(&self.setup.text());
        self.signal(Signal::HUP);
    }

    /// Puts another text in the place of its configuration, without telling it.
    pub fn rewrite(&self, text: &str) {
        self.write("pgweir.toml", text);
    }

    /// Writes a file beside the configuration anew, without telling it.
    pub fn write(&self, name: &str, content: &str) {
        place::write(&self.directory.join(name), content);
    }

    /// The text of its configuration.
    pub fn config(&self) -> String {
        self.setup.text()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        place::signal(self.child.id().cast_signed(), signal);
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        super::eventually("pgweir ends", || {
            ended = self.child.try_wait().expect("a child can be waited for");
            ended.is_some()
        });
        ended.expect("just seen")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is there");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the end of pgweir's log:");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let _ = fs::remove_dir_all(&self.directory);
        let panicked = log.contains("panicked at");
        assert!(!panicked || std::thread::panicking(), "pgweir panicked:\n{log}");
    }
}
