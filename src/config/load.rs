//! Reads a configuration from its files: the only input and output there is in `config`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::access::{self, Sources};
use super::assemble::{Context, assemble};
use super::diff::{ReloadPlan, diff};
use super::settings::{GLOBAL, Reload};
use super::statement::{Findings, Place};
use super::value::Fault;
use super::{Config, Diagnostic, Dialect, Level, environment, ini, toml};

/// The largest file that is read. A list of a million users has 200 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What surrounds a configuration file: other files and the environment.
pub trait Surroundings {
    /// A file's bytes, or why there are none.
    fn bytes(&self, path: &Path) -> Result<Vec<u8>, Unread>;

    /// Whether a file can be read and by whom else, or why it cannot.
    fn look(&self, path: &Path) -> Result<Look, Unread>;

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;

    /// The names of all its variables.
    fn variables(&self) -> Vec<String>;

    /// A file's text.
    ///
    /// Errors: the file cannot be read, or is not UTF-8.
    fn text(&self, path: &Path) -> Result<String, Unread> {
        let text = String::from_utf8(self.bytes(path)?).map_err(|it| {
            let line =
                memchr::memchr_iter(b'\n', &it.as_bytes()[..it.utf8_error().valid_up_to()]).count() + 1;
            Unread::Because(format!("not UTF-8 in line {line}"))
        })?;
        Ok(without_mark(text))
    }

    /// The text of a file in one of PgBouncer's syntaxes, which are bytes: where it is not UTF-8, the text has
    /// replacement characters, which `value::is_utf8` finds in what is used. Lines, quotes and all other words stay as
    /// they are, because no ASCII character is ever part of what is replaced.
    ///
    /// Errors: the file cannot be read.
    fn lossy_text(&self, path: &Path) -> Result<String, Unread> {
        let bytes = self.bytes(path)?;
        let text =
            String::from_utf8(bytes).unwrap_or_else(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        Ok(without_mark(text))
    }
}

/// The text without a byte order mark.
fn without_mark(mut text: String) -> String {
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    text
}

/// Why a file cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unread {
    /// There is none.
    #[error("No such file or directory")]
    Missing,
    /// There is one, and this is in the way.
    #[error("{0}")]
    Because(String),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Because(error.to_string()),
        }
    }
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
    fn bytes(&self, _: &Path) -> Result<Vec<u8>, Unread> {
        Err(Unread::Missing)
    }

    fn look(&self, _: &Path) -> Result<Look, Unread> {
        Err(Unread::Missing)
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
    fn bytes(&self, path: &Path) -> Result<Vec<u8>, Unread> {
        let facts = fs::metadata(path)?;
        if facts.is_file() && facts.len() > FILE_BYTES_MAX {
            return Err(Unread::Because(format!("too large a file: {} bytes", facts.len())));
        }
        Ok(fs::read(path)?)
    }

    fn look(&self, path: &Path) -> Result<Look, Unread> {
        let facts = fs::File::open(path)?.metadata()?;
        if facts.is_dir() {
            return Err(Unread::Because("is a directory".to_owned()));
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
    /// Settings with the files of users and rules that could not be read, and why.
    pub unread: BTreeMap<&'static str, Unread>,
    /// Where each global setting is given.
    pub(super) mentioned: BTreeMap<&'static str, Place>,
}

impl Loaded {
    /// A finding about a global setting, at the place where it is given.
    pub fn about(&self, level: Level, setting: &str, Fault { what, hint }: Fault) -> Diagnostic {
        let (file, line) = match self.mentioned.get(setting) {
            Some(at) => (at.file.to_path_buf(), at.line),
            None => (self.config.settings.conffile.clone().unwrap_or_default(), 0),
        };
        Diagnostic { level, file, line, name: setting.to_owned(), what, hint }
    }

    /// The same with what an ini file leaves alone, as in PgBouncer: a setting without a default that it does not mention
    /// keeps what it had, or what SET gave it. Users and rules are read from the files that are then named.
    ///
    /// Errors: what is wrong with such a file.
    pub fn keeping(mut self, old: &Config, surroundings: &dyn Surroundings) -> Result<Self, Vec<Diagnostic>> {
        if old.dialect != Dialect::Ini {
            return Ok(self);
        }
        let mut kept = Vec::new();
        for row in GLOBAL.iter().filter(|row| row.default.is_none() && !self.mentioned.contains_key(row.name))
        {
            if !(row.same)(&self.config.settings, &old.settings) {
                (row.copy)(&mut self.config.settings, &old.settings);
                kept.push(row.name);
            }
        }
        let (mut findings, mut unread) = (Findings::default(), BTreeMap::new());
        let left_out = Level::Note;
        let mut sources = Sources { surroundings, left_out, findings: &mut findings, unread: &mut unread };
        if kept.contains(&"auth_file") {
            self.config.secrets = access::secrets(&self.config, &mut sources);
        }
        // Without the rules' own file those that are known stay.
        if kept.contains(&"auth_ident_file") && !self.unread.contains_key("auth_hba_file") {
            self.notes.retain(|note| note.name != "auth_hba_file");
            self.config.access = access::read(&self.config.settings, &mut sources);
        }
        self.notes.extend(findings.into_result()?);
        for (setting, why) in unread {
            self.notes.push(self.about(Level::Unread, setting, Fault::new(why.to_string())));
            self.unread.insert(setting, why);
        }
        Ok(self)
    }

    /// The configuration that takes the place of `old` while the program runs, and what changes by it.
    ///
    /// What only a start can change stays as it is. As in PgBouncer, an `auth_file` that cannot be read leaves the known
    /// users in place; so does an `auth_hba_file` with the rules, and an `auth_ident_file` that is there: a rule left out
    /// for want of its map may be the one that kept somebody out.
    pub fn onto(self, old: &Config) -> (Config, ReloadPlan) {
        let Self { mut config, unread, .. } = self;
        if unread.contains_key("auth_file") {
            for (user, secret) in &old.secrets {
                config.secrets.entry(user.clone()).or_insert_with(|| secret.clone());
            }
        }
        let ident_unread = matches!(unread.get("auth_ident_file"), Some(Unread::Because(_)));
        if (ident_unread || unread.contains_key("auth_hba_file")) && old.access.is_some() {
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
    let text = match dialect {
        Dialect::Ini => System.lossy_text(file),
        Dialect::Toml | Dialect::Environment => System.text(file),
    };
    match text {
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
