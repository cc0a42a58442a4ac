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
fn without_its_file_hba_lets_nobody_in_and_a_reload_keeps_the_rules() {
    let known = good(ini_in(&files("local all all trust", ""), INI));
    let missing = || ini_in(&Fake::default(), INI).unwrap();
    assert_eq!(missing().config.access, Some(Arc::default()));
    let (config, _) = missing().onto(&known);
    assert_eq!(method(&config, "ann"), Some(Method::Trust));
    let (config, _) = ini_in(&files("local all bob trust", ""), INI).unwrap().onto(&known);
    assert_eq!(method(&config, "ann"), None);
}
