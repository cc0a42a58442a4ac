//! What can go wrong with a backup or a restore: a message, an exit code, and the database as it was.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::backup::{BACKUP, RESTORE, key};
use super::{Operator, ROWS, contents, databases, files, image, postgres};
use crate::servers::postgres::{Image, Postgres};
use crate::shell;
use crate::support::place;

/// A database with a backup of each kind, and what must stay the same whatever happens to them.
struct Scene {
    postgres: Postgres,
    operator: Operator,
    before: String,
    plain: PathBuf,
    sealed: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let postgres = postgres();
        postgres.execute(ROWS);
        let operator = Operator::of(&postgres);
        let (file, recipient) = key(&operator, "key");
        let operator = operator.set("BACKUP_AGE_IDENTITY", &file).set("BACKUP_AGE_RECIPIENT", &recipient);
        let plain = operator.back_up();
        operator.run_with(&[("BACKUP_ENCRYPTION", "on")], BACKUP, &[]).succeeded();
        let sealed = operator.newest();
        assert_ne!(plain, sealed);
        let before = contents(&postgres, "lingudesk");
        Self { postgres, operator, before, plain, sealed }
    }

    /// A restore that must fail with this code, for this reason, and change nothing.
    #[track_caller]
    fn refuses(&self, environment: &[(&str, &str)], arguments: &[&str], code: i32, reason: &str) {
        let names = self.operator.names();
        let told = self.operator.run_with(environment, RESTORE, arguments).failed(code);
        assert!(told.contains(reason), "{arguments:?}: {told}");
        assert_eq!(databases(&self.postgres), ["lingudesk"], "{arguments:?}");
        assert_eq!(self.operator.names(), names, "{arguments:?}");
    }

    /// A file beside the backups, without a list of contents, made of these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.operator.backups.join(name);
        std::fs::write(&path, bytes).unwrap();
        place::give_away(&path);
        path.display().to_string()
    }

    /// A dump of this SQL.
    fn dump(&self, name: &str, sql: &str) -> String {
        let plain = self.file(&format!("{name}.sql"), sql.as_bytes());
        shell::run(Command::new("gzip").args(["-f", &plain])).succeeded();
        place::give_away(Path::new(&format!("{plain}.gz")));
        format!("{plain}.gz")
    }
}

#[test]
fn a_restore_of_what_is_not_a_whole_backup_changes_nothing() {
    let scene = Scene::new();
    let (plain, sealed) = (std::fs::read(&scene.plain).unwrap(), std::fs::read(&scene.sealed).unwrap());
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        bytes
    };
    let damaged = [
        scene.file("half.sql.gz", &half(&plain)),
        scene.file("flipped.sql.gz", &flipped(&plain)),
        scene.file("empty.sql.gz", b""),
        scene.file("text.sql.gz", b"DROP DATABASE lingudesk;"),
        scene.file("half.sql.gz.age", &half(&sealed)),
        scene.file("flipped.sql.gz.age", &flipped(&sealed)),
        scene.file("text.sql.gz.age", b"not encrypted"),
        scene.dump("short", "CREATE TABLE t ();\n"),
        scene
            .dump("open", "COPY public.users (email) FROM stdin;\na\n-- PostgreSQL database dump complete\n"),
    ];
    for file in &damaged {
        scene.refuses(&[], &["-f", file], 5, file);
    }
    // A dump that is whole, but that this cluster does not take: it fails in the middle.
    let end = "\n-- PostgreSQL database dump complete\n";
    let role = scene.dump("role", &format!("CREATE TABLE t ();\nALTER TABLE t OWNER TO nobody_here;{end}"));
    scene.refuses(&[], &["-f", &role], 1, "role \"nobody_here\" does not exist");
    let early = scene.dump("early", &format!("CREATE TABLE t ();\nCOMMIT;\nSELECT 1/0;{end}"));
    scene.refuses(&[], &["-f", &early], 1, "division by zero");
    // The list of contents is believed before the file is.
    let name = scene.plain.file_name().unwrap().to_str().unwrap();
    let listed = scene.plain.with_file_name(format!("{name}.contents"));
    let list = std::fs::read_to_string(&listed).unwrap();
    std::fs::write(&scene.plain, flipped(&plain)).unwrap();
    scene.refuses(&[], &["-f", name], 5, "checksum");
    std::fs::write(&scene.plain, &plain).unwrap();
    std::fs::write(&listed, list.replace("content.cards\t", "content.cards\t1")).unwrap();
    scene.refuses(&[], &["-f", name], 5, "does not hold the rows");
    std::fs::write(&listed, list).unwrap();
    assert_eq!(contents(&scene.postgres, "lingudesk"), scene.before);
    scene.operator.run(RESTORE, &["-f", name]).succeeded();
    assert_eq!(contents(&scene.postgres, "lingudesk"), scene.before);
}

#[test]
fn a_restore_that_is_asked_wrongly_changes_nothing() {
    let mut scene = Scene::new();
    for arguments in [
        &[][..],
        &["-x"],
        &["-d"],
        &["-f"],
        &["-l", "-d", "20250120"],
        &["-d", "20250120", "more"],
        &["-d", "2025-01-20"],
        &["-d", "20250231"],
        &["-d", "today"],
        &["-d", "20250120; DROP"],
    ] {
        scene.refuses(&[], arguments, 2, "");
    }
    scene.refuses(&[], &["-d", "19990101"], 4, "no backup of 19990101");
    scene.refuses(&[], &["-f", "/nonexistent.sql.gz"], 4, "no backup");
    scene.refuses(&[], &["-f", "/etc"], 4, "no backup");
    let sealed = scene.sealed.display().to_string();
    scene.refuses(&[("BACKUP_AGE_IDENTITY", "")], &["-f", &sealed], 6, "its key is not there");
    scene.refuses(&[("BACKUP_AGE_IDENTITY", "/nonexistent")], &["-f", &sealed], 6, "its key is not there");
    let (other, _) = key(&scene.operator, "other");
    scene.refuses(&[("BACKUP_AGE_IDENTITY", &other)], &["-f", &sealed], 6, "another key");
    let plain = scene.plain.display().to_string();
    scene.refuses(&[("POSTGRES_PASSWORD", "wrong")], &["-f", &plain], 3, "password authentication failed");
    let store = [("S3_ENDPOINT", "http://127.0.0.1:1")];
    scene.refuses(&store, &["-d", "19990101"], 4, "no backup of 19990101");
    let listed = scene.operator.run_with(&store, RESTORE, &["-l"]);
    assert!(listed.stderr.contains("cannot be listed"), "{listed:?}");
    assert!(listed.succeeded().contains("here"));
    assert_eq!(contents(&scene.postgres, "lingudesk"), scene.before);

    scene.postgres.stop();
    let told = scene.operator.run(RESTORE, &["-f", &plain]).failed(3);
    assert!(told.contains("Connection refused"), "{told}");
    let names = scene.operator.names();
    let told = scene.operator.run(BACKUP, &[]).failed(3);
    assert!(told.contains("Connection refused"), "{told}");
    assert_eq!(scene.operator.names(), names);
    scene.postgres.resume();
    assert_eq!(contents(&scene.postgres, "lingudesk"), scene.before);
    scene.operator.run(BACKUP, &["now"]).failed(2);
    scene.operator.run_with(&[("BACKUP_DIR", "/nonexistent")], BACKUP, &[]).failed(1);
    scene.operator.run_with(&[("POSTGRES_DB", "x\"; DROP")], BACKUP, &[]).failed(2);
    let log = std::fs::read_to_string(scene.operator.backups.join("backup.log")).unwrap();
    assert!(log.contains("FAILED: PostgreSQL at 127.0.0.1"), "{log}");
    assert!(!log.contains("-secret"), "no password gets into a log");
}

/// PostgreSQL's own disk fills up: while the new database is made, and while the rows go into it.
#[test]
fn a_full_disk_of_postgresql_leaves_no_half_restored_database() {
    let mut probe = place::command("unshare");
    if shell::run(probe.args(["-U", "--map-current-user", "--keep-caps", "-m", "true"])).code != Some(0) {
        return shell::skipped(
            "PostgreSQL's disk is not filled, the kernel lets no user mount in a namespace of his own",
        );
    }
    let roomy = postgres();
    let operator = Operator::of(&roomy);
    roomy.execute("INSERT INTO audit.logs (action) SELECT md5(n::text) FROM generate_series(1, 200000) n");
    let file = operator.back_up();
    for (room_kilobytes, reason) in
        [(1 << 10, "A new database cannot be made"), (14 << 10, "The restore failed")]
    {
        let image = Image { room_kilobytes: Some(room_kilobytes), ..image("development") };
        let postgres = image.start();
        let before = contents(&postgres, "lingudesk");
        let port = postgres.port.to_string();
        let told =
            operator.run_with(&[("PGPORT", &port)], RESTORE, &["-f", file.to_str().unwrap()]).failed(7);
        assert!(told.contains(reason) && told.contains("could not extend file"), "{told}");
        assert_eq!(databases(&postgres), ["lingudesk"]);
        assert_eq!(contents(&postgres, "lingudesk"), before);
        postgres.execute("INSERT INTO content.languages (code, name) VALUES ('nl', 'Dutch')");
    }
}

/// Runs a script where `directory` is a file system of its own with room for `kilobytes`, and adds what is left there
/// to what it prints. Takes root, or a kernel that lets anyone be root in a namespace of his own.
fn in_small_space(
    operator: &Operator,
    (directory, kilobytes): (&Path, u32),
    script: &str,
    arguments: &[&str],
) -> shell::Outcome {
    let root = rustix::process::geteuid().is_root();
    let other = if root { "setpriv --reuid=postgres --regid=postgres --init-groups" } else { "" };
    let shell = format!(
        "mount -t tmpfs -o size={kilobytes}k,mode=0777 tmpfs \"$1\" || exit 99
         directory=\"$1\"
         shift
         {other} \"$@\"
         code=$?
         echo \"left: $(ls -A \"$directory\" | tr '\\n' ' ')\"
         exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(if root { &["-m"][..] } else { &["-r", "-m"] });
    command.env_clear().env("HOME", "/tmp").env("LC_ALL", "C").envs(operator.environment.iter().cloned());
    command.current_dir("/").args(["sh", "-c", &shell, "sh"]).arg(directory).arg(files().join(script));
    command.args(arguments);
    shell::run(&mut command)
}

#[test]
fn a_full_disk_leaves_no_half_backup_behind() {
    let postgres = postgres();
    let operator = Operator::of(&postgres);
    postgres.execute("INSERT INTO audit.logs (action) SELECT md5(n::text) FROM generate_series(1, 20000) n");
    let told = in_small_space(&operator, (&operator.backups, 100), BACKUP, &[]);
    assert!(told.stderr.contains("No space left on device"), "{told:?}");
    assert_eq!(told.code, Some(7), "{told:?}");
    assert!(told.stdout.contains("left: ") && !told.stdout.contains("lingudesk_backup_"), "{told:?}");
    assert_eq!(databases(&postgres), ["lingudesk"]);
    // The backup would fit, but not what verifies it.
    let small = place::directory("small");
    let operator = operator.set("TMPDIR", small.to_str().unwrap());
    let told = in_small_space(&operator, (&small, 16), BACKUP, &[]);
    assert_eq!(told.code, Some(7), "{told:?}");
    assert!(told.stdout.contains("left: \n") || told.stdout.contains("left:  "), "{told:?}");
    assert_eq!(operator.names(), Vec::<String>::new(), "no half backup");
    assert_eq!(databases(&postgres), ["lingudesk"]);
    // A restore has no room for what it examines.
    let operator = operator.set("TMPDIR", "/tmp");
    let file = operator.back_up().display().to_string();
    let operator = operator.set("TMPDIR", small.to_str().unwrap());
    let told = in_small_space(&operator, (&small, 16), RESTORE, &["-f", &file]);
    assert_eq!(told.code, Some(7), "{told:?}");
    assert_eq!(databases(&postgres), ["lingudesk"]);
    let _ = std::fs::remove_dir_all(small);
}
