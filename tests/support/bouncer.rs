//! A pooler started as PgBouncer is: a program named `pgbouncer` with a pgbouncer.ini.
//!
//! The same file can be given to pgweir and to a real PgBouncer 1.25, so that what both answer can be compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use super::place;
use super::raw::Raw;

/// The console's users and an application's.
const USERLIST: &str = "\"app\" \"app-secret\"\n\"admin\" \"admin-secret\"\n\"stats\" \"stats-secret\"\n";

/// The PgBouncer to compare with, where there is one of version 1.25: `PGBOUNCER` names it, or it is on the path.
/// Says why not otherwise.
pub fn pgbouncer() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(find_pgbouncer).as_deref()
}

fn find_pgbouncer() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let named = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    for program in named.into_iter().chain(places.map(|place| place.join("pgbouncer"))) {
        let Ok(output) = place::command(&program).arg("--version").output() else { continue };
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        if version.starts_with("PgBouncer 1.25") && !version.contains("pgweir") {
            return Some(program);
        }
    }
    println!("no comparison: there is no PgBouncer 1.25 on the path, and PGBOUNCER names none");
    None
}

/// Puts a link named `pgbouncer` to this program into a directory.
pub fn link(program: &Path, directory: &Path) -> PathBuf {
    let link = directory.join("pgbouncer");
    std::os::unix::fs::symlink(program, &link).expect("the directory takes a link");
    link
}

/// Runs a program under the name `pgbouncer` until it ends.
pub fn run(program: &Path, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    place::command(program).arg0("pgbouncer").args(arguments).output().expect("the program runs")
}

/// A running program; ended when it is dropped.
pub struct Bouncer {
    directory: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    child: Child,
}

impl Bouncer {
    /// Starts it with these lines in `[databases]` and `[pgbouncer]`, and waits until it listens. Users `app`, `admin`
    /// and `stats` need no password; the latter two may use the console.
    #[track_caller]
    pub fn start(program: &Path, databases: &str, settings: &str) -> Self {
        let (directory, port) = (place::directory("bouncer"), place::free_port());
        let path = directory.display();
        place::write(&directory.join("userlist.txt"), USERLIST);
        let ini = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir = {path}\nauth_type = trust\nauth_file = {path}/userlist.txt\n\
             admin_users = admin\nstats_users = stats\nserver_tls_sslmode = disable\n{settings}\n"
        );
        let file = directory.join("pgbouncer.ini");
        place::write(&file, &ini);
        let log = fs::File::create(directory.join("log")).expect("the directory takes a log");
        let mut command = place::command(link(program, &directory));
        command.arg(&file).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let bouncer = Self { directory, port, child };
        bouncer.wait_until_listening();
        bouncer
    }

    #[track_caller]
    fn wait_until_listening(&self) {
        let deadline = Instant::now() + super::PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let gone = !Path::new(&format!("/proc/{}/exe", self.child.id())).exists();
            assert!(!gone && Instant::now() < deadline, "it does not listen:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// All it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The directory with its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A session.
    #[track_caller]
    pub fn connect(&self, database: &str, user: &str) -> Raw {
        Raw::connect(("127.0.0.1", self.port), database, user)
    }

    /// A session on the console.
    #[track_caller]
    pub fn console(&self) -> Raw {
        self.connect("pgbouncer", "admin")
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the end of its log:");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
