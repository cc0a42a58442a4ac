//! The table itself: defaults, values to text and back, and the pages made from it.

use std::fs;
use std::time::Duration;

use proptest::prelude::*;

use super::super::kinds::{BYTES, COUNT, FLAG, Form, MILLISECONDS, SECONDS};
use super::super::settings::{DATABASE, PEER, USER};
use super::super::{Database, Fault, GLOBAL, Peer, Secret, Setting, Settings, User, example, reference};
use super::{good, toml};

#[test]
fn every_default_can_be_read_and_shown() {
    let (toml, ini) = (Settings::default(), Settings::ini());
    for row in GLOBAL {
        let shown = (row.show)(&toml).unwrap_or_default();
        let mut again = Settings::default();
        (row.read)(&mut again, row.default.unwrap_or("")).unwrap();
        assert_eq!((row.show)(&again).unwrap_or_default(), shown, "{}", row.name);
        if let Some(text) = row.default_ini {
            assert_eq!((row.show)(&ini).as_deref(), Some(text), "{}", row.name);
        } else {
            assert!((row.same)(&toml, &ini), "{}", row.name);
        }
    }
}

#[test]
fn names_are_unique_and_every_setting_is_explained() {
    fn check<T>(table: &[Setting<T>]) {
        let mut names: Vec<_> = table.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), table.len());
        for row in table {
            assert!(row.help.ends_with('.') && row.help.len() > 10, "{}", row.name);
        }
    }
    check(GLOBAL);
    check(DATABASE);
    check(USER);
    check(PEER);
}

/// What SHOW shows, SET must take back, for whatever SET takes.
fn round_trip<T: Default>(table: &'static [Setting<T>], text: &str) {
    for row in table {
        let mut value = T::default();
        if (row.read)(&mut value, text).is_err() {
            continue;
        }
        let Some(shown) = (row.show)(&value) else { continue };
        // A secret is shown as stars.
        if shown.starts_with("****") {
            continue;
        }
        let mut again = T::default();
        (row.read)(&mut again, &shown).unwrap_or_else(|it| panic!("{} = {shown}: {it:?}", row.name));
        assert!((row.same)(&value, &again), "{}: {text} shown as {shown}", row.name);
    }
}

fn values() -> impl Strategy<Value = String> {
    let unit = prop::sample::select(vec!["", "us", "ms", "s", "min", "h", "d", "kB", "MB", "GB", "B"]);
    let words = prop::sample::select(vec![
        "transaction",
        "STATEMENT",
        "md5",
        "scram-sha-256",
        "verify-full",
        "json",
        "postgres",
        "local3",
        "disable",
        "round-robin",
        "<empty>",
        "tlsv1.2, tlsv1.3",
        "0x10",
        "0777",
        "true",
        "off",
        "-1",
        "a, b ,c",
        "/run/a",
        "@abstract",
        "127.0.0.1:9930",
        "",
    ]);
    prop_oneof![
        (0u32..100_000, unit.clone()).prop_map(|(number, unit)| format!("{number}{unit}")),
        (0.0f64..5000.0, unit).prop_map(|(number, unit)| format!("{number:.4}{unit}")),
        words.prop_map(str::to_owned),
        "\\PC{0,20}",
    ]
}

proptest! {
    #[test]
    fn what_is_shown_can_be_read_back(text in values()) {
        round_trip::<Settings>(GLOBAL, &text);
        round_trip::<Database>(DATABASE, &text);
        round_trip::<User>(USER, &text);
        round_trip::<Peer>(PEER, &text);
    }
}

#[test]
fn times_have_units_and_bare_numbers_are_seconds() {
    let cases = [
        ("0", Ok(Duration::ZERO)),
        ("15", Ok(Duration::from_secs(15))),
        ("0.5", Ok(Duration::from_millis(500))),
        ("250us", Ok(Duration::from_micros(250))),
        ("100 ms", Ok(Duration::from_millis(100))),
        ("10min", Ok(Duration::from_secs(600))),
        ("2h", Ok(Duration::from_secs(7200))),
        ("1d", Ok(Duration::from_secs(86400))),
        ("10m", Err("unknown unit \"m\"")),
        ("-1", Err("must not be negative")),
        ("soon", Err("not a number: \"soon\"")),
        ("", Err("not a number: \"\"")),
        ("99999999d", Err("too long a time")),
        ("1e400", Err("unknown unit \"e400\"")),
        ("1.2.3", Err("not a number: \"1.2.3\"")),
        (".", Err("not a number: \".\"")),
        (".5", Ok(Duration::from_millis(500))),
        ("3774.4998h", Ok(Duration::from_micros(13_588_199_280_000))),
        ("0.00000049999999999999999999", Ok(Duration::ZERO)),
    ];
    check(cases, SECONDS.read);
    check([("30", Ok(Duration::from_millis(30))), ("2s", Ok(Duration::from_secs(2)))], MILLISECONDS.read);
}

#[test]
fn numbers_sizes_and_flags_have_ranges() {
    check(
        [("4kB", Ok(4096)), ("0x10", Ok(16)), ("1GB", Ok(1 << 30)), ("1XB", Err("unknown unit \"XB\""))],
        BYTES.read,
    );
    check(
        [
            ("20", Ok(20)),
            ("020", Ok(16)),
            ("0x1f", Ok(31)),
            ("-3", Err("out of range: -3")),
            ("2147483648", Err("out of range: 2147483648")),
            ("99999999999999999999", Err("not a whole number: \"99999999999999999999\"")),
            ("2.5", Err("not a whole number: \"2.5\"")),
            ("0x", Err("not a whole number: \"0x\"")),
            ("+-1", Err("not a whole number: \"+-1\"")),
            ("é", Err("not a whole number: \"é\"")),
        ],
        COUNT.read,
    );
    check(
        [("1", Ok(true)), ("0", Ok(false)), ("ON", Ok(true)), ("no", Ok(false)), ("2", Ok(true))],
        FLAG.read,
    );
    check([("maybe", Err("neither 0 nor 1: \"maybe\""))], FLAG.read);
}

#[track_caller]
fn check<T: PartialEq + std::fmt::Debug, const N: usize>(
    cases: [(&str, Result<T, &str>); N],
    read: fn(&str) -> Result<T, Fault>,
) {
    for (text, expected) in cases {
        assert_eq!(read(text).map_err(|it| it.what), expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let config = good(toml(
        "[pgweir]\nauth_ldap_options = \"ldapbindpasswd=hidden\"\n[users.a]\npassword = \"hidden\"\n",
    ));
    let shown = |row: &Setting<Settings>| (row.show)(&config.settings).unwrap_or_default();
    assert!(GLOBAL.iter().all(|row| !shown(row).contains("hidden")));
    assert!(!format!("{config:?}").contains("hidden"));
    assert_eq!(config.secrets.values().next().map(Secret::reveal), Some("hidden"));
}

#[test]
fn show_config_follows_pgbouncers_order() {
    let names: Vec<_> = GLOBAL.iter().map(|row| row.name).collect();
    let ours = names.iter().position(|name| *name == "compatibility").unwrap();
    let mut pgbouncers = names[..ours].to_vec();
    // The one place where PgBouncer's own order is not the alphabet's.
    pgbouncers.retain(|name| *name != "pool_idle_timeout");
    assert!(pgbouncers.is_sorted(), "{pgbouncers:?}");
}

#[test]
fn set_changes_one_setting_and_keeps_what_needs_a_restart() {
    let config = good(toml(""));
    assert_eq!(config.set("default_pool_size", "7").unwrap().settings.default_pool_size, 7);
    assert_eq!(config.set("listen_port", "1").unwrap().settings.listen_port, 6432);
    assert_eq!(config.set("default_pool_size", "x").unwrap_err().what, "not a whole number: \"x\"");
    let unknown = config.set("default_pol_size", "7").unwrap_err();
    assert_eq!(unknown.hint.as_deref(), Some("did you mean \"default_pool_size\"?"));
    assert!(config.set("auth_dbname", "pgbouncer").is_err());
}

#[test]
fn the_committed_pages_are_what_the_table_says() {
    let root = env!("CARGO_MANIFEST_DIR");
    for (file, page, command) in [
        ("docs/settings.md", reference(), "pgweir settings"),
        ("config/pgweir.toml", example(), "pgweir example"),
    ] {
        let committed = fs::read_to_string(format!("{root}/{file}")).unwrap();
        assert!(
            committed == page,
            "{file} is out of date: cargo run -- {command} > {file}",
            command = &command[7..]
        );
    }
}

#[test]
fn the_example_is_a_good_file_with_and_without_its_comments() {
    assert_eq!(good(toml(&example())).settings.server_idle_timeout, Duration::from_secs(600));
    let active: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = good(toml(&active));
    let defaults = Settings { conffile: loaded.settings.conffile.clone(), ..Settings::default() };
    assert_eq!(loaded.settings, defaults);
    assert!(loaded.any_database.is_some() && loaded.databases.len() == 1 && loaded.peers.len() == 1);
    assert!(GLOBAL.iter().any(|row| row.facts.form == Form::Seconds));
}
