//! The files of `auth_type = hba`, read with the configuration.

use std::sync::Arc;

use super::super::hba::{Login, Method, Origin, Target};
use super::super::{Config, Diagnostic};
use super::{Fake, good, ini_in, lines, mistakes, toml_in};

const INI: &str = "[pgbouncer]\nauth_type = hba\nauth_hba_file = hba.conf\nauth_ident_file = ident.conf";
const TOML: &str =
    "[pgweir]\nauth_type = \"hba\"\nauth_hba_file = \"hba.conf\"\nauth_ident_file = \"ident.conf\"";

fn method(config: &Config, user: &str) -> Option<Method> {
    let login = Login { origin: Origin::Local, target: Target::Database("db"), user };
    config.access.as_ref()?.find(&login).map(|rule| rule.method.clone())
}

/// Both files, where an ini file looks for them and where a TOML file does.
fn files(hba: &str, ident: &str) -> Fake {
    let here = Fake::default().file("hba.conf", hba).file("ident.conf", ident);
    here.file("/etc/hba.conf", hba).file("/etc/ident.conf", ident)
}

#[test]
fn the_files_are_found_where_each_syntax_looks_for_them() {
    let files = files("local all ann peer map=m", "m system ann");
    for loaded in [ini_in(&files, INI), toml_in(&files, TOML)] {
        let loaded = loaded.unwrap();
        assert!(!lines(&loaded.notes).contains("could not parse"));
        assert!(matches!(method(&loaded.config, "ann"), Some(Method::Peer(Some(map))) if map.name == "m"));
    }
}

#[test]
fn they_are_read_only_where_they_are_used() {
    let config = good(ini_in(&files("nonsense", ""), &INI.replace("= hba\n", "= trust\n")));
    assert_eq!(config.access, None);
}

#[test]
fn a_bad_line_is_a_note_in_an_ini_file_and_a_mistake_in_a_toml_file() {
    let files = files("nonsense\nlocal all all trust\nlocal all all ldap x", "m /^x$ ann");
    let loaded = ini_in(&files, INI).unwrap();
    let of_files = loaded.notes.iter().filter(|note| note.line > 0);
    let notes: Vec<_> = of_files.map(Diagnostic::to_string).collect();
    assert_eq!(
        notes,
        [
            "hba.conf:1: note: auth_hba_file: could not parse hba config line 1: unknown type",
            "hba.conf:3: note: auth_hba_file: nobody can log in by it: \"ldapbasedn\", \"ldapprefix\" or \"ldapsuffix\" must be set",
            "ident.conf:1: note: auth_ident_file: could not parse ident config line 1: patterns are not supported: name each system user",
        ]
    );
    assert_eq!(method(&loaded.config, "ann"), Some(Method::Trust));
    let mistakes = mistakes(toml_in(&files, TOML));
    assert!(mistakes.contains("could not parse hba config line 1"), "{mistakes}");
    assert!(mistakes.contains("could not parse ident config line 1"), "{mistakes}");
}

#[test]
fn without_the_file_of_maps_only_the_rules_with_a_map_are_left_out() {
    let hba = "local all ann peer map=m\nlocal all all trust";
    let loaded = ini_in(&Fake::default().file("hba.conf", hba), INI).unwrap();
    assert_eq!(method(&loaded.config, "bob"), Some(Method::Trust));
    let notes = lines(&loaded.notes);
    assert!(notes.contains("hba.conf:1: note: auth_hba_file: could not parse hba config line 1"), "{notes}");
    assert!(notes.contains(":4: note: auth_ident_file: ident.conf: No such file"), "{notes}");
    let told = mistakes(toml_in(&Fake::default().file("/etc/hba.conf", hba), TOML));
    assert!(told.contains(":4: auth_ident_file: /etc/ident.conf: No such file"), "{told}");
    // A reload takes the rules that are there now.
    let known = good(ini_in(&files(hba, ""), INI));
    let (config, _) =
        ini_in(&Fake::default().file("hba.conf", "local all bob reject"), INI).unwrap().onto(&known);
    assert_eq!((method(&config, "bob"), method(&config, "ann")), (Some(Method::Reject), None));
}

#[test]
fn a_byte_that_is_not_utf_8_costs_no_rule() {
    let hba: &[u8] = b"# caf\xe9\nlocal all caf\xe9,ann reject # \xe9\nlocal all bob peer map=m\xe9\nlocal all carl peer map=m\nlocal all all trust\n";
    let ident: &[u8] = b"# \xe9\nm caf\xe9 ann\nm system carl\n";
    let files = Fake::default().file("hba.conf", hba).file("ident.conf", ident);
    let loaded = ini_in(&files.file("/etc/hba.conf", hba).file("/etc/ident.conf", ident), INI).unwrap();
    assert_eq!(method(&loaded.config, "ann"), Some(Method::Reject));
    let Some(Method::Peer(Some(map))) = method(&loaded.config, "bob") else { panic!("not by the last rule") };
    assert_eq!(map.users_for(&["system".to_owned()], "bob"), Vec::<String>::new());
    assert!(matches!(method(&loaded.config, "carl"), Some(Method::Peer(Some(_)))));
    assert_eq!(method(&loaded.config, "dora"), Some(Method::Trust));
    let of_files = loaded.notes.iter().filter(|note| note.line > 0 && note.file.ends_with("hba.conf"));
    let notes: Vec<_> = of_files.map(Diagnostic::to_string).collect();
    assert_eq!(
        notes,
        [
            "hba.conf:2: note: auth_hba_file: 1 of its names not UTF-8: the rule counts without",
            "hba.conf:3: note: auth_hba_file: 1 of its names not UTF-8: the rule counts without",
        ]
    );
    assert!(lines(&loaded.notes).contains("ident.conf:2: note: auth_ident_file"));
}

#[test]
fn without_its_file_hba_lets_nobody_in_and_a_reload_keeps_the_rules() {
    let known = good(ini_in(&files("local all all trust", ""), INI));
    let missing = || ini_in(&Fake::default(), INI).unwrap();
    assert_eq!(missing().config.access, Some(Arc::default()));
    let (config, _) = missing().onto(&known);
    assert_eq!(method(&config, "ann"), Some(Method::Trust));
    let (config, _) = ini_in(&files("local all bob trust", ""), INI).unwrap().onto(&known);
    assert_eq!(method(&config, "ann"), None);
}
