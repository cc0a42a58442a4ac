//! Lingudesk: PostgreSQL, pgweir, Redis, an S3 store and the scripts of its operator, put together from the files that
//! docker-compose.yml mounts.

mod backup;
mod compose;
mod damage;
mod database;
mod health;
mod services;
mod setup;
mod watching;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::servers::postgres::{Image, Postgres};
use crate::servers::weir::Weir;
use crate::shell;
use crate::support::place;

/// The passwords of `.env`.
const PASSWORDS: &[(&str, &str)] = &[
    ("POSTGRES_PASSWORD", "postgres-secret"),
    ("DB_PASSWORD", "db-secret"),
    ("ADMIN_PASSWORD", "admin-secret"),
    ("MONITOR_PASSWORD", "monitor-secret"),
    ("REDIS_PASSWORD", "redis \"secret\" \\ "),
    ("MINIO_ROOT_PASSWORD", "minio-secret"),
];

fn password(name: &str) -> &'static str {
    PASSWORDS.iter().find(|(known, _)| *known == name).expect("a password of .env").1
}

/// A copy of what an operator lays on a server, shared by the tests: none of them writes there.
fn files() -> &'static Path {
    static FILES: OnceLock<PathBuf> = OnceLock::new();
    FILES.get_or_init(|| {
        let paths = ["backup", "monitoring", "config/lingudesk", "config/monitoring", "scripts/stack.sh"];
        shell::copy_of(&paths)
    })
}

fn image(profile: &str) -> Image {
    let mut image = Image::new("postgres", password("POSTGRES_PASSWORD"), "lingudesk");
    image.config = Some(files().join("config/lingudesk/postgresql.conf"));
    image.options = vec![hba("off")];
    image.init = vec![files().join("config/lingudesk/init")];
    for (name, value) in &PASSWORDS[1..4] {
        image = image.environment(name, value);
    }
    image.environment("LINGUDESK_PROFILE", profile)
}

/// The compose file's setting of who may log in, for this POSTGRES_SSL.
fn hba(ssl: &str) -> String {
    format!("hba_file={}", files().join(format!("config/lingudesk/hba/ssl-{ssl}.conf")).display())
}

/// PostgreSQL as it is after its first start, with the few rows of the profile `development`.
fn postgres() -> Postgres {
    image("development").start()
}

/// pgweir in front of it.
fn weir(postgres: &Postgres) -> Weir {
    weir_with(postgres, &[])
}

fn weir_with(postgres: &Postgres, environment: &[(&str, &str)]) -> Weir {
    let port = postgres.port.to_string();
    let mut all = vec![("PGHOST", "127.0.0.1"), ("PGPORT", port.as_str())];
    all.extend(&PASSWORDS[1..4]);
    all.extend(environment);
    Weir::start(&files().join("config/lingudesk/pgweir.toml"), &all)
}

/// An operator's scripts, with the settings of a `.env` and a directory for backups.
struct Operator {
    environment: Vec<(String, String)>,
    /// BACKUP_DIR.
    backups: PathBuf,
}

impl Operator {
    fn of(postgres: &Postgres) -> Self {
        let backups = place::directory("backups");
        let operator = Self { environment: Vec::new(), backups };
        let directory = operator.backups.display().to_string();
        let operator = operator.set("BACKUP_DIR", &directory).set("STACK_INSIDE", "1");
        let operator = operator.set("STACK_ENV", "/nonexistent").set("PATH", &path());
        let operator = operator.set("PGHOST", "127.0.0.1").set("PGPORT", &postgres.port.to_string());
        PASSWORDS.iter().fold(operator, |operator, (name, value)| operator.set(name, value))
    }

    /// Sets, or sets anew, a variable of the environment.
    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A script with these arguments, ready to run.
    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = place::command(files().join(script));
        command.envs(self.environment.iter().cloned()).args(arguments);
        command
    }

    #[track_caller]
    fn run(&self, script: &str, arguments: &[&str]) -> shell::Outcome {
        shell::run(&mut self.command(script, arguments))
    }

    /// The same with some settings changed.
    #[track_caller]
    fn run_with(&self, environment: &[(&str, &str)], script: &str, arguments: &[&str]) -> shell::Outcome {
        shell::run(self.command(script, arguments).envs(environment.iter().copied()))
    }

    /// Makes a backup, and gives its file.
    #[track_caller]
    fn back_up(&self) -> PathBuf {
        self.run("backup/backup.sh", &[]).succeeded();
        self.newest()
    }

    /// The newest backup that lies here.
    #[track_caller]
    fn newest(&self) -> PathBuf {
        let newest = self.names().into_iter().rfind(|name| !name.ends_with(".contents"));
        self.backups.join(newest.expect("there is a backup"))
    }

    /// All files of backups, also of unfinished ones, by name.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.backups).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.contains("lingudesk_backup_")).collect();
        names.sort();
        names
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.backups);
    }
}

/// PostgreSQL's programs, of the version under test, before the distribution's.
fn path() -> String {
    let programs = place::postgres_program("psql");
    format!("{}:{}", programs.parent().expect("a program lies in a directory").display(), shell::PATH)
}

/// Rows of every table, and in their values and names whatever a dump may stumble over.
const ROWS: &str = r#"
    CREATE SCHEMA "odd ""schema";
    CREATE TABLE "odd ""schema"."a.b (c) FROM stdin;" (t text);
    INSERT INTO "odd ""schema"."a.b (c) FROM stdin;" VALUES
        (E'\\.'), (E'\\N'), (NULL), (''), (E'tab\tand\nnewline\r'), ('COPY a.b (c) FROM stdin;'), ('''$$"'), ('日本語');
    INSERT INTO public.users (email, display_name) SELECT 'user' || n || '@example.org', 'User ' || n
        FROM generate_series(1, 200) n;
    INSERT INTO content.decks (user_id, language_code, title) SELECT user_id, 'de', 'Deck of ' || user_id FROM public.users;
    INSERT INTO content.cards (deck_id, user_id, front, back)
        SELECT deck_id, user_id, repeat('front ', n), 'back ' || n FROM content.decks, generate_series(1, 5) n;
    INSERT INTO content.review_logs (card_id, user_id, grade) SELECT card_id, user_id, card_id % 6 FROM content.cards;
    INSERT INTO auth.refresh_tokens (user_id, token_hash, expires_at)
        SELECT user_id, decode(md5(email), 'hex'), now() FROM public.users;
    INSERT INTO credit.transactions (user_id, amount, reason) SELECT user_id, user_id, 'bought' FROM public.users;
    INSERT INTO ai.cache_entries VALUES ('\x00ff', 'tutor', '{"a": [1, null]}', 3, 'infinity');
    INSERT INTO audit.logs (logged_at, user_id, action)
        SELECT now() - n * interval '1 week', 1, 'action ' || n FROM generate_series(0, 20) n;
"#;

/// The number of rows of every table and a checksum over them, of one database of the cluster.
#[track_caller]
fn contents(postgres: &Postgres, database: &str) -> String {
    let answer = postgres.contents(database);
    assert!(answer.lines().count() >= 20, "{answer}");
    answer
}

/// The databases of a cluster, but for those that every cluster has.
#[track_caller]
fn databases(postgres: &Postgres) -> Vec<String> {
    let names = postgres.execute("SELECT datname FROM pg_database WHERE oid >= 16384 ORDER BY 1");
    names.lines().map(str::to_owned).collect()
}
