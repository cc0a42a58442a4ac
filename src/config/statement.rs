//! What a configuration file says, free of its syntax: the readers make statements, `assemble` makes a `Config`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Level};
use super::settings::Scope;
use super::value::Fault;

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1; 0 for the file as a whole.
    pub line: usize,
}

/// How a value was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Without a type, as all values of an ini file are.
    Untyped,
    /// A TOML string.
    String,
    /// A TOML integer.
    Integer,
    /// A TOML float.
    Float,
    /// A TOML boolean.
    Boolean,
    /// A TOML array, its elements with commas between them.
    Array,
}

/// A value as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// Its text.
    pub text: String,
    /// How it was written.
    pub shape: Shape,
    /// Where its text is from.
    pub origin: Origin,
}

/// Where a value's text is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It stands in the file.
    File,
    /// The environment has a part in it.
    Environment,
}

impl fmt::Debug for Value {
    /// Without the text: it may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {:?}", self.shape, self.origin)
    }
}

/// One thing that a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Statement {
    /// There is such an entry, with what the next statements say and nothing else.
    Entry {
        /// Where it begins.
        at: Place,
        /// Its section.
        scope: Scope,
        /// Its name.
        name: String,
    },
    /// A setting has a value.
    Assign(Assignment),
}

/// A setting with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// Where it stands.
    pub at: Place,
    /// Its section.
    pub scope: Scope,
    /// Its entry; empty in the global section.
    pub entry: String,
    /// The setting.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// What has been found in the files so far.
#[derive(Default, Debug)]
pub struct Findings {
    list: Vec<Diagnostic>,
}

impl Findings {
    /// Something that makes the file unusable.
    pub fn error(&mut self, at: &Place, name: impl Into<String>, fault: Fault) {
        self.add(Level::Error, at, name.into(), fault);
    }

    /// Something worth knowing.
    pub fn note(&mut self, at: &Place, name: impl Into<String>, fault: Fault) {
        self.add(Level::Note, at, name.into(), fault);
    }

    /// Error or note.
    pub fn add(&mut self, level: Level, at: &Place, name: String, fault: Fault) {
        let Fault { what, hint } = fault;
        self.list.push(Diagnostic { level, file: at.file.to_path_buf(), line: at.line, name, what, hint });
    }

    /// Whether the file cannot be used.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|it| it.level == Level::Error)
    }

    /// The notes where there are no errors, else everything, in the order of files and lines.
    pub fn into_result(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.list.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        if self.has_errors() { Err(self.list) } else { Ok(self.list) }
    }
}

/// What reading the files' syntax yields.
#[derive(Default, Debug)]
pub struct Reading {
    /// What they say, in order.
    pub statements: Vec<Statement>,
    /// What is wrong with them.
    pub findings: Findings,
}
