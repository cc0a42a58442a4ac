//! Tests of the configuration, over a file system and an environment of their own.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, Diagnostic, Dialect, Loaded, Look, Surroundings, Unread, read};

mod access;
mod environment;
mod ini;
mod reload;
mod table;
mod toml;

/// Files and variables of a test. A file whose name contains `open` may be read by everybody, one with `shut` by nobody.
#[derive(Default)]
struct Fake {
    files: BTreeMap<&'static str, Vec<u8>>,
    variables: BTreeMap<&'static str, &'static str>,
}

impl Fake {
    fn file(mut self, name: &'static str, text: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name, text.into());
        self
    }

    fn variable(mut self, name: &'static str, text: &'static str) -> Self {
        self.variables.insert(name, text);
        self
    }
}

impl Surroundings for Fake {
    fn bytes(&self, path: &Path) -> Result<Vec<u8>, Unread> {
        let name = path.to_str().unwrap();
        match self.files.get(name) {
            Some(_) if name.contains("shut") => Err(Unread::Because("Permission denied".to_owned())),
            found => found.cloned().ok_or(Unread::Missing),
        }
    }

    fn look(&self, path: &Path) -> Result<Look, Unread> {
        self.bytes(path).map(|_| Look { open_to_all: path.to_str().unwrap().contains("open") })
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|it| (*it).to_owned())
    }

    fn variables(&self) -> Vec<String> {
        self.variables.keys().map(|it| (*it).to_owned()).collect()
    }
}

fn toml_in(surroundings: &Fake, text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    read(Path::new("/etc/pgweir.toml"), text, Dialect::Toml, surroundings)
}

fn toml(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    toml_in(&Fake::default(), text)
}

fn ini_in(surroundings: &Fake, text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    read(Path::new("/etc/pgbouncer.ini"), text, Dialect::Ini, surroundings)
}

fn ini(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    ini_in(&Fake::default(), text)
}

#[track_caller]
fn good(loaded: Result<Loaded, Vec<Diagnostic>>) -> Config {
    match loaded {
        Ok(loaded) => loaded.config,
        Err(mistakes) => panic!("{}", lines(&mistakes)),
    }
}

#[track_caller]
fn mistakes(loaded: Result<Loaded, Vec<Diagnostic>>) -> String {
    lines(&loaded.expect_err("a mistake was expected"))
}

fn lines(findings: &[Diagnostic]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
