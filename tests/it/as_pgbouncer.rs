//! Started under PgBouncer's name with PgBouncer's file, pgweir is PgBouncer to whoever looks: its command line, its
//! settings, its console. Where a PgBouncer 1.25 is at hand, the two are compared.

use std::collections::BTreeMap;

use crate::support::bouncer::{self, Bouncer};
use crate::support::place;
use crate::support::prelude::*;

/// What the program prints on its standard error and how it ends.
fn refusal(program: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = bouncer::run(program, arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_wrong_command_line_is_refused_in_pgbouncers_words() {
    let try_help = "Try \"pgbouncer --help\" for more information.\n";
    for (arguments, words) in [
        (&[][..], "no configuration file specified"),
        (&["-q"], "no configuration file specified"),
        (&["one.ini", "two.ini"], "no configuration file specified"),
        (&["-x", "one.ini"], "invalid option -- 'x'"),
        (&["-qx", "one.ini"], "invalid option -- 'x'"),
        (&["--nonsense"], "unrecognized option '--nonsense'"),
        (&["-u"], "option requires an argument -- 'u'"),
        (&["--user"], "option '--user' requires an argument"),
        (&["--quiet=yes", "one.ini"], "option '--quiet' doesn't allow an argument"),
    ] {
        let expected = (Some(1), format!("pgbouncer: {words}\n{try_help}"));
        assert_eq!(refusal(place::pgweir_program(), arguments), expected, "{arguments:?}");
        if let Some(pgbouncer) = bouncer::pgbouncer() {
            assert_eq!(refusal(pgbouncer, arguments), expected, "PgBouncer, {arguments:?}");
        }
    }
}

#[test]
fn versions_and_help_go_to_the_standard_output() {
    for arguments in [&["-V"][..], &["--version"], &["-q", "-V"]] {
        let output = bouncer::run(place::pgweir_program(), arguments);
        let printed = String::from_utf8(output.stdout).unwrap();
        // Scripts take the second word, or the first thing that looks like a version.
        assert_eq!(printed.split_whitespace().nth(1), Some("1.25.2"), "{printed}");
        assert!(printed.starts_with("PgBouncer 1.25.2 (pgweir "), "{printed}");
        assert_eq!(output.status.code(), Some(0));
    }
    for argument in ["-h", "--help"] {
        let output = bouncer::run(place::pgweir_program(), &[argument]);
        let printed = String::from_utf8(output.stdout).unwrap();
        for option in ["--daemon", "--quiet", "--reboot", "--user", "--verbose", "--version", "--help"] {
            let short = format!(
                "-{}, {option}",
                if option == "--reboot" {
                    "R"
                } else if option == "--version" {
                    "V"
                } else {
                    &option[2..3]
                }
            );
            assert!(printed.contains(&short), "{short} is missing in\n{printed}");
        }
        assert!(printed.starts_with("pgbouncer is a connection pooler for PostgreSQL"), "{printed}");
        assert_eq!(output.status.code(), Some(0));
    }
}

/// The last line of the log of a program that cannot start from this file, without its time and number.
fn last_words(program: &std::path::Path, ini: &str) -> (Option<i32>, String) {
    let directory = place::directory("unusable");
    let file = directory.join("pgbouncer.ini");
    place::write(&file, ini);
    let output = bouncer::run(program, &[&file.display().to_string()]);
    let _ = std::fs::remove_dir_all(&directory);
    let log = String::from_utf8(output.stderr).unwrap();
    let last = log.lines().last().unwrap_or_default();
    let words = last.split_once("] ").unwrap_or_else(|| panic!("no line of PgBouncer's: {log}")).1;
    (output.status.code(), words.to_owned())
}

#[test]
fn a_file_that_cannot_be_used_ends_the_start_as_pgbouncer_ends_it() {
    for (name, ini) in [
        ("unknown setting", "[databases]\n[pgbouncer]\nnonsense = 1\n"),
        ("bad value", "[databases]\n[pgbouncer]\npool_mode = sometimes\n"),
        ("unknown section", "[databases]\n[pgbouncer]\n[nonsense]\n"),
        ("no section", "pool_mode = session\n"),
    ] {
        let expected = (Some(1), "FATAL cannot load config file".to_owned());
        assert_eq!(last_words(place::pgweir_program(), ini), expected, "{name}");
        if let Some(pgbouncer) = bouncer::pgbouncer() {
            assert_eq!(last_words(pgbouncer, ini), expected, "PgBouncer, {name}");
        }
    }
}

/// Parts of files, in which a line break stands as `|`.
const FILES: &[&str] = &[
    "",
    "[databases]",
    "# a comment|; another|[databases]|   indented = host=x|[pgbouncer]|\tpool_mode=session",
    "[databases]|[pgbouncer]|pool_mode = session ; no comment",
    "[databases]|[pgbouncer]|default_pool_size = 20 # no comment",
    "[ databases ]|[pgbouncer]",
    "[databases|[pgbouncer]",
    "[databases]|[pgbouncer]|default_pool_size = 0x10",
    "[databases]|[pgbouncer]|default_pool_size = +5",
    "[databases]|[pgbouncer]|default_pool_size = 1.5",
    "[databases]|[pgbouncer]|default_pool_size =",
    "[databases]|[pgbouncer]|query_timeout = 1.5",
    "[databases]|[pgbouncer]|query_timeout = -1",
    "[databases]|[pgbouncer]|query_timeout =",
    "[databases]|[pgbouncer]|log_connections = 2",
    "[databases]|[pgbouncer]|pool_mode = TRANSACTION|auth_type = Scram-SHA-256",
    "[databases]|[pgbouncer]|pool_mode = trans",
    "[databases]|[pgbouncer]|Pool_Mode = session",
    "[databases]|[pgbouncer]|pool_mode",
    "[databases]|[pgbouncer]|verbose = 5",
    "[databases]|[pgbouncer]|unix_socket_mode = 0999",
    "[databases]|[pgbouncer]|max_packet_size = 4294967295",
    "[databases]|[pgbouncer]|server_tls_sslmode = maybe",
    "[databases]|[pgbouncer]|client_tls_protocols = tlsv1.0,tlsv1.2",
    "[databases]|[pgbouncer]|client_tls_ciphers = HIGH:!aNULL",
    "[databases]|[pgbouncer]|auth_dbname = pgbouncer",
    "[databases]|[pgbouncer]|pool_mode=session|pool_mode=transaction",
    "[databases]|a = host=x|a = host=y|[pgbouncer]|[databases]|b = host=z|[pgbouncer]|default_pool_size=3",
    "[databases]|pgbouncer = host=x|[pgbouncer]",
    "[databases]|a = unheard_of=1|[pgbouncer]",
    "[databases]|a = host=|[pgbouncer]",
    "[databases]|a = host=''|[pgbouncer]",
    "[databases]|a = host='x|[pgbouncer]",
    "[databases]|a = host=x'y|[pgbouncer]",
    "[databases]|a = HOST=x|[pgbouncer]",
    "[databases]|a = host = x  port = 5|[pgbouncer]",
    "[databases]|a = host=a,b load_balance_hosts=sometimes|[pgbouncer]",
    "[databases]|a = port=0|[pgbouncer]",
    "[databases]|a = port=abc|[pgbouncer]",
    "[databases]|a = pool_size=-1 reserve_pool=-1|[pgbouncer]",
    "[databases]|a = pool_mode=sometimes|[pgbouncer]",
    "[databases]|a = client_encoding=UTF8 timezone=UTC connect_query='select ''1'''|[pgbouncer]",
    "[databases]|a =|* = host=x|a-b.c = host=x|'in quotes' = host=x|[pgbouncer]",
    "[users]|a = unheard_of=1|[pgbouncer]",
    "[users]|a = query_timeout=1.5 pool_size=3 client_idle_timeout=5|[pgbouncer]",
    "[peers]|0 = host=x|[pgbouncer]",
    "[peers]|one = host=x|[pgbouncer]",
    "[peers]|1 = port=5|[pgbouncer]",
    "[peers]|1 = host=x unheard_of=1|[pgbouncer]",
    "%include /nowhere|[pgbouncer]",
    "%unheard_of|[pgbouncer]",
    "key = before a section|[pgbouncer]",
];

#[test]
fn files_are_taken_and_refused_as_pgbouncer_does() {
    let Some(pgbouncer) = bouncer::pgbouncer() else { return };
    let directory = place::directory("files");
    let file = directory.join("pgbouncer.ini");
    let path = file.display().to_string();
    for text in FILES {
        let text = text.replace('|', "\n") + "\n";
        // PgBouncer has no check; with nowhere to listen it ends once it has read the file.
        let listening = |socket: &str| {
            let settings = format!("[pgbouncer]\nlisten_addr=\nunix_socket_dir={socket}\n");
            text.replace("[pgbouncer]\n", &settings)
        };
        place::write(&file, &listening(""));
        let output = bouncer::run(pgbouncer, &[&path]);
        let theirs = !String::from_utf8_lossy(&output.stderr).contains("cannot load config file");
        place::write(&file, &listening("/tmp"));
        let output = place::command(place::pgweir_program()).args(["check", &path]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), theirs, "taken by pgweir, by PgBouncer:\n{text}\n{printed}");
    }
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn sizes_with_leading_zeros_are_pgbouncers() {
    for program in [Some(place::pgweir_program()), bouncer::pgbouncer()].into_iter().flatten() {
        let databases = "a = host=127.0.0.1 port=05433 pool_size=010 min_pool_size=02 reserve_pool=011\nb = host=127.0.0.1";
        let pooler = Bouncer::start(program, databases, "default_pool_size = 010");
        let rows = pooler.console().rows("SHOW DATABASES");
        // Port, and the sizes of the pool, at least and in reserve.
        for (name, shown) in [("a", ["5433", "10", "2", "11"]), ("b", ["5432", "8", "0", "0"])] {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(name)).unwrap();
            let numbers = [2, 5, 6, 7].map(|at| row[at].as_deref().unwrap_or_default());
            assert_eq!(numbers, shown, "{name} of {}", program.display());
        }
    }
}

#[test]
fn a_reload_takes_users_from_a_file_in_any_encoding() {
    for program in [Some(place::pgweir_program()), bouncer::pgbouncer()].into_iter().flatten() {
        let databases = format!("* = host=127.0.0.1 port={}", Cluster::shared().port);
        let pooler = Bouncer::start(program, &databases, "auth_type = plain");
        let login = |user: &str, database: &str| {
            let mut client = Raw::dial(("127.0.0.1", pooler.port));
            let password = format!("{user}-secret");
            client.login(&[("user", user), ("database", database)], &password).map(|()| client)
        };
        assert!(login("app", "app").is_ok());
        let list = pooler.directory().join("userlist.txt");
        std::fs::write(&list, b"; caf\xe9\n\"admin\" \"admin-secret\" ; \xe9\n").unwrap();
        login("admin", "pgbouncer").unwrap().query("RELOAD");
        assert!(login("app", "app").is_err(), "{}: a user who was taken away comes in", program.display());
        assert!(login("admin", "pgbouncer").is_ok(), "{}", program.display());
    }
}

#[test]
fn a_reload_that_cannot_read_its_users_keeps_them_and_takes_all_else() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    for program in [Some(place::pgweir_program()), bouncer::pgbouncer()].into_iter().flatten() {
        let pooler = Bouncer::start(program, "", "auth_type = plain\ndefault_pool_size = 1");
        let console = || {
            let mut client = Raw::dial(("127.0.0.1", pooler.port));
            client
                .login(&[("user", "admin"), ("database", "pgbouncer")], "admin-secret")
                .map(|()| client)
                .unwrap()
        };
        let (list, file) =
            (pooler.directory().join("userlist.txt"), pooler.directory().join("pgbouncer.ini"));
        let reload = |size: &str| {
            let ini = std::fs::read_to_string(&file).unwrap();
            let (before, _) = ini.rsplit_once(" = ").unwrap();
            place::write(&file, &format!("{before} = {size}\n"));
            let answer = console().query("RELOAD");
            assert!(answer.iter().all(|message| message.tag != b'E'), "{}: {answer:?}", program.display());
            let rows = console().rows("SHOW CONFIG");
            let row = rows.iter().find(|row| row[0].as_deref() == Some("default_pool_size")).unwrap();
            assert_eq!(row[1].as_deref(), Some(size), "{}", program.display());
            answer.iter().filter(|message| message.tag == b'N').map(|it| it.text()).collect::<Vec<_>>()
        };
        set_permissions(&list, Permissions::from_mode(0o000)).unwrap();
        let shut = reload("2");
        assert!(pooler.log().contains("Permission denied"), "{}", pooler.log());
        std::fs::remove_file(&list).unwrap();
        let gone = reload("3");
        assert!(pooler.log().contains("No such file or directory"), "{}", pooler.log());
        if program == place::pgweir_program() {
            // PgBouncer's console says nothing of it.
            assert_eq!(gone, ["auth_file: No such file or directory; the known users stay"]);
            assert_eq!(shut, ["auth_file: Permission denied (os error 13); the known users stay"]);
            let log = pooler.log();
            let told: Vec<_> = log.lines().filter(|line| line.contains("Permission denied")).collect();
            let end = "/userlist.txt: Permission denied (os error 13); the known users stay";
            assert!(matches!(told[..], [line] if line.contains("ERROR") && line.ends_with(end)), "{log}");
            assert!(!log.contains("nobody can log in"), "{log}");
        }
    }
}

#[test]
fn a_start_that_cannot_read_its_users_goes_on_and_logs_an_error() {
    // A directory where the list should be.
    let list = place::directory("users");
    let line = format!("auth_file = {}\nunix_socket_dir =", list.display());
    let pooler = Bouncer::start(place::pgweir_program(), "", &line);
    assert!(pooler.log().contains("ERROR") && pooler.log().contains("Is a directory"), "{}", pooler.log());
    let file = pooler.directory().join("pgbouncer.ini");
    let output = place::command(place::pgweir_program()).arg("check").arg(&file).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && printed.contains(": auth_file: "), "{printed}");
    let _ = std::fs::remove_dir(&list);
}

/// Settings among PgBouncer's own that 1.25 does not show: its successor's, and the name of a Windows service.
const AMONG: [&str; 3] = ["login_notify_message", "pool_idle_timeout", "service_name"];

/// Every setting that can stand in a file, each with a value that is not its default.
const ALL_SETTINGS: &str = "\
admin_users = admin, app
application_name_add_host = 1
auth_dbname = app
auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1
auth_user = app
autodb_idle_timeout = 11.5
cancel_wait_timeout = 12
client_idle_timeout = 13
client_login_timeout = 14.25
client_tls_ciphers = secure
client_tls_protocols = tlsv1.3
default_pool_size = 21
disable_pqexec = 0
dns_max_ttl = 16
dns_nxdomain_ttl = 17
dns_zone_check_period = 0
idle_transaction_timeout = 18
ignore_startup_parameters = geqo, options
job_name = other
listen_backlog = 64
log_connections = 0
log_disconnections = 0
log_pooler_errors = 0
log_stats = 0
max_client_conn = 101
max_db_client_connections = 102
max_db_connections = 103
max_packet_size = 100000
max_prepared_statements = 33
max_user_client_connections = 104
max_user_connections = 105
min_pool_size = 0
pkt_buf = 8192
pool_mode = Transaction
query_timeout = 107
query_wait_notify = 6
query_wait_timeout = 108.5
reserve_pool_size = 3
reserve_pool_timeout = 4.5
sbuf_loopcnt = 7
scram_iterations = 5000
server_check_delay = 31
server_check_query = select 1
server_connect_timeout = 16
server_fast_close = 1
server_idle_timeout = 601
server_lifetime = 3601
server_login_retry = 1.5
server_reset_query = DISCARD TEMP
server_reset_query_always = 1
server_round_robin = 1
server_tls_ciphers = secure
server_tls_protocols = tlsv1.2,tlsv1.3
stats_period = 61
suspend_timeout = 9
syslog_facility = local3
syslog_ident = other
tcp_defer_accept = 0
tcp_keepalive = 0
tcp_keepcnt = 5
tcp_keepidle = 6
tcp_keepintvl = 7
tcp_socket_buffer = 65536
tcp_user_timeout = 8
track_extra_parameters = IntervalStyle, search_path
transaction_timeout = 109
unix_socket_mode = 0750
verbose = 1
";

/// SHOW CONFIG, the directory of this run replaced by a word.
fn config(bouncer: &Bouncer) -> Vec<[String; 4]> {
    let (directory, port) = (bouncer.directory().display().to_string(), bouncer.port.to_string());
    let text = |value: Option<String>| match value {
        Some(value) if value == port => "PORT".to_owned(),
        Some(value) => value.replace(&directory, "DIRECTORY"),
        None => "NULL".to_owned(),
    };
    let rows = bouncer.console().rows("SHOW CONFIG").into_iter();
    rows.map(|row| <[String; 4]>::try_from(row.into_iter().map(text).collect::<Vec<_>>()).unwrap()).collect()
}

#[test]
fn show_config_is_pgbouncers() {
    let Some(pgbouncer) = bouncer::pgbouncer() else { return };
    for settings in ["", ALL_SETTINGS] {
        let theirs = config(&Bouncer::start(pgbouncer, "app = host=127.0.0.1", settings));
        let ours = config(&Bouncer::start(place::pgweir_program(), "app = host=127.0.0.1", settings));
        let shared: Vec<_> = ours.into_iter().filter(|row| !AMONG.contains(&row[0].as_str())).collect();
        for (ours, theirs) in shared.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "pgweir's row, then PgBouncer's");
        }
        // What follows is pgweir's alone.
        assert!(shared.len() > theirs.len());
    }
}

/// What can be shown on both.
const SHOWS: &[&str] = &[
    "ACTIVE_SOCKETS",
    "CLIENTS",
    "CONFIG",
    "DATABASES",
    "DNS_HOSTS",
    "DNS_ZONES",
    "FDS",
    "LISTS",
    "MEM",
    "PEERS",
    "PEER_POOLS",
    "POOLS",
    "SERVERS",
    "SOCKETS",
    "STATE",
    "STATS",
    "STATS_AVERAGES",
    "STATS_TOTALS",
    "TOTALS",
    "USERS",
    "VERSION",
];

/// Names and types of a SHOW's columns.
fn columns(bouncer: &Bouncer, what: &str) -> Vec<(String, u32)> {
    let answer = bouncer.console().query(&format!("SHOW {what}"));
    let description = answer.iter().find(|message| message.tag == b'T');
    let description = description.unwrap_or_else(|| panic!("SHOW {what}: {answer:?}"));
    description.names().into_iter().zip(description.types()).collect()
}

#[test]
fn every_show_has_the_columns_and_types_of_pgbouncer() {
    let Some(pgbouncer) = bouncer::pgbouncer() else { return };
    let theirs = Bouncer::start(pgbouncer, "app = host=127.0.0.1", "");
    let ours = Bouncer::start(place::pgweir_program(), "app = host=127.0.0.1", "");
    // FDS goes over the unix socket alone.
    for what in SHOWS.iter().filter(|what| **what != "FDS") {
        assert_eq!(columns(&ours, what), columns(&theirs, what), "SHOW {what}");
    }
    let names = |bouncer: &Bouncer, what: &str| -> Vec<_> {
        let rows = bouncer.console().rows(&format!("SHOW {what}")).into_iter();
        rows.map(|row| row[0].clone().unwrap_or_default()).collect()
    };
    for what in ["LISTS", "STATE", "TOTALS"] {
        assert_eq!(names(&ours, what), names(&theirs, what), "SHOW {what}");
    }
}

#[test]
fn entries_and_users_are_shown_as_pgbouncer_shows_them() {
    let Some(pgbouncer) = bouncer::pgbouncer() else { return };
    let cluster = Cluster::shared();
    let place = format!("host=127.0.0.1 port={}", cluster.port);
    // PgBouncer shows a user's sizes for those below it too that have none: so the one with sizes is the last.
    let databases = format!(
        "app = {place}\nother = {place} dbname=app2 pool_size=3 min_pool_size=1 reserve_pool=2 pool_mode=statement \
         max_db_connections=7 max_db_client_connections=9 server_lifetime=77 user=app2 \
         password='it''s' connect_query='SELECT 1' timezone='UTC' client_encoding=UTF8 application_name='a b'\n\
         hosts = host=127.0.0.1,127.0.0.2 port={port} load_balance_hosts=disable\nlocal = port=1\n* = {place}\n\
         [users]\napp = pool_mode=session max_user_connections=4\nzoe = pool_size=3 reserve_pool_size=1 \
         query_timeout=5 max_user_client_connections=6\n[peers]\n3 = host=127.0.0.1 port=6433 pool_size=4\n",
        port = cluster.port
    );
    let shown = |program| {
        let bouncer = Bouncer::start(program, &databases, "peer_id = 3");
        let mut shown = BTreeMap::new();
        bouncer.connect("app", "app").query("SELECT 1");
        let servers = |database: &str| {
            let rows = bouncer.console().rows("SHOW DATABASES");
            rows.iter().find(|row| row[0].as_deref() == Some(database)).unwrap()[12].clone().unwrap()
        };
        eventually("the smallest size is reached", || servers("other") == "1");
        let directory = bouncer.directory().display().to_string();
        for what in ["DATABASES", "USERS", "PEERS"] {
            let mut rows = bouncer.console().rows(&format!("SHOW {what}"));
            for value in rows.iter_mut().flatten().flatten() {
                *value = value.replace(&directory, "DIRECTORY").replace(&bouncer.port.to_string(), "PORT");
            }
            rows.sort();
            shown.insert(what, rows);
        }
        shown
    };
    let (ours, theirs) = (shown(place::pgweir_program()), shown(pgbouncer));
    for (what, rows) in &theirs {
        for (ours, theirs) in ours[what].iter().zip(rows) {
            assert_eq!(ours, theirs, "SHOW {what}: pgweir's, then PgBouncer's");
        }
        assert_eq!(ours[what].len(), rows.len(), "SHOW {what}");
    }
}

#[test]
fn settings_without_a_meaning_are_taken_and_named_by_check() {
    let directory = place::directory("idle");
    let file = directory.join("pgbouncer.ini");
    place::write(
        &file,
        "[databases]\napp =\n[pgbouncer]\npkt_buf = 8192\nsbuf_loopcnt = 3\njob_name = x\nservice_name = x\nsuspend_timeout = 5\nclient_tls_dheparams = legacy\n",
    );
    let output = place::command(place::pgweir_program()).arg("check").arg(&file).output().unwrap();
    let _ = std::fs::remove_dir_all(&directory);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}");
    for (line, name) in [
        (4, "pkt_buf"),
        (5, "sbuf_loopcnt"),
        (6, "job_name"),
        (7, "service_name"),
        (9, "client_tls_dheparams"),
    ] {
        let note = format!("pgbouncer.ini:{line}: note: {name}: has no effect: ");
        assert!(printed.contains(&note), "{name} is missing in\n{printed}");
    }
}
