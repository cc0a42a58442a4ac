//! setup.sh, with a stand-in for Docker that writes down what it is asked.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{self, Outcome};
use crate::support::place;

/// Answers as Docker would with a stack whose services become healthy one call after another; or never, where the file
/// `ill` lies beside it.
const DOCKER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/asked"
case "$1 $2" in
    "version --format") cat "$here/version" ;;
    "compose version") echo 2.27.0 ;;
    "compose ps") ;;
    "inspect --format")
        echo x >>"$here/calls"
        if [ -e "$here/ill" ] || [ "$(wc -l <"$here/calls")" -lt 4 ]; then echo starting; else echo healthy; fi
        ;;
esac
"#;

/// A checkout of the operator's own with a stand-in for Docker; gone with the test.
struct Checkout(PathBuf);

impl Checkout {
    fn new() -> Self {
        let copy =
            shell::copy_of(&["setup.sh", ".env.example", "scripts/stack.sh", "docker-compose.yml", "backup"]);
        let bin = copy.join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("docker"), DOCKER).unwrap();
        std::fs::set_permissions(bin.join("docker"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(bin.join("version"), "27.3.1\n").unwrap();
        place::give_away(&bin);
        Self(copy)
    }

    fn setup(&self, arguments: &[&str]) -> Outcome {
        let mut setup = place::command(self.0.join("setup.sh"));
        setup.env("PATH", format!("{}:{}", self.0.join("bin").display(), shell::PATH));
        // Ports on which nobody listens.
        for name in ["POSTGRES", "PGWEIR", "PGWEIR_HTTP", "MINIO", "MINIO_CONSOLE", "REDIS"] {
            setup.env(format!("{name}_PORT"), place::free_port().to_string());
        }
        let patience = if self.0.join("bin/ill").exists() { "1" } else { "60" };
        shell::run(setup.env("SETUP_WAIT_SECONDS", patience).args(arguments))
    }

    fn env(&self) -> String {
        std::fs::read_to_string(self.0.join(".env")).unwrap()
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.0.join("bin/asked")).unwrap_or_default()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A line of a `.env`.
fn value<'a>(env: &'a str, name: &str) -> &'a str {
    env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// The compose file makes use of this `.env`, and nothing is left open.
#[track_caller]
fn compose_takes(env: &str) {
    let read = crate::compose::config("docker-compose.yml", &["backup"], Some(env), &[]);
    assert!(read.stderr.is_empty(), "{}", read.stderr);
    let read = read.succeeded();
    for name in
        ["POSTGRES_PASSWORD", "DB_PASSWORD", "REDIS_PASSWORD", "BACKUP_AGE_RECIPIENT", "CLIENT_TLS_SSLMODE"]
    {
        assert!(read.contains(value(env, name)), "{name}");
    }
}

#[test]
fn setup_writes_secrets_once_starts_the_stack_and_says_what_is_next() {
    let checkout = Checkout::new();
    let told = checkout.setup(&[]).succeeded();
    let env = checkout.env();
    assert_eq!(mode(&checkout.0.join(".env")), 0o600);
    let mut secrets: Vec<&str> = [
        "POSTGRES_PASSWORD",
        "DB_PASSWORD",
        "ADMIN_PASSWORD",
        "MONITOR_PASSWORD",
        "MINIO_ROOT_PASSWORD",
        "REDIS_PASSWORD",
    ]
    .into_iter()
    .map(|name| value(&env, name))
    .collect();
    assert!(secrets.iter().all(|secret| secret.len() >= 32), "{env}");
    secrets.sort_unstable();
    secrets.dedup();
    assert_eq!(secrets.len(), 6, "each is its own");
    assert_eq!(value(&env, "COMPOSE_PROFILES"), "development");
    assert_eq!(value(&env, "BACKUP_SCHEDULE"), "0 3 * * *");
    assert!(checkout.asked().contains("compose up --detach --build\n"));
    assert!(
        told.contains("lingudesk_auth user=db_user") && told.contains("./backup/restore.sh -l"),
        "{told}"
    );
    assert!(secrets.iter().all(|secret| !told.contains(secret)), "secrets stay in .env");
    compose_takes(&env);
    let told = checkout.setup(&[]).succeeded();
    assert!(told.contains(".env is there and stays as it is"), "{told}");
    assert_eq!(checkout.env(), env);
    let told = checkout.setup(&["--profile", "production"]).failed(1);
    assert!(told.contains("it is for development"), "{told}");
    assert_eq!(checkout.env(), env);
    // The monitoring is added by hand.
    assert!(!value(&env, "GRAFANA_PASSWORD").is_empty());
    let watched = env.replace("COMPOSE_PROFILES=development", "COMPOSE_PROFILES=development,monitoring");
    place::write(&checkout.0.join(".env"), &watched);
    let told = checkout.setup(&["--profile", "development"]).succeeded();
    assert!(told.contains("Grafana: http://127.0.0.1:3001 as admin"), "{told}");
}

#[test]
fn setup_for_production_makes_a_key_and_demands_encryption() {
    let checkout = Checkout::new();
    checkout.setup(&["--profile", "production", "--no-start"]).succeeded();
    assert_eq!(checkout.asked(), "", "nothing was started");
    let env = checkout.env();
    let recipient = value(&env, "BACKUP_AGE_RECIPIENT");
    let key = checkout.0.join("secrets/backup.key");
    assert_eq!((mode(&key), mode(&checkout.0.join("secrets"))), (0o600, 0o700));
    let mut keygen = Command::new(shell::program("age-keygen"));
    assert_eq!(shell::run(keygen.arg("-y").arg(&key)).succeeded().trim(), recipient);
    for (name, wanted) in
        [("CLIENT_TLS_SSLMODE", "require"), ("POSTGRES_SSL", "on"), ("COMPOSE_PROFILES", "production")]
    {
        assert_eq!(value(&env, name), wanted);
    }
    compose_takes(env.as_str());
    // What it wrote is what production asks for.
    let mut check = Command::new(shell::root().join("config/lingudesk/production.sh"));
    for line in env.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once('=') {
            check.env(name, value);
        }
    }
    shell::run(&mut check).succeeded();
    // A key that is there is used, not replaced.
    std::fs::remove_file(checkout.0.join(".env")).unwrap();
    checkout.setup(&["--profile", "production", "--no-start"]).succeeded();
    assert_eq!(value(&checkout.env(), "BACKUP_AGE_RECIPIENT"), recipient);
}

#[test]
fn setup_says_what_is_missing_before_it_writes_anything() {
    let checkout = Checkout::new();
    std::fs::write(checkout.0.join("bin/version"), "20.10.5\n").unwrap();
    assert!(checkout.setup(&[]).failed(1).contains("Docker is 20.10.5, 24.0 is needed"));
    std::fs::remove_file(checkout.0.join("bin/version")).unwrap();
    assert!(checkout.setup(&[]).failed(1).contains("Docker does not answer"));
    std::fs::remove_file(checkout.0.join("bin/docker")).unwrap();
    // Where the machine has a Docker of its own, that one answers.
    if !std::env::split_paths(shell::PATH).any(|it| it.join("docker").exists()) {
        assert!(checkout.setup(&[]).failed(1).contains("Docker is not installed"));
    }
    for wrong in [&["--profile"][..], &["--profile", "test"], &["now"], &["--profile", "development", "x"]] {
        checkout.setup(wrong).failed(2);
    }
    assert!(!checkout.0.join(".env").exists());
}

#[test]
fn setup_does_not_wait_for_ever_and_names_a_taken_port() {
    let checkout = Checkout::new();
    std::fs::write(checkout.0.join("bin/ill"), "").unwrap();
    let told = checkout.setup(&[]).failed(1);
    assert!(told.contains("Not healthy after 1 s: postgres pgweir minio redis backup"), "{told}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut setup = place::command(checkout.0.join("setup.sh"));
    setup
        .env("PATH", format!("{}:{}", checkout.0.join("bin").display(), shell::PATH))
        .env("REDIS_PORT", &port);
    let told = shell::run(&mut setup).failed(1);
    assert!(told.contains("Taken by other programs:") && told.contains(&port), "{told}");
}

#[test]
fn on_the_host_of_a_running_stack_the_scripts_run_inside_the_service() {
    let checkout = Checkout::new();
    let docker = "#!/bin/sh\necho \"$*\" >>\"$(dirname \"$0\")/asked\"\n[ \"$2\" != ps ] || echo backup\n";
    std::fs::write(checkout.0.join("bin/docker"), docker).unwrap();
    let run = |script: &str, arguments: &[&str]| {
        let mut command = place::command(checkout.0.join("backup").join(script));
        command.env("PATH", format!("{}:{}", checkout.0.join("bin").display(), shell::PATH));
        shell::run(command.args(arguments))
    };
    run("restore.sh", &["-f", "/backup/a file.sql.gz"]).succeeded();
    run("backup.sh", &[]).succeeded();
    let asked = checkout.asked();
    assert!(
        asked.contains("compose exec -T backup /opt/lingudesk/backup/restore.sh -f /backup/a file.sql.gz\n"),
        "{asked}"
    );
    assert!(asked.contains("compose exec -T backup /opt/lingudesk/backup/backup.sh\n"), "{asked}");
    std::fs::write(checkout.0.join("bin/docker"), "#!/bin/sh\n").unwrap();
    assert!(run("backup.sh", &[]).failed(1).contains("docker compose up -d backup"));
}
