//! A private PostgreSQL cluster: made from a template in a fraction of a second, gone with the test.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::certs::{Certificates, Pair};
use super::place::{self, Guarded};
use super::raw::Raw;

/// Databases and roles that every cluster has. `app` is an ordinary user without a password check; the others are
/// named for what `HBA` asks of them.
const TEMPLATE_SQL: &[&str] = &[
    "CREATE ROLE app LOGIN PASSWORD 'app-secret'",
    "CREATE ROLE app2 LOGIN PASSWORD 'app2-secret'",
    "CREATE ROLE cert_user LOGIN",
    "CREATE ROLE ssl_user LOGIN PASSWORD 'ssl-secret'",
    "CREATE ROLE scram_user LOGIN PASSWORD 'scram-secret'",
    "CREATE ROLE plain_user LOGIN PASSWORD 'plain-secret'",
    "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'md5-secret'",
    "CREATE ROLE auth_reader LOGIN SUPERUSER PASSWORD 'reader-secret'",
    "CREATE ROLE never_let_in LOGIN",
    "CREATE DATABASE app OWNER app",
    "CREATE DATABASE app2 OWNER app",
];

/// Who comes in how.
const HBA: &str = "
local   all         all                            trust
host    all         md5_user     127.0.0.1/32      md5
host    all         scram_user   127.0.0.1/32      scram-sha-256
host    all         plain_user   127.0.0.1/32      password
hostssl all         cert_user    127.0.0.1/32      cert
hostssl all         ssl_user     127.0.0.1/32      trust
host    all         ssl_user     127.0.0.1/32      reject
host    all         never_let_in 127.0.0.1/32      reject
host    all         all          127.0.0.1/32      trust
host    replication postgres     127.0.0.1/32      trust
";

/// Speed over safety, and everything that may turn up in an answer pinned.
const CONF: &str = "
listen_addresses = '127.0.0.1'
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
shared_buffers = 16MB
max_connections = 300
max_wal_senders = 2
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
";

/// A running cluster with databases `app` and `app2`. It ends when it is dropped.
pub struct Cluster {
    directory: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    server: Option<Guarded>,
}

impl Cluster {
    /// The one that tests share which leave it as it was. It is never restarted.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::private(&[]))
    }

    /// One of the test's own, with these lines at the end of its `postgresql.conf`.
    pub fn private(conf: &[&str]) -> Self {
        Self::with_hba(conf, HBA)
    }

    /// One of the test's own, with a `pg_hba.conf` of its own as well.
    pub fn with_hba(conf: &[&str], hba: &str) -> Self {
        let directory = place::directory("pg");
        let data = directory.join("data");
        let copied = place::command("cp").arg("-a").arg(template()).arg(&data).status().expect("cp runs");
        assert!(copied.success(), "the template cluster cannot be copied");
        let port = place::free_port();
        let socket = format!("port = {port}\nunix_socket_directories = '{}'\n", directory.display());
        place::write(&data.join("postgresql.conf"), &format!("{CONF}{socket}{}\n", conf.join("\n")));
        place::write(&data.join("pg_hba.conf"), hba);
        let certificates = Certificates::get();
        place::write(&data.join("server.crt"), &certificates.server.certificate);
        place::write(&data.join("server.key"), &certificates.server.key);
        place::write(&data.join("ca.crt"), &certificates.authority);
        let mut cluster = Self { directory, port, server: None };
        cluster.start();
        cluster
    }

    /// A physical standby that has its base backup, and follows its primary, by way of this port.
    pub fn standby(of: u16) -> Self {
        let directory = place::directory("standby");
        let data = directory.join("data");
        let source = format!("host=127.0.0.1 port={of} user=postgres application_name=standby");
        let arguments = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", &source];
        run(place::command(place::postgres_program("pg_basebackup")).args(arguments).arg("-D").arg(&data));
        let port = place::free_port();
        let conf = fs::read_to_string(data.join("postgresql.conf")).expect("it was copied");
        let own = format!("port = {port}\nunix_socket_directories = '{}'\n", directory.display());
        place::write(&data.join("postgresql.conf"), &format!("{conf}\n{own}"));
        let mut standby = Self { directory, port, server: None };
        standby.start();
        standby
    }

    /// Starts it (again) and waits until it takes logins.
    pub fn start(&mut self) {
        let data = self.directory.join("data");
        let data = data.to_str().expect("the path is ASCII");
        let server = Guarded::start(&self.directory, &place::postgres_program("postgres"), &["-D", data]);
        let (port, log) = (self.port, self.directory.join("log"));
        super::eventually("PostgreSQL takes logins", || {
            let alive = server.is_alive();
            assert!(alive, "PostgreSQL did not start:\n{}", fs::read_to_string(&log).unwrap_or_default());
            Raw::try_connect(("127.0.0.1", port), "postgres", "postgres").is_ok()
        });
        self.server = Some(server);
    }

    /// Ends it at once, as a crash would. [`Cluster::start`] brings it back on the same port.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    /// Has it show another certificate from now on.
    pub fn replace_certificate(&self, pair: &Pair) {
        place::write(&self.directory.join("data/server.crt"), &pair.certificate);
        place::write(&self.directory.join("data/server.key"), &pair.key);
        self.execute("SELECT pg_reload_conf()");
    }

    /// Has the server's main process stand still: the kernel accepts connections, and nobody answers them.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Undoes [`Cluster::freeze`].
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        place::signal(self.server.as_ref().expect("it runs").pid, signal);
    }

    /// The directory with its unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// All it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Server connections of this `application_name`, or of this user, that exist right now.
    pub fn connections(&self, condition: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {condition}");
        self.execute(&sql).parse().expect("a count")
    }

    /// The kernel's numbers (inodes) of a process's established connections to it.
    pub fn sockets(&self, process: u32) -> HashSet<String> {
        const ESTABLISHED: &str = "01";
        let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp is readable");
        let here = format!("0100007F:{:04X}", self.port);
        let inode = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_ours = fields.get(2) == Some(&&*here) && fields.get(3) == Some(&ESTABLISHED);
            is_ours.then(|| fields.get(9).map(|it| (*it).to_owned()))?
        };
        let established: HashSet<_> = table.lines().filter_map(inode).collect();
        // Others may knock at a port that they believe to be nobody's.
        let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().filter_map(|it| {
            let link = fs::read_link(it.ok()?.path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        });
        open.filter(|it| established.contains(it)).collect()
    }

    /// A connection straight to it.
    pub fn connect(&self, database: &str, user: &str) -> Raw {
        Raw::connect(("127.0.0.1", self.port), database, user)
    }

    /// Runs SQL as the superuser in `app`, and gives the first column of the first row.
    pub fn execute(&self, sql: &str) -> String {
        self.connect("app", "postgres").value(sql)
    }

    /// A table name, application name or the like that no other test uses.
    pub fn unique(&self, stem: &str) -> String {
        format!("{stem}_{}", place::free_port())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- the end of PostgreSQL's log:");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        match self.server.take() {
            Some(server) => server.remove(),
            None => drop(fs::remove_dir_all(&self.directory)),
        }
    }
}

/// The data directory that all clusters of this process are copied from.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let directory = place::directory("template");
        let data = directory.join("data");
        run(place::command(place::postgres_program("initdb")).arg("-D").arg(&data).args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
        ]));
        let mut single = place::command(place::postgres_program("postgres"));
        single.args(["--single", "-F", "-D"]).arg(&data).arg("postgres");
        let script = directory.join("template.sql");
        place::write(&script, &format!("{}\n", TEMPLATE_SQL.join("\n")));
        run(single.stdin(fs::File::open(&script).expect("just written")));
        // The template is wanted as long as this process lives: a guard with nothing to guard removes it afterwards.
        let guard = Guarded::start(&directory, Path::new("true"), &[]);
        std::mem::forget(guard);
        data
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !stderr.contains("ERROR"), "{command:?}\n{stdout}\n{stderr}");
}
