//! The readers of pgbouncer.ini and userlist.txt.

use proptest::prelude::*;

use crate::ids::UserName;

use super::super::{Compatibility, Dialect, Host, Level, LogFormat, Secret, userlist};
use super::{Fake, good, ini, ini_in, lines, mistakes, toml, toml_in};

fn password(value: &str) -> Result<String, String> {
    let text = format!("[pgbouncer]\n[databases]\nd = user=u {value}");
    match ini(&text) {
        Ok(loaded) => Ok(loaded.config.databases["d"].password.as_ref().unwrap().reveal().to_owned()),
        Err(mistakes) => Err(lines(&mistakes)),
    }
}

#[test]
fn entries_quote_as_pgbouncer_does() {
    for (value, expected) in [
        ("password=plain", "plain"),
        ("password = spaced", "spaced"),
        ("password='two words'", "two words"),
        ("password='it''s' port=1", "it's"),
        ("password=a=b=c", "a=b=c"),
        ("password=it's", "it's"),
        ("\tpassword=tab\tport=5", "tab"),
        ("password=a;b#c", "a;b#c"),
        ("password=${HOME}", "${HOME}"),
        ("password='''' ", "'"),
    ] {
        assert_eq!(password(value).as_deref(), Ok(expected), "{value}");
    }
    for (value, expected) in [
        ("password=", "password has no value"),
        ("password=''", "password has no value"),
        ("password='open", "the quote of password is not closed"),
        ("password='a'b=c", "text follows the quoted value of password"),
        ("password", "not a list of key=value"),
        ("=x", "not a list of key=value"),
        ("pasword=x", "did you mean \"password\"?"),
    ] {
        let told = password(value).unwrap_err();
        assert!(told.contains(expected) && told.contains("/etc/pgbouncer.ini:3:"), "{value}: {told}");
    }
}

#[test]
fn lines_are_read_as_pgbouncer_does() {
    let config = good(ini(
        "; comment\n  # comment\n[users]\n'odd name' = pool_size=3\nempty =\n  spaced = max_user_connections = 1\n\
         [pgbouncer] listen_port = 1\r\n\tlisten_port=2\nlisten_addr = *\nunix_socket_mode = 0700\n\n[databases]\n\
         pTxn.Pool-1 =\n[pgbouncer]\nlog_stats = 0\n[databases]\nlater = host=/run",
    ));
    assert_eq!(config.settings.listen_port, 2);
    assert_eq!(config.settings.listen_addr, ["*"]);
    assert_eq!(config.settings.unix_socket_mode, 0o700);
    assert!(!config.settings.log_stats);
    assert_eq!(config.users["odd name"].pool_size, Some(3));
    assert_eq!(config.users["spaced"].max_user_connections, Some(1));
    assert!(config.users.contains_key("empty"));
    assert!(config.databases["pTxn.Pool-1"].hosts.is_empty());
    assert_eq!(config.databases["later"].hosts, [Host::Unix("/run".into())]);
}

#[test]
fn an_ini_file_has_pgbouncers_defaults() {
    let config = good(ini("[pgbouncer]"));
    assert_eq!(config.dialect, Dialect::Ini);
    assert_eq!(config.settings.compatibility, Compatibility::PgBouncer);
    assert_eq!(config.settings.log_format, LogFormat::PgBouncer);
    assert_eq!(config.settings.server_connecting_max, 1);
}

#[test]
fn zero_and_minus_one_inherit_in_an_ini_file() {
    let config = good(ini(
        "[pgbouncer]\nmax_db_connections = 7\n[databases]\nd = max_db_connections=0 server_lifetime=0 pool_size=-1 \
         min_pool_size=0\n[users]\nu = query_timeout=0",
    ));
    let database = &config.databases["d"];
    assert_eq!((database.max_db_connections, database.server_lifetime), (None, None));
    assert_eq!((database.pool_size, database.min_pool_size), (None, Some(0)));
    assert_eq!(config.users["u"].query_timeout, None);
    let surroundings = Fake::default();
    let config = good(toml_in(&surroundings, "[databases.d]\nmax_db_connections = 0\nserver_lifetime = 0"));
    assert_eq!(config.databases["d"].max_db_connections, Some(0));
}

#[test]
fn a_later_value_replaces_an_earlier_one_with_a_note() {
    let loaded =
        ini("[pgbouncer]\nlisten_port = 1\nlisten_port = 2\n[databases]\nd = port=1 host=a\nd = port=2\n")
            .unwrap();
    assert_eq!(loaded.config.settings.listen_port, 2);
    assert_eq!(loaded.config.databases["d"].port, Some(2));
    assert!(loaded.config.databases["d"].hosts.is_empty());
    let notes = lines(&loaded.notes);
    assert!(
        notes.contains(":3: note: listen_port: replaces the value of line 2 of /etc/pgbouncer.ini"),
        "{notes}"
    );
    assert!(notes.contains(":6: note: databases.d: replaces the entry of line 5"), "{notes}");
}

#[test]
fn all_mistakes_of_an_ini_file_are_told() {
    let told = mistakes(ini(
        "listen_port = 1\n[databasses]\nx = y\n[pgbouncer\n[pgbouncer]\nnonsense\nserver_tls_sslmode = maybe\n\
         sbuf_loopcnt = 3\n[peers]\n0 = host=x\n1 = port=2\n[databases]\npgbouncer = port=1",
    ));
    for expected in [
        ":1: listen_port: a setting before the first section",
        ":2: [databasses]: unknown section\n  hint: did you mean [databases]?",
        ":4: \"[\" without \"]\"",
        ":6: not understood\n  hint: write name = value",
        ":7: server_tls_sslmode: unknown value \"maybe\"",
        ":8: note: sbuf_loopcnt: has no effect",
        ":10: peers.0: not the number of a peer",
        "peers.1.host: a peer needs a host",
        ":13: databases.pgbouncer: the name is reserved for the console",
    ] {
        assert!(told.contains(expected), "{expected}\n in\n{told}");
    }
    assert!(mistakes(ini("[databases]\n")).contains("the section [pgbouncer] is missing"));
}

#[test]
fn includes_are_read_in_place() {
    let surroundings = Fake::default()
        .file("more.ini", "listen_port = 7\n[databases]\n a = host=h1\n%include  deeper.ini \n")
        .file("deeper.ini", "b = host=h2");
    let loaded = ini_in(&surroundings, "[pgbouncer]\n%include more.ini\nc = host=h3\n").unwrap();
    assert_eq!(loaded.config.settings.listen_port, 7);
    assert_eq!(loaded.config.databases.keys().map(|it| it.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let told = mistakes(ini_in(&surroundings, "[pgbouncer]\n%include gone.ini"));
    assert!(told.contains(":2: %include: gone.ini: No such file or directory"), "{told}");
}

#[test]
fn files_that_include_each_other_come_to_an_end() {
    let surroundings = Fake::default().file("loop.ini", "%include loop.ini\n".repeat(3));
    let told = mistakes(ini_in(&surroundings, "[pgbouncer]\n%include loop.ini"));
    assert!(told.contains("files include each other more than 10 deep"), "{told}");
    assert!(told.contains("more than 1000 files are included"), "{told}");
}

#[test]
fn where_pgbouncer_goes_on_an_ini_file_gets_a_note() {
    let loaded = ini("[pgbouncer]\nauth_file = gone.txt\nmin_pool_size = 50\nauth_type = hba").unwrap();
    let notes = lines(&loaded.notes);
    assert!(notes.contains(":2: note: auth_file: gone.txt: No such file"), "{notes}");
    assert!(notes.contains(":3: note: min_pool_size"), "{notes}");
    assert!(notes.contains(":4: note: auth_type"), "{notes}");
}

#[test]
fn a_user_list_is_read_as_pgbouncer_does() {
    let read = |text: &str| -> Vec<(String, String)> {
        let users = userlist::read(text).unwrap().secrets;
        users.iter().map(|(name, it)| (name.as_str().to_owned(), it.reveal().to_owned())).collect()
    };
    assert_eq!(
        read("; comment\n\n  \"anna\" \"md5aa\" whatever\r\n\"a\"\"b\"\t\"x\"\"y\"\n\"empty\" \"\""),
        [("a\"b", "x\"y"), ("anna", "md5aa"), ("empty", "")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    let long = format!("\"u\" \"{}\"", "a".repeat(65530));
    assert_eq!(read(&long)[0].1.len(), 65530);
    let faults = userlist::read("\"good\" \"x\"\nanna secret\n\"open\" \"x\n\"\" \"x\"\n").unwrap_err();
    assert_eq!(faults.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn a_broken_user_list_is_told_in_its_own_lines_without_its_secrets() {
    let surroundings = Fake::default().file("users.txt", "\"a\" \"b\"\n\"anna\" hidden\n");
    let told = mistakes(ini_in(&surroundings, "[pgbouncer]\nauth_file = users.txt"));
    assert!(told.contains("users.txt:2: auth_file: broken line"), "{told}");
    assert!(!told.contains("hidden"), "{told}");
}

#[test]
fn an_entrys_size_below_zero_is_the_global_one() {
    let config = good(ini(
        "[pgbouncer]\n[databases]\na = pool_size=-1 min_pool_size=-1 reserve_pool=-5\nb = pool_size=0\n\
         [users]\nu = pool_size=-1 max_user_connections=-1\n",
    ));
    let [a, b] = ["a", "b"].map(|name| config.databases[name].clone());
    assert_eq!((a.pool_size, a.min_pool_size, a.reserve_pool_size), (None, None, None));
    assert_eq!(b.pool_size, Some(0));
    let user = &config.users[&UserName::from("u")];
    assert_eq!((user.pool_size, user.max_user_connections), (None, None));
}

#[test]
fn an_entrys_number_is_decimal_and_a_global_one_may_be_octal() {
    let config = good(ini(
        "[pgbouncer]\ndefault_pool_size = 010\n[databases]\na = pool_size=010 port=05433 min_pool_size=00\n\
         [users]\nu = pool_size=010\n[peers]\n1 = host=h pool_size=010",
    ));
    let database = &config.databases["a"];
    assert_eq!((database.pool_size, database.port), (Some(10), Some(5433)));
    assert_eq!((database.min_pool_size, config.settings.default_pool_size), (Some(0), 8));
    assert_eq!(config.users[&UserName::from("u")].pool_size, Some(10));
    assert_eq!(config.peers[&1].pool_size, Some(10));
}

#[test]
fn advice_is_written_as_the_file_is() {
    let told = mistakes(ini(
        "[pgbouncer]\nunix_socket_mode = 0o9\npool_mode = transaction ; a comment\nlisten_backlog = 5 # or 6\n\
         auth_type = cert\n[databases]\na = host=x ; here",
    ));
    for line in [
        ":2: unix_socket_mode: not a whole number: \"0o9\"\n  hint: write it in octal: 0770",
        ":3: pool_mode: unknown value \"transaction ; a comment\"\n  hint: in an ini file a comment needs a line of its own",
        ":4: listen_backlog: not a whole number: \"5 # or 6\"\n  hint: in an ini file a comment needs a line of its own",
        ":5: auth_type: cert needs clients' certificates\n  hint: set client_tls_sslmode = verify-full",
        ":7: a: not a list of key=value\n  hint: in an ini file a comment needs a line of its own",
    ] {
        assert!(told.contains(line), "{line} is missing in\n{told}");
    }
    let told = mistakes(ini("[pgbouncer]\nunix_socket_dir ="));
    assert!(told.ends_with("hint: as in listen_addr = 127.0.0.1"), "{told}");
    let told = mistakes(toml("[pgweir]\nunix_socket_dir = \"\""));
    assert!(told.ends_with("hint: as in listen_addr = \"127.0.0.1\""), "{told}");
}

#[test]
fn of_a_user_with_two_lines_the_later_counts() {
    let surroundings = Fake::default().file("users.txt", "\"a\" \"1\"\n\"a\" \"2\"\n");
    let config = good(ini_in(&surroundings, "[pgbouncer]\nauth_file = users.txt"));
    assert_eq!(config.secrets.get(&UserName::from("a")).map(Secret::reveal), Some("2"));
}

#[test]
fn bytes_that_are_not_utf_8_matter_only_where_they_are_used() {
    let list: &[u8] =
        b"; caf\xe9\n\"a\" \"1\" ; \xe9\n\"b\" \"old\"\n\"b\" \"p\xe9\"\n\"caf\xe9\" \"x\"\n\"c\" \"3\"\n";
    let surroundings = Fake::default().file("users.txt", list).file("/etc/users.txt", list);
    let loaded = ini_in(&surroundings, "[pgbouncer]\nauth_file = users.txt").unwrap();
    let known: Vec<_> = loaded.config.secrets.keys().map(UserName::as_str).collect();
    assert_eq!(known, ["a", "c"], "an earlier secret of b must not count again");
    let notes = lines(&loaded.notes);
    assert!(notes.contains("users.txt:4: note: auth_file: the secret of b is not UTF-8"), "{notes}");
    assert!(notes.contains("users.txt:5: note: auth_file: the user's name is not UTF-8"), "{notes}");
    let told = mistakes(toml_in(&surroundings, "[pgweir]\nauth_file = \"users.txt\""));
    assert!(told.contains("users.txt:4: auth_file: the secret of b is not UTF-8"), "{told}");
    // An included file, and what stands in the configuration itself.
    let more: &[u8] = b"# caf\xe9\ndefault_pool_size = 3\n";
    let config = good(ini_in(&Fake::default().file("more", more), "[pgbouncer]\n%include more"));
    assert_eq!(config.settings.default_pool_size, 3);
    let used: &[u8] = b"\n[databases]\na = host=caf\xe9\ncaf\xe9 = port=1\n'caf\xe9' = port=1\n";
    let told = mistakes(ini_in(&Fake::default().file("more", used), "[pgbouncer]\n%include more"));
    assert!(told.contains("more:3: a: the value is not UTF-8"), "{told}");
    assert!(told.contains("more:4:") && told.contains("more:5: the name is not UTF-8"), "{told}");
}

#[test]
fn a_file_that_is_there_and_cannot_be_read_is_more_than_a_note() {
    let surroundings = Fake::default().file("shut.txt", "\"a\" \"1\"");
    let hba = "auth_type = hba\nauth_hba_file = shut.txt\nauth_ident_file = shut.txt";
    let loaded =
        ini_in(&surroundings, &format!("[pgbouncer]\nauth_file = shut.txt\n{hba}")).expect("a start goes on");
    let unread: Vec<_> = loaded.notes.iter().filter(|it| it.level == Level::Unread).collect();
    let told: Vec<_> = unread.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "/etc/pgbouncer.ini:2: auth_file: shut.txt: Permission denied",
            "/etc/pgbouncer.ini:4: auth_hba_file: shut.txt: Permission denied",
            "/etc/pgbouncer.ini:5: auth_ident_file: shut.txt: Permission denied",
        ]
    );
    let surroundings = Fake::default().file("/etc/shut.txt", "");
    let told = mistakes(toml_in(&surroundings, "[pgweir]\nauth_file = \"shut.txt\""));
    assert!(told.contains(":2: auth_file: /etc/shut.txt: Permission denied"), "{told}");
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "([\\[\\]a-z_*= '\"#;%{}$.,0-9\\n\\t]|\\PC|pgbouncer|pgweir|databases|%include |users){0,80}") {
        let surroundings = Fake::default().file("a", text.clone());
        let _ = ini_in(&surroundings, &text);
        let _ = ini_in(&surroundings, &format!("[pgbouncer]\nauth_file = a\n[databases]\n{text}"));
        let _ = toml_in(&surroundings, &text);
        let _ = toml_in(&surroundings, &format!("[pgweir]\n{text}"));
        let _ = userlist::read(&text);
    }
}
