//! The subjects: who is measured, how each is configured, and its processes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;

use crate::figures::{Driver, Role};
use crate::options::Options;
use crate::place::{self, Guarded};
use crate::site::{DATABASE, NARROW, Site, USER, eventually, reachable};
use crate::{certs, clients, pgbench};

/// Servers of the pool.
pub const POOL_SIZE: usize = 20;
/// Servers of the small one.
pub const NARROW_SIZE: usize = 10;

/// A configuration that all poolers understand.
#[derive(Clone)]
pub struct Layout {
    /// What tells it from others.
    pub name: String,
    databases: String,
    users: String,
    settings: BTreeMap<&'static str, String>,
    /// Settings that only pgweir has.
    own: BTreeMap<&'static str, String>,
}

impl Layout {
    /// In front of PostgreSQL; everybody is let in.
    pub fn common(site: &Site) -> Self {
        let at = format!("host=127.0.0.1 port={}", site.postgres_port);
        let databases =
            format!("{DATABASE} = {at}\n{NARROW} = {at} dbname={DATABASE} pool_size={NARROW_SIZE}\n");
        let settings = [
            ("listen_addr", "127.0.0.1"),
            ("unix_socket_dir", ""),
            ("auth_type", "trust"),
            ("pool_mode", "transaction"),
            ("max_prepared_statements", "200"),
            ("log_connections", "0"),
            ("log_disconnections", "0"),
            ("client_tls_sslmode", "allow"),
        ];
        let mut settings: BTreeMap<_, _> =
            settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        settings.insert("default_pool_size", POOL_SIZE.to_string());
        settings.insert("max_client_conn", (site.plan.idle_clients + 3000).to_string());
        Self {
            name: "common".into(),
            databases,
            users: format!("\"{USER}\" \"\"\n"),
            settings,
            own: BTreeMap::new(),
        }
    }

    /// In front of PostgreSQL's stand-in.
    pub fn mock(site: &Site) -> Self {
        let mut layout = Self::common(site);
        layout.name = "mock".into();
        layout.databases = format!("{DATABASE} = host=127.0.0.1 port={}\n", site.mock_port);
        layout
    }

    /// Passwords are asked for.
    pub fn scram(site: &Site) -> Self {
        let mut layout = Self::common(site);
        layout.name = "scram".into();
        layout.users = format!("\"{USER}\" \"{}\"\n", site.scram_secret);
        layout.set("auth_type", "scram-sha-256")
    }

    /// So many users, each with a SCRAM secret of its own.
    pub fn users(site: &Site, count: usize) -> Self {
        let mut layout = Self::common(site);
        layout.name = format!("{count} users");
        let (head, tail) = site.scram_secret.split_at("SCRAM-SHA-256$4096:".len());
        for number in 0..count {
            // The first characters of the salt: another one for each.
            let _ = writeln!(layout.users, "\"user{number:05}\" \"{head}{number:08}{}\"", &tail[8..]);
        }
        layout
    }

    /// So many databases, named `p0` and so on, each with so many servers, in front of PostgreSQL's stand-in.
    pub fn pools(site: &Site, count: usize, size: usize) -> Self {
        let mut layout = Self::mock(site);
        layout.name = format!("{count} pools");
        for number in 0..count {
            let _ = writeln!(layout.databases, "p{number} = host=127.0.0.1 port={} dbname=x", site.mock_port);
        }
        layout.set("default_pool_size", &size.to_string())
    }

    pub fn set(mut self, name: &'static str, value: &str) -> Self {
        self.settings.insert(name, value.to_owned());
        self
    }

    /// A setting that only pgweir has.
    pub fn own(mut self, name: &'static str, value: &str) -> Self {
        let _ = write!(self.name, ", {name} = {value}");
        self.own.insert(name, value.to_owned());
        self
    }
}

/// A process that serves clients.
pub struct Instance {
    pub port: u16,
    /// `None`: PostgreSQL itself, whose cost nobody asks for.
    pub pid: Option<i32>,
    server: Option<Guarded>,
}

impl Instance {
    pub fn is_alive(&self) -> bool {
        self.server.as_ref().is_none_or(Guarded::is_alive)
    }

    /// The process whose cost is measured.
    pub fn process(&self) -> Result<i32, String> {
        self.pid.ok_or_else(|| "PostgreSQL is many processes".into())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // It has nothing to lose, and one that hangs must not hang the bench.
            place::signal(server.pid, Signal::KILL);
            server.stop();
        }
    }
}

/// Something to be measured.
pub struct Subject {
    pub name: String,
    pub role: Role,
    program: PathBuf,
    instances: RefCell<HashMap<String, Rc<Instance>>>,
}

impl Subject {
    fn new(name: impl Into<String>, role: Role, program: PathBuf) -> Self {
        Self { name: name.into(), role, program, instances: RefCell::default() }
    }

    /// Whether it is a pooler.
    pub fn pools(&self) -> bool {
        !matches!(self.role, Role::Direct | Role::Forwarder(_))
    }

    /// Its process with this configuration, which is started where there is none.
    pub fn instance(&self, layout: &Layout, site: &Site) -> Result<Rc<Instance>, String> {
        let running = self.instances.borrow().get(&layout.name).cloned();
        if let Some(instance) = running.filter(|it| it.is_alive()) {
            return Ok(instance);
        }
        let instance = Rc::new(self.start(layout, site)?);
        self.instances.borrow_mut().insert(layout.name.clone(), Rc::clone(&instance));
        Ok(instance)
    }

    /// A process that nobody has used yet.
    pub fn start(&self, layout: &Layout, site: &Site) -> Result<Instance, String> {
        match self.role {
            Role::Direct => Ok(Instance { port: site.postgres_port, pid: None, server: None }),
            Role::Forwarder(driver) => {
                let (server, port) = site.serve(driver.word())?;
                Ok(Instance { port, pid: Some(server.pid), server: Some(server) })
            }
            Role::Pgweir(driver) => {
                self.start_pooler(&layout.clone().own("relay_driver", driver.word()), site)
            }
            Role::PgBouncer | Role::Other => self.start_pooler(layout, site),
        }
    }

    fn start_pooler(&self, layout: &Layout, site: &Site) -> Result<Instance, String> {
        let port = place::free_port();
        let home = site.home(&self.name, port);
        let file = write_configuration(layout, &home, port, matches!(self.role, Role::Pgweir(_)));
        let server = Guarded::start(&home, &self.program, &[file.to_str().expect("the path is ASCII")]);
        let instance = Instance { port, pid: Some(server.pid), server: Some(server) };
        eventually(&self.name, &home, || clients::connect(port).map(drop))?;
        Ok(instance)
    }

    /// Ends its processes.
    pub fn stop(&self) {
        self.instances.borrow_mut().clear();
    }

    /// What `--version` says first.
    pub fn version(&self) -> String {
        const PATIENCE: Duration = Duration::from_secs(3);
        let said = pgbench::finished(place::command(&self.program).arg("--version"), PATIENCE);
        said.map_or_else(|error| error, |text| text.lines().next().unwrap_or_default().to_owned())
    }
}

fn write_configuration(layout: &Layout, home: &Path, port: u16, is_pgweir: bool) -> PathBuf {
    let server = &certs::Certificates::get().server;
    place::write(&home.join("server.crt"), &server.certificate);
    place::write(&home.join("server.key"), &server.key);
    place::write(&home.join("users.txt"), &layout.users);
    let at = home.display();
    let mut text = format!(
        "[databases]\n{}\n[pgbouncer]\nlisten_port = {port}\nauth_file = {at}/users.txt\n\
         client_tls_cert_file = {at}/server.crt\nclient_tls_key_file = {at}/server.key\n\
         client_tls_ca_file = {at}/server.crt\n",
        layout.databases
    );
    let own = layout.own.iter().filter(|_| is_pgweir);
    for (name, value) in layout.settings.iter().chain(own) {
        let _ = writeln!(text, "{name} = {value}");
    }
    let file = home.join("pooler.ini");
    place::write(&file, &text);
    file
}

/// Everybody: PostgreSQL itself first, then PgBouncer, pgweir by driver, the forwarders, and whoever else was named.
pub fn subjects(options: &Options) -> Vec<Subject> {
    let mut subjects = vec![Subject::new("PostgreSQL", Role::Direct, place::postgres_program("postgres"))];
    match std::env::var_os("PGBOUNCER").map(PathBuf::from).or_else(pgbouncer_on_path) {
        Some(path) => subjects.push(Subject::new("PgBouncer", Role::PgBouncer, reachable(path))),
        None => println!("PgBouncer is not installed: nothing to compare with.\n"),
    }
    let pgweir = reachable(std::env::var_os("PGWEIR").map_or_else(build_pgweir, PathBuf::from));
    for driver in Driver::ALL {
        let name = format!("pgweir {}", driver.word());
        subjects.push(Subject::new(name, Role::Pgweir(driver), pgweir.clone()));
    }
    for driver in Driver::ALL {
        let name = format!("forwarder {}", driver.word());
        subjects.push(Subject::new(name, Role::Forwarder(driver), PathBuf::new()));
    }
    let others = options.others.iter();
    subjects
        .extend(others.map(|(name, path)| Subject::new(name.as_str(), Role::Other, reachable(path.clone()))));
    subjects
}

fn pgbouncer_on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.find_map(|it| Some(it.join("pgbouncer")).filter(|it| it.exists()))
}

/// Cargo's directory.
pub fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn build_pgweir() -> PathBuf {
    let program = target().join("shipped/pgweir");
    println!("building {} …", program.display());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--profile", "shipped", "--bin", "pgweir"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().expect("cargo runs").success(), "pgweir can't be built");
    program
}
