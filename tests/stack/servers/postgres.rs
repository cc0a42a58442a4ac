//! PostgreSQL as the official image starts it: `POSTGRES_*`, a configuration file, and what lies in
//! `/docker-entrypoint-initdb.d`, in alphabetical order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::log;
use crate::shell;
use crate::support::place::{self, Guarded};
use crate::support::raw::Raw;

/// What a compose file says about a service of the image `postgres`.
#[derive(Clone)]
pub struct Image {
    pub user: String,
    pub password: String,
    pub database: String,
    /// `-c config_file=…`; without one, the sample that initdb writes.
    pub config: Option<PathBuf>,
    /// Further `-c` settings of the service's `command`.
    pub options: Vec<String>,
    /// What is mounted at `/docker-entrypoint-initdb.d`: files, or directories of files, in this order.
    pub init: Vec<PathBuf>,
    /// The service's other environment variables.
    pub environment: Vec<(String, String)>,
    /// The databases lie on a file system of their own, with so much room left at the start.
    pub room_kilobytes: Option<u32>,
}

/// A running cluster; it ends when it is dropped.
pub struct Postgres {
    directory: PathBuf,
    image: Image,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    server: Option<Guarded>,
}

/// Runs PostgreSQL with `$1/base` on a file system of its own that has `$2` kB more than it needs; the log of changes lies
/// elsewhere. In a namespace, where its own user may mount.
const SMALL_DISK: &str = r#"
size=$(($(du -sk "$1/base" | cut -f1) + $2))
mv "$1/base" "$1/base.whole" && mkdir -m 700 "$1/base" && mount -t tmpfs -o "size=${size}k,mode=0700" tmpfs "$1/base" &&
    cp -a "$1/base.whole/." "$1/base/" && shift 2 && exec "$@"
"#;

/// The image's entry point lets nobody in over TCP without a password.
const INITDB: &[&str] =
    &["--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C"];

impl Image {
    pub fn new(user: &str, password: &str, database: &str) -> Self {
        let (user, password, database) = (user.to_owned(), password.to_owned(), database.to_owned());
        Self {
            user,
            password,
            database,
            config: None,
            options: Vec::new(),
            init: Vec::new(),
            environment: Vec::new(),
            room_kilobytes: None,
        }
    }

    /// Adds an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The first start: makes the cluster and runs the initial files. Clusters of one image after the first are
    /// copies of what came of it.
    #[track_caller]
    pub fn start(&self) -> Postgres {
        let directory = place::directory("pg");
        let mut postgres =
            Postgres { directory, image: self.clone(), port: place::free_port(), server: None };
        let data = postgres.data();
        shell::run(place::command("cp").arg("-a").arg(self.template()).arg(&data)).succeeded();
        postgres.resume();
        postgres
    }

    fn template(&self) -> PathBuf {
        static TEMPLATES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
        let key =
            format!("{:?}", (&self.user, &self.password, &self.database, &self.init, &self.environment));
        let mut templates = TEMPLATES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(template) = templates.get(&key) {
            return template.clone();
        }
        let directory = place::directory("image");
        let mut first = Postgres {
            directory: directory.clone(),
            image: Self { room_kilobytes: None, ..self.clone() },
            port: place::free_port(),
            server: None,
        };
        first.initdb();
        first.resume();
        first.run_initial_files();
        first.stop();
        // Wanted as long as this process lives: a guard with nothing to guard removes it afterwards.
        std::mem::forget(Guarded::start(&directory, Path::new("true"), &[]));
        let data = first.data();
        std::mem::forget(first);
        templates.insert(key, data.clone());
        data
    }
}

impl Postgres {
    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn initdb(&self) {
        let password = self.directory.join("password");
        place::write(&password, &self.image.password);
        let mut initdb = place::command(place::postgres_program("initdb"));
        initdb.arg("-D").arg(self.data()).args(INITDB).arg("--username").arg(&self.image.user);
        shell::run(initdb.arg("--pwfile").arg(&password)).succeeded();
    }

    /// Starts it (again) and waits until it takes logins.
    #[track_caller]
    pub fn resume(&mut self) {
        let mut options = vec!["-D".to_owned(), self.data().display().to_string()];
        if let Some(config) = &self.image.config {
            options.extend(["-c".to_owned(), format!("config_file={}", config.display())]);
        }
        let sockets = format!("unix_socket_directories={}", self.directory.display());
        let port = format!("port={}", self.port);
        options.extend(self.image.options.iter().flat_map(|it| ["-c".to_owned(), it.clone()]));
        // The collector takes the log away from here; the rest is speed over safety.
        let local = [
            "listen_addresses=127.0.0.1",
            &sockets,
            &port,
            "logging_collector=off",
            "log_destination=stderr",
        ];
        let fast = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];
        options.extend(local.iter().chain(&fast).flat_map(|it| ["-c".to_owned(), (*it).to_owned()]));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let (program, options) = self.command_line(&options);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = Guarded::start(&self.directory, &program, &options);
        crate::support::eventually("PostgreSQL takes logins", || {
            assert!(server.is_alive(), "PostgreSQL did not start:\n{}", log(&self.directory));
            let mut ready = self.client("pg_isready");
            shell::run(ready.arg("-q")).code == Some(0)
        });
        self.server = Some(server);
    }

    /// PostgreSQL's own, or where the room on its disk is limited, what makes it so.
    fn command_line(&self, options: &[&str]) -> (PathBuf, Vec<String>) {
        let program = place::postgres_program("postgres");
        let own = options.iter().map(|it| (*it).to_owned());
        let Some(room) = self.image.room_kilobytes else { return (program, own.collect()) };
        let words = ["-U", "--map-current-user", "--keep-caps", "-m", "sh", "-c", SMALL_DISK, "sh"];
        let words = words.into_iter().map(str::to_owned);
        let place = [self.data().display().to_string(), room.to_string(), program.display().to_string()];
        (PathBuf::from("unshare"), words.chain(place).chain(own).collect())
    }

    /// Ends it as a stopped container would; [`Postgres::resume`] brings it back on the same port.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            let mut stop = place::command(place::postgres_program("pg_ctl"));
            shell::run(stop.args(["stop", "-s", "-m", "fast", "-D"]).arg(self.data())).succeeded();
            server.stop();
        }
    }

    /// What the image's entry point does with `/docker-entrypoint-initdb.d`, and the database before it.
    fn run_initial_files(&self) {
        if self.image.database != "postgres" {
            let mut create = self.client("createdb");
            shell::run(create.arg(&self.image.database)).succeeded();
        }
        for place in &self.image.init {
            for file in files_in(place) {
                self.run_initial_file(&file);
            }
        }
    }

    fn run_initial_file(&self, file: &Path) {
        let mut command = match file.extension().and_then(|it| it.to_str()) {
            Some("sh") => place::command("bash"),
            Some("sql") => {
                let mut psql = place::command(place::postgres_program("psql"));
                psql.args(["-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-f"]);
                psql
            }
            _ => return,
        };
        self.address(&mut command);
        command.env("PGUSER", &self.image.user).env("PGDATABASE", &self.image.database);
        command.env("POSTGRES_USER", &self.image.user).env("POSTGRES_PASSWORD", &self.image.password);
        command.env("POSTGRES_DB", &self.image.database);
        command.envs(self.image.environment.iter().cloned());
        let ran = shell::run(command.arg(file));
        assert_eq!(ran.code, Some(0), "{}:\n{}\n{}", file.display(), ran.stdout, ran.stderr);
    }

    fn address(&self, command: &mut Command) {
        command.env("PGHOST", &self.directory).env("PGPORT", self.port.to_string());
    }

    /// One of PostgreSQL's client programs, as the superuser over the Unix socket, in the image's database.
    pub fn client(&self, name: &str) -> Command {
        let mut command = place::command(place::postgres_program(name));
        self.address(&mut command);
        command.env("PGUSER", &self.image.user);
        if name != "createdb" {
            command.env("PGDATABASE", &self.image.database);
        }
        command
    }

    /// What the superuser's SQL answers, unaligned and without headings.
    #[track_caller]
    pub fn execute(&self, sql: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        shell::run(&mut psql).succeeded().trim_end().to_owned()
    }

    /// The number of rows of every table and a checksum over them, of one database of the cluster.
    #[track_caller]
    pub fn contents(&self, database: &str) -> String {
        let per_table = r"SELECT format('SELECT %L, count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM ONLY %s t',
                   c.oid::regclass, c.oid::regclass)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND n.nspname !~ '^pg_|^information_schema$' ORDER BY c.oid::regclass::text";
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c"]);
        let selects = shell::run(psql.arg(per_table)).succeeded();
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database]);
        for select in selects.lines() {
            psql.args(["-c", select]);
        }
        shell::run(&mut psql).succeeded()
    }

    /// SQL on another database of the cluster, as the superuser.
    #[track_caller]
    pub fn execute_in(&self, database: &str, sql: &str) {
        let mut psql = self.client("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        shell::run(&mut psql).succeeded();
    }

    /// A session over TCP, with a password.
    #[track_caller]
    pub fn login(&self, database: &str, user: &str, password: &str) -> Raw {
        login(self.port, database, user, password)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = log(&self.directory);
            let lines: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- the end of PostgreSQL's log:");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        match self.server.take() {
            Some(server) => server.remove(),
            None => drop(std::fs::remove_dir_all(&self.directory)),
        }
    }
}

/// A session on 127.0.0.1, of PostgreSQL or of pgweir.
#[track_caller]
pub fn login(port: u16, database: &str, user: &str, password: &str) -> Raw {
    let mut raw = Raw::dial(("127.0.0.1", port));
    let parameters = [("user", user), ("database", database)];
    raw.login(&parameters, password).unwrap_or_else(|refused| panic!("{user} on {database}: {refused:?}"));
    raw
}

fn files_in(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = std::fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
