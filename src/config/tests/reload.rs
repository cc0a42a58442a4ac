//! What a reload changes, and what it leaves alone.

use crate::ids::{DatabaseName, UserName};

use super::super::{Change, ReloadPlan, diff};
use super::{Fake, good, ini, ini_in, toml};

#[test]
fn changes_are_sorted_by_when_they_take_effect() {
    let old = good(toml("[pgweir]\nmin_pool_size = 1"));
    let new =
        good(toml("[pgweir]\nlisten_port = 7\npool_mode = \"statement\"\nserver_tls_sslmode = \"disable\""));
    let plan = diff(&old, &new);
    assert_eq!(plan.new_connections, ["pool_mode", "server_tls_sslmode"]);
    assert_eq!(plan.needs_restart, ["listen_port"]);
    assert!(plan.server_tls());
    assert_eq!(diff(&new, &new), ReloadPlan::default());
}

#[test]
fn databases_change_at_once_or_by_new_servers() {
    let old = good(toml(
        "[databases]\nsame = { port = 1 }\ngone = {}\nhost = { host = \"a\" }\nsize = { pool_size = 1 }\n\
         schema = { schema = \"a\" }\npassword = { user = \"u\", password = \"a\" }\nport = { port = 5432 }",
    ));
    let new = good(toml(
        "[databases]\nsame = { port = 1 }\nnew = {}\nhost = { host = \"b\" }\nsize = { pool_size = 2 }\n\
         schema = { schema = \"b\" }\npassword = { user = \"u\", password = \"b\" }\nport = {}\n\"*\" = {}",
    ));
    let plan = diff(&old, &new);
    let changes: Vec<_> = plan.databases.iter().map(|(name, change)| (name.as_str(), *change)).collect();
    assert_eq!(
        changes,
        [
            ("gone", Change::Removed),
            ("host", Change::Recycle),
            ("new", Change::Added),
            ("password", Change::Live),
            ("port", Change::Live),
            ("schema", Change::Recycle),
            ("size", Change::Live),
        ]
    );
    assert_eq!(plan.any_database, Some(Change::Added));
}

#[test]
fn an_entry_of_its_own_that_leads_elsewhere_than_the_wildcard_gets_new_servers() {
    let old = good(toml("[databases]\n\"*\" = { host = \"a\" }"));
    let new = good(toml(
        "[databases]\n\"*\" = { host = \"a\" }\nmoved = { host = \"b\" }\nother = { host = \"a\", dbname = \"x\" }\n\
         same = { host = \"a\", dbname = \"same\", pool_size = 3 }",
    ));
    let plan = diff(&old, &new);
    let changes: Vec<_> = plan.databases.iter().map(|(name, change)| (name.as_str(), *change)).collect();
    assert_eq!(changes, [("moved", Change::Recycle), ("other", Change::Recycle), ("same", Change::Added)]);
}

#[test]
fn secrets_that_differ_are_named() {
    let old = good(toml("[users.a]\npool_size = 1\n[users.b]\npassword = \"1\""));
    let new = good(toml("[users.a]\npool_size = 2\n[users.b]\npassword = \"2\"\n[users.c]\n"));
    let plan = diff(&old, &new);
    assert_eq!(plan.secrets, [UserName::from("b")]);
}

#[test]
fn a_reload_keeps_what_only_a_start_can_change() {
    let old = good(toml("[pgweir]\nlisten_port = 6000\ndefault_pool_size = 5"));
    let (config, plan) = toml("[pgweir]\nlisten_port = 7000\ndefault_pool_size = 6").unwrap().onto(&old);
    assert_eq!((config.settings.listen_port, config.settings.default_pool_size), (6000, 6));
    assert_eq!(plan.needs_restart, ["listen_port"]);
}

#[test]
fn what_set_gave_survives_a_reload_only_where_pgbouncer_has_no_default() {
    let old =
        good(ini("[pgbouncer]")).set("auth_dbname", "authdb").unwrap().set("default_pool_size", "3").unwrap();
    let (config, _) = ini("[pgbouncer]").unwrap().keeping(&old, &Fake::default()).unwrap().onto(&old);
    assert_eq!(config.settings.auth_dbname, Some(DatabaseName::from("authdb")));
    assert_eq!(config.settings.default_pool_size, 20);
    let text = "[pgbouncer]\nauth_dbname = other";
    let (config, _) = ini(text).unwrap().keeping(&old, &Fake::default()).unwrap().onto(&old);
    assert_eq!(config.settings.auth_dbname, Some(DatabaseName::from("other")));
}

#[test]
fn users_and_rules_come_from_the_files_that_set_named() {
    let files = Fake::default().file("users", "\"a\" \"1\"").file("maps", "m a a");
    let files = files.file("rules", "local all all peer map=m");
    let text = "[pgbouncer]\nauth_type = hba\nauth_hba_file = rules";
    let old = good(ini_in(&files, text));
    let set = |config: crate::config::Config, name, file| {
        super::super::with_access(config.set(name, file).unwrap(), name, &files).unwrap()
    };
    let old = set(set(old, "auth_file", "users"), "auth_ident_file", "maps");
    assert_eq!(old.secrets.len(), 1, "they count at once");
    let (config, plan) = ini_in(&files, text).unwrap().keeping(&old, &files).unwrap().onto(&old);
    assert_eq!((&config.secrets, &config.access), (&old.secrets, &old.access));
    assert_eq!(plan, ReloadPlan::default());
    // As with files that the ini file names itself: who cannot be read stays, what is wrong is refused.
    let (gone, shut) = (Fake::default(), Fake::default().file("users", "\"a\" \"1\"").file("shut", ""));
    for files in [gone, shut] {
        let again = ini_in(&files, text).unwrap().keeping(&old, &files).unwrap();
        assert!(
            again.notes.iter().any(|note| note.name == "auth_ident_file" || note.name == "auth_hba_file")
        );
        let (config, _) = again.onto(&old);
        assert_eq!((&config.secrets, &config.access), (&old.secrets, &old.access));
    }
    let broken = Fake::default().file("users", "\"a\" \"1").file("rules", "").file("maps", "");
    assert!(ini_in(&broken, text).unwrap().keeping(&old, &broken).is_err());
}

#[test]
fn a_missing_user_list_leaves_the_known_users_in_place() {
    let text = "[pgbouncer]\nauth_file = users.txt";
    let old = good(ini_in(&Fake::default().file("users.txt", "\"a\" \"1\""), text));
    let (config, plan) = ini(text).unwrap().onto(&old);
    assert_eq!(config.secrets, old.secrets);
    assert_eq!(plan, ReloadPlan::default());
    let (config, _) = ini_in(&Fake::default().file("users.txt", ""), text).unwrap().onto(&old);
    assert!(config.secrets.is_empty());
}

#[test]
fn what_cannot_be_read_stays_as_it_was_and_holds_up_nothing_else() {
    let text = |size| {
        format!(
            "[pgbouncer]\ndefault_pool_size = {size}\nauth_file = shut_users\nauth_type = hba\n\
             auth_hba_file = {{hba}}\nauth_ident_file = {{ident}}"
        )
    };
    let readable = Fake::default().file("users", "\"a\" \"1\"").file("rules", "local all all peer map=m");
    let readable = readable.file("maps", "m a a").file("shut_users", "").file("shut", "");
    let named = |text: String, hba: &str, ident: &str| text.replace("{hba}", hba).replace("{ident}", ident);
    let first = named(text(1), "rules", "maps").replace("shut_users", "users");
    let old = good(ini_in(&readable, &first));
    for (hba, ident) in [("shut", "maps"), ("rules", "shut"), ("gone", "maps")] {
        let (config, _) = ini_in(&readable, &named(text(2), hba, ident)).unwrap().onto(&old);
        assert_eq!(config.settings.default_pool_size, 2);
        assert_eq!(config.secrets, old.secrets);
        assert_eq!(config.access, old.access, "{hba}, {ident}");
    }
    // Without the maps, only the rules that need them are left out.
    let (config, _) = ini_in(&readable, &named(text(2), "rules", "gone")).unwrap().onto(&old);
    assert_ne!(config.access, old.access);
}
