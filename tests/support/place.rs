//! Where a test's servers run and as whom: directories, ports, programs, the user they run under.
//!
//! PostgreSQL refuses to run as root, and pgweir is tested the way it is meant to run; so where the tests are started
//! by root, every server runs as the user `postgres`.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// The user and group that servers run as; `None`: whoever runs the tests.
fn service_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let line = passwd.lines().find(|line| line.starts_with("postgres:"));
        let mut fields =
            line.expect("started by root, the tests need the user `postgres`").split(':').skip(2);
        let mut number =
            || fields.next().and_then(|text| text.parse().ok()).expect("/etc/passwd has numbers");
        Some((number(), number()))
    })
}

/// A command that will run as the servers' user, without the settings of the caller's own PostgreSQL.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    if let Some((uid, gid)) = service_user() {
        command.uid(uid).gid(gid).env("HOME", "/tmp");
    }
    command.current_dir("/").env("LC_ALL", "C").env_remove("LANG").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// A new, empty directory of the servers' user. Short, because unix socket paths hold some hundred bytes.
pub fn directory(kind: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = run().join(format!("{kind}{number}"));
    fs::create_dir(&path).expect("/tmp takes a directory");
    give_away(&path);
    path
}

/// The directory of this test process, removed by a shell when the process is gone: also after a `kill -9`.
///
/// The shell waits on a pipe that only the test process holds. Servers that end at that moment may still write.
fn run() -> &'static Path {
    static RUN: OnceLock<(PathBuf, Child)> = OnceLock::new();
    const REMOVE: &str = r#"
        trap '' INT TERM HUP
        read nothing
        for try in $(seq 50); do rm -rf "$1" && exit; sleep 0.1; done"#;
    let (path, _) = RUN.get_or_init(|| {
        let path = PathBuf::from(format!("/tmp/pgweir-it-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("/tmp takes a directory");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", REMOVE, "remove"]).arg(&path).current_dir("/").stdin(Stdio::piped());
        let shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("/bin/sh runs");
        (path, shell)
    });
    path
}

/// Hands a file over to the servers' user.
pub fn give_away(path: &Path) {
    if let Some((uid, gid)) = service_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may chown");
    }
}

/// Writes a file that only the servers' user reads.
pub fn write(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("own files take permissions");
    give_away(path);
}

/// A port that nobody listens on now, from below the range that the kernel hands out by itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 18_000;
    const RANGE: u16 = 14_000;
    let start = u16::try_from(u64::from(std::process::id()) * 101 % u64::from(RANGE)).expect("below RANGE");
    for _ in 0..RANGE {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % RANGE;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

/// One of PostgreSQL's programs: from `PGBIN`, the newest of Debian's directories, or the path.
pub fn postgres_program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("PGBIN") {
        return Path::new(&directory).join(name);
    }
    let version =
        |path: &Path| path.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse::<u32>().ok());
    let entries =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = entries.filter(|path| path.join("bin").join(name).exists()).max_by_key(|path| version(path));
    if let Some(newest) = newest {
        return newest.join("bin").join(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: `make test` installs PostgreSQL"))
}

/// The pgweir under test, as a file that the servers' user may run: a copy where the build directory is closed to it.
/// `PGWEIR_BIN` names another program to test.
pub fn pgweir_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_pgweir"));
        let program = std::env::var_os("PGWEIR_BIN").map_or(built, PathBuf::from);
        let reachable = command("test").arg("-x").arg(&program).status().expect("test runs").success();
        if reachable {
            return program;
        }
        let copy = directory("bin").join("pgweir");
        fs::copy(&program, &copy).expect("pgweir is built");
        give_away(&copy);
        copy
    })
}

/// A server process with a shell beside it that ends it, and removes its directory, when the test process is gone.
///
/// The shell waits on a pipe that only the test process holds: also after a `kill -9` nothing stays behind.
pub struct Guarded {
    shell: Child,
    /// The server's own process.
    pub pid: i32,
}

/// `$1` is the directory, the rest the server's command line.
const GUARD: &str = r#"
trap '' INT TERM HUP
dir=$1; shift
"$@" >>"$dir/log" 2>&1 </dev/null 3<&- &
pid=$!
echo $pid
exec >/dev/null
read order <&3
kill -QUIT $pid 2>/dev/null
kill -CONT $pid 2>/dev/null
wait $pid
[ "$order" = stop ] || rm -rf "$dir"
"#;

impl Guarded {
    /// Starts `program` with its output in `directory/log`.
    pub fn start(directory: &Path, program: &Path, arguments: &[&str]) -> Self {
        use std::io::BufRead;
        let mut shell = command("/bin/sh");
        shell.arg("-c").arg(format!("exec 3<&0\n{GUARD}")).arg("guard").arg(directory).arg(program);
        shell.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = shell.spawn().expect("/bin/sh runs");
        let mut line = String::new();
        let output = shell.stdout.take().expect("stdout is a pipe");
        std::io::BufReader::new(output).read_line(&mut line).expect("the shell says the pid");
        let pid = line.trim().parse().unwrap_or_else(|_| panic!("not a pid: {line:?}"));
        Self { shell, pid }
    }

    /// Ends the server at once and waits until it is gone; its directory stays.
    pub fn stop(mut self) {
        let mut pipe = self.shell.stdin.take().expect("stdin is a pipe");
        let _ = pipe.write_all(b"stop\n");
        drop(pipe);
        let _ = self.shell.wait();
    }

    /// Ends the server at once and removes its directory.
    pub fn remove(mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }

    /// Whether the server still runs.
    pub fn is_alive(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

/// Sends a signal to a process that a test started.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid is positive");
    let _ = rustix::process::kill_process(pid, signal);
}
