//! Backups and what comes of them: every row restored, copies elsewhere, encryption, retention, the schedule.

use std::path::Path;
use std::process::Command;

use super::{Operator, ROWS, contents, databases, files, password, postgres, weir};
use crate::servers::s3::S3;
use crate::shell;
use crate::support::place;

pub(super) const BACKUP: &str = "backup/backup.sh";
pub(super) const RESTORE: &str = "backup/restore.sh";

/// A key of age for this test: its file, and the public key.
pub(super) fn key(operator: &Operator, name: &str) -> (String, String) {
    let file = operator.backups.join(name).display().to_string();
    let mut keygen = place::command(shell::program("age-keygen"));
    let made = shell::run(keygen.args(["-o", &file]));
    assert_eq!(made.code, Some(0), "{made:?}");
    (file, made.stderr.trim().trim_start_matches("Public key: ").to_owned())
}

/// An operator whose backups are copied to `store`, in production.
fn in_production(operator: Operator, store: &S3) -> Operator {
    let (file, recipient) = key(&operator, "key");
    store.aws(&["s3", "mb", "s3://backups"]);
    operator
        .set("COMPOSE_PROFILES", "production")
        .set("BACKUP_AGE_RECIPIENT", &recipient)
        .set("BACKUP_AGE_IDENTITY", &file)
        .set("S3_ENDPOINT", &store.url())
}

/// The day of a backup, as `restore.sh -d` takes it.
fn day_of(file: &Path) -> String {
    let name = file.file_name().unwrap().to_str().unwrap();
    name.trim_start_matches("lingudesk_backup_")[..8].to_owned()
}

#[test]
fn a_backup_brings_every_row_back() {
    let postgres = postgres();
    let operator = Operator::of(&postgres);
    postgres.execute(ROWS);
    let before = contents(&postgres, "lingudesk");
    let file = operator.back_up();
    assert_eq!(databases(&postgres), ["lingudesk"], "what verified the backup is gone");
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600, "nobody else reads a backup");
    let listed = operator.run(RESTORE, &["-l"]).succeeded();
    assert!(
        listed.contains("here") && listed.contains(file.file_name().unwrap().to_str().unwrap()),
        "{listed}"
    );

    // Damaged by hand, then restored by date: the damaged one stays aside.
    postgres.execute("DELETE FROM content.cards; DROP SCHEMA credit CASCADE; CREATE TABLE public.after ()");
    let told = operator.run(RESTORE, &["-d", &day_of(&file)]).succeeded();
    assert_eq!(contents(&postgres, "lingudesk"), before);
    let kept = databases(&postgres);
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(told.contains(&format!("DROP DATABASE \"{}\"", kept[1])), "{told}");
    let lost = postgres
        .execute("SELECT count(*) FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'");
    assert_eq!(lost, "0");
    postgres.execute(&format!("DROP DATABASE \"{}\"", kept[1]));

    // The database is gone altogether, then restored by the file's name.
    let mut drop = postgres.client("psql");
    shell::run(drop.args(["-d", "postgres", "-c", "DROP DATABASE lingudesk"])).succeeded();
    operator.run(RESTORE, &["-f", file.to_str().unwrap()]).succeeded();
    assert_eq!(contents(&postgres, "lingudesk"), before);
    assert_eq!(databases(&postgres), ["lingudesk"]);
    rights_are_restored(&postgres);
}

/// What a dump does not carry: who may connect. And what it does: owners, grants, policies.
#[track_caller]
fn rights_are_restored(postgres: &crate::servers::postgres::Postgres) {
    postgres.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'");
    let may = "SELECT has_database_privilege('stranger', 'lingudesk', 'CONNECT')::text
                   || has_database_privilege('db_user', 'lingudesk', 'CONNECT')::text
                   || has_database_privilege('admin', 'lingudesk', 'CREATE')::text
                   || has_schema_privilege('stranger', 'public', 'USAGE')::text";
    assert_eq!(postgres.execute(may), "falsetruetruefalse");
    let weir = weir(postgres);
    let mut client = weir.login("lingudesk_content", "db_user", password("DB_PASSWORD"));
    assert_eq!(client.value("SELECT count(*) FROM decks"), "0", "row-level security is there");
    client.query("BEGIN");
    client.query("SELECT set_config('app.user_id', '1', true)");
    assert_eq!(client.value("SELECT title FROM decks WHERE deck_id = 1"), "Rivers and weirs");
    client.query("COMMIT");
    assert_eq!(client.failure("DELETE FROM audit.logs"), "42501");
}

#[test]
fn production_encrypts_copies_off_site_and_restores_from_there_into_a_new_cluster() {
    let (postgres, store) = (postgres(), S3::start());
    let operator = in_production(Operator::of(&postgres), &store);
    postgres.execute(ROWS);
    let before = contents(&postgres, "lingudesk");
    let told = operator.run(BACKUP, &[]).succeeded();
    assert!(told.contains("Copied to backups"), "{told}");
    let file = operator.newest();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.ends_with(".sql.gz.age"), "{name}");
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
    assert!(!bytes.windows(7).any(|it| it == b"lingude"), "nothing shows through");

    // The machine is lost: another cluster after its first start, an empty directory, the store and the key.
    drop(postgres);
    let postgres = super::postgres();
    let (identity, recipient) =
        (std::fs::read_to_string(operator.backups.join("key")).unwrap(), String::new());
    let other =
        Operator::of(&postgres).set("S3_ENDPOINT", &store.url()).set("BACKUP_AGE_RECIPIENT", &recipient);
    place::write(&other.backups.join("key"), &identity);
    let key = other.backups.join("key").display().to_string();
    let other = other.set("BACKUP_AGE_IDENTITY", &key);
    let listed = other.run(RESTORE, &["-l"]).succeeded();
    assert!(listed.contains("off-site") && listed.contains(&name), "{listed}");
    other.run(RESTORE, &["-d", &day_of(&file)]).succeeded();
    assert_eq!(contents(&postgres, "lingudesk"), before);
    assert_eq!(other.names(), Vec::<String>::new(), "what was fetched is removed");
    rights_are_restored(&postgres);
}

#[test]
fn production_makes_no_backup_in_the_clear() {
    let postgres = postgres();
    let operator = Operator::of(&postgres);
    let production = [("COMPOSE_PROFILES", "production")];
    assert!(operator.run_with(&production, BACKUP, &[]).failed(6).contains("BACKUP_AGE_RECIPIENT"));
    let (_, recipient) = key(&operator, "key");
    let no_key = [("COMPOSE_PROFILES", "production"), ("BACKUP_AGE_RECIPIENT", recipient.as_str())];
    let told = operator.run_with(&no_key, BACKUP, &[]).failed(6);
    assert!(told.contains("BACKUP_AGE_IDENTITY"), "a backup that cannot be verified is none: {told}");
    let secret = [("COMPOSE_PROFILES", "production"), ("BACKUP_AGE_RECIPIENT", "AGE-SECRET-KEY-1")];
    operator.run_with(&secret, BACKUP, &[]).failed(6);
    operator.run_with(&[("BACKUP_ENCRYPTION", "maybe")], BACKUP, &[]).failed(2);
    assert_eq!(operator.names(), Vec::<String>::new());
    assert!(operator.published("backup_last_exit_status", "2"));
}

#[test]
fn backups_that_are_too_old_are_forgotten_here_and_there() {
    let (postgres, store) = (postgres(), S3::start());
    store.aws(&["s3", "mb", "s3://backups"]);
    let operator = Operator::of(&postgres).set("S3_ENDPOINT", &store.url()).set("BACKUP_RETENTION_DAYS", "7");
    let named = |days: &str| {
        let stamp = shell::run(Command::new("date").args(["-d", days, "+%Y%m%d_%H%M%S"])).succeeded();
        format!("lingudesk_backup_{}.sql.gz", stamp.trim())
    };
    let (old, older, young) = (named("8 days ago"), named("400 days ago") + ".age", named("6 days ago"));
    let foreign = "other_backup_20200101_030000.sql.gz";
    for name in [&old, &older, &young, foreign] {
        place::write(&operator.backups.join(name), "");
        place::write(&operator.backups.join(format!("{name}.contents")), "");
    }
    // Nothing is forgotten while the copy cannot be made: there may be no other place.
    let unreachable = [("S3_ENDPOINT", "http://127.0.0.1:1")];
    let told = operator.run_with(&unreachable, BACKUP, &[]).failed(9);
    assert!(told.contains("The backup is good, but could not be copied"), "{told}");
    assert!(operator.backups.join(&older).exists());
    assert!(operator.published("backup_last_exit_status", "9"));
    for name in [&old, &young] {
        let file = operator.backups.join(name).display().to_string();
        store.aws(&["s3", "cp", &file, "s3://backups/"]);
    }
    let told = operator.run(BACKUP, &[]).succeeded();
    assert!(
        told.contains(&format!("Forgot {old}")) && told.contains(&format!("Forgot the copies of {old}")),
        "{told}"
    );
    let here = operator.names();
    assert!(!here.contains(&old) && !here.contains(&older) && here.contains(&young), "{here:?}");
    assert!(!here.contains(&format!("{old}.contents")), "{here:?}");
    assert!(operator.backups.join(foreign).exists(), "another's file is left alone");
    let there = store.aws(&["s3", "ls", "s3://backups/"]);
    let newest = operator.newest();
    let newest = newest.file_name().unwrap().to_str().unwrap();
    assert!(!there.contains(&old) && there.contains(&young) && there.contains(newest), "{there}");
    assert!(operator.published("backup_last_exit_status", "0"));
    for wrong in ["0", "a week", "-1"] {
        operator.run_with(&[("BACKUP_RETENTION_DAYS", wrong)], BACKUP, &[]).failed(2);
    }
}

impl Operator {
    /// Whether monitoring reads this value of the last backup.
    fn published(&self, metric: &str, value: &str) -> bool {
        let line = format!("{metric}{{database=\"lingudesk\"}} {value}");
        std::fs::read_to_string(self.backups.join("backup.prom")).unwrap().lines().any(|it| it == line)
    }
}

#[test]
fn only_one_of_the_scripts_works_at_a_time() {
    let postgres = postgres();
    let operator = Operator::of(&postgres);
    let mut holder = place::command("flock");
    holder.arg(operator.backups.join(".lock")).args(["sh", "-c", "echo held; read _"]);
    let mut holder =
        holder.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let output = holder.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    for (script, arguments) in
        [(BACKUP, vec![]), (RESTORE, vec!["-d", "20250120"]), ("backup/maintenance.sh", vec![])]
    {
        assert!(operator.run(script, &arguments).failed(8).contains("at work"), "{script}");
    }
    operator.run(RESTORE, &["-l"]).succeeded();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    operator.run("backup/maintenance.sh", &[]).succeeded();
}

#[test]
fn clients_of_pgweir_wait_while_a_restored_database_takes_its_place() {
    let postgres = postgres();
    let weir = weir(&postgres);
    let port = weir.port.to_string();
    let operator = Operator::of(&postgres).set("PGWEIR_HOST", "127.0.0.1").set("PGWEIR_PORT", &port);
    let file = operator.back_up();
    postgres.execute("UPDATE content.languages SET name = 'changed'");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = ["lingudesk_content", "lingudesk_ai"].map(|database| {
            let mut client = weir.login(database, "db_user", password("DB_PASSWORD"));
            let stop = &stop;
            scope.spawn(move || {
                let mut seen = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    seen.push(client.value("SELECT name FROM content.languages WHERE code = 'de'"));
                    seen.dedup();
                }
                seen.push(client.value("SELECT name FROM content.languages WHERE code = 'de'"));
                seen.dedup();
                seen
            })
        });
        let restored = operator.run(RESTORE, &["-f", file.to_str().unwrap()]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().unwrap(), ["changed", "German"]);
        }
        let told = restored.succeeded();
        assert!(!told.contains("not paused"), "{told}");
    });
}

#[test]
fn the_schedule_is_read_as_cron_reads_it() {
    let rows = [
        ("0 3 * * *", "2025-01-20 02:59", "2025-01-20 03:00"),
        ("0 3 * * *", "2025-01-20 03:00", "2025-01-21 03:00"),
        ("*/15 2-4 * * 1-5", "2025-01-17 04:45", "2025-01-20 02:00"),
        ("5/20 * * * *", "2025-01-20 03:26", "2025-01-20 03:45"),
        ("30 4 1,15 * 5", "2025-01-18 00:00", "2025-01-24 04:30"),
        ("0 0 29 2 *", "2025-01-01 00:00", "2028-02-29 00:00"),
        ("0 12 * * 7", "2025-01-20 00:00", "2025-01-26 12:00"),
        ("0 3 * 12 *", "2025-12-31 03:00", "2026-12-01 03:00"),
    ];
    let schedule = |line: &str, after: &str| {
        let mut command = place::command(files().join("backup/schedule.sh"));
        shell::run(command.env("BACKUP_SCHEDULE", line).env("STACK_ENV", "/nonexistent").args(["-n", after]))
    };
    for (line, after, next) in rows {
        assert_eq!(schedule(line, after).succeeded().trim(), next, "{line} after {after}");
    }
    let wrong = ["0 3 * *", "60 3 * * *", "0 24 * * *", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8", "a 3 * * *"];
    for line in wrong.into_iter().chain(["5-1 * * * *", "*/0 * * * *", ", * * * *", "0 3 31 2 *", "@daily"]) {
        assert!(schedule(line, "2025-01-20").failed(2).contains("BACKUP_SCHEDULE"), "{line}");
    }
}
