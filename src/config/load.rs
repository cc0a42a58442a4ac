//! Reads a configuration from its files: the only input and output there is in `config`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::assemble::{Context, assemble};
use super::diff::{ReloadPlan, diff};
use super::settings::{GLOBAL, Reload};
use super::{Config, Diagnostic, Dialect, Level, environment, ini, toml};

/// The largest file that is read. A list of a million users has 200 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What surrounds a configuration file: other files and the environment.
pub trait Surroundings {
    /// A file's text, or why there is none.
    fn text(&self, path: &Path) -> Result<String, String>;

    /// Whether a file can be read and by whom else, or why it cannot.
    fn look(&self, path: &Path) -> Result<Look, String>;

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;

    /// The names of all its variables.
    fn variables(&self) -> Vec<String>;
}

/// What a look at a file's permissions shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Every user of the system may read it.
    pub open_to_all: bool,
}

/// No files and no variables at all: what a text says by itself.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Surroundings for Nowhere {
    fn text(&self, _: &Path) -> Result<String, String> {
        Err("there are no files here".to_owned())
    }

    fn look(&self, _: &Path) -> Result<Look, String> {
        Err("there are no files here".to_owned())
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn variables(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The file system and the environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Surroundings for System {
    fn text(&self, path: &Path) -> Result<String, String> {
        let facts = fs::metadata(path).map_err(|it| it.to_string())?;
        if facts.is_file() && facts.len() > FILE_BYTES_MAX {
            return Err(format!("too large a file: {} bytes", facts.len()));
        }
        let bytes = fs::read(path).map_err(|it| it.to_string())?;
        let mut text = String::from_utf8(bytes).map_err(|it| {
            let line =
                memchr::memchr_iter(b'\n', &it.as_bytes()[..it.utf8_error().valid_up_to()]).count() + 1;
            format!("not UTF-8 in line {line}")
        })?;
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Ok(text)
    }

    fn look(&self, path: &Path) -> Result<Look, String> {
        let file = fs::File::open(path).map_err(|it| it.to_string())?;
        let facts = file.metadata().map_err(|it| it.to_string())?;
        if facts.is_dir() {
            return Err("is a directory".to_owned());
        }
        Ok(Look { open_to_all: facts.permissions().mode() & 0o004 != 0 })
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn variables(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is worth knowing about it.
    pub notes: Vec<Diagnostic>,
    pub(super) mentioned: BTreeSet<&'static str>,
    pub(super) auth_file_read: bool,
    pub(super) access_read: bool,
}

impl Loaded {
    /// The configuration that takes the place of `old` while the program runs, and what changes by it.
    ///
    /// What only a start can change stays as it is. As in PgBouncer, a setting without a default that the ini file
    /// does not mention keeps what SET gave it, and a missing `auth_file` leaves the known users in place; so does a
    /// missing `auth_hba_file` with the rules.
    pub fn onto(self, old: &Config) -> (Config, ReloadPlan) {
        let Self { mut config, mentioned, auth_file_read, access_read, .. } = self;
        if old.dialect == Dialect::Ini {
            for row in GLOBAL.iter().filter(|row| row.default.is_none() && !mentioned.contains(row.name)) {
                (row.copy)(&mut config.settings, &old.settings);
            }
        }
        if !auth_file_read {
            for (user, secret) in &old.secrets {
                config.secrets.entry(user.clone()).or_insert_with(|| secret.clone());
            }
        }
        if !access_read && old.access.is_some() {
            config.access.clone_from(&old.access);
        }
        let plan = diff(old, &config);
        for row in GLOBAL.iter().filter(|row| row.reload == Reload::Restart) {
            (row.copy)(&mut config.settings, &old.settings);
        }
        (config, plan)
    }
}

/// The syntax of a file, by its name.
pub fn dialect_of(file: &Path) -> Dialect {
    match file.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("ini") => Dialect::Ini,
        _ => Dialect::Toml,
    }
}

/// Reads a file, and all it refers to, from the file system; or the environment, where `file` is but its name.
pub fn load(file: &Path, dialect: Dialect) -> Result<Loaded, Vec<Diagnostic>> {
    if dialect == Dialect::Environment {
        return read(file, "", dialect, &System);
    }
    match System.text(file) {
        Ok(text) => read(file, &text, dialect, &System),
        Err(what) => {
            let (level, file, name) = (Level::Error, file.to_path_buf(), String::new());
            let what = format!("cannot be read: {what}");
            Err(vec![Diagnostic { level, file, line: 0, name, what, hint: None }])
        }
    }
}

/// Reads a text that stands in `file`.
pub fn read(
    file: &Path,
    text: &str,
    dialect: Dialect,
    surroundings: &dyn Surroundings,
) -> Result<Loaded, Vec<Diagnostic>> {
    let reading = match dialect {
        Dialect::Toml => toml::read(file, text, surroundings),
        Dialect::Ini => ini::read(file, text, surroundings),
        Dialect::Environment => environment::read(surroundings),
    };
    assemble(reading, &Context { file, dialect, surroundings }).map(|mut loaded| {
        loaded.config.settings.conffile =
            loaded.config.settings.conffile.or_else(|| Some(file.to_path_buf()));
        loaded
    })
}
