//! Reads `pgweir.toml`: `[pgweir]`, `[databases.NAME]`, `[users.NAME]`, `[peers.ID]`.
//!
//! In its strings and in the names of its entries `${NAME}` stands for a variable of the environment, `${NAME:-text}`
//! for one with a default, and `$${` for `${`. Which settings there are is not this module's business.

use std::path::Path;
use std::sync::Arc;

use ::toml::de::{DeArray, DeTable, DeValue};

use super::diagnostic::nearest;
use super::load::Surroundings;
use super::settings::{self, Scope};
use super::statement::{Assignment, Origin, Place, Reading, Shape, Statement, Value};
use super::value::Fault;

const SECTIONS: [&str; 4] = ["pgweir", "databases", "users", "peers"];

/// Reads a file's text; mistakes are in the result.
pub fn read(file: &Path, text: &str, surroundings: &dyn Surroundings) -> Reading {
    let mut reader =
        Reader { file: file.into(), lines: Lines::new(text), surroundings, out: Reading::default() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = reader.at(error.span().map_or(0, |span| span.start));
        reader.out.findings.error(&at, "", Fault::new(one_line(error.message())));
    }
    reader.document(document.get_ref());
    reader.out
}

/// A parser's message without its line ends.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1).collect())
    }

    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset) + 1
    }
}

struct Reader<'a> {
    file: Arc<Path>,
    lines: Lines,
    surroundings: &'a dyn Surroundings,
    out: Reading,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> Place {
        Place { file: self.file.clone(), line: self.lines.line(offset) }
    }

    fn error(&mut self, offset: usize, name: &str, fault: Fault) {
        let at = self.at(offset);
        self.out.findings.error(&at, name, fault);
    }

    fn document(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            let (name, offset) = (key.get_ref().as_ref(), key.span().start);
            let scope = match name {
                "pgweir" => Scope::Global,
                "databases" => Scope::Database,
                "users" => Scope::User,
                "peers" => Scope::Peer,
                _ => {
                    self.error(offset, name, unknown_section(name));
                    continue;
                }
            };
            match value.get_ref() {
                DeValue::Table(table) if scope == Scope::Global => self.settings(scope, "", table),
                DeValue::Table(table) => self.entries(scope, name, table),
                _ => {
                    self.error(offset, name, Fault::new("must be a section").hint(format!("write [{name}]")))
                }
            }
        }
    }

    fn entries(&mut self, scope: Scope, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let (name, offset) = (key.get_ref().as_ref(), key.span().start);
            let DeValue::Table(entry) = value.get_ref() else {
                let fault = Fault::new("must be a table");
                self.error(
                    offset,
                    name,
                    fault.hint(format!("write [{section}.{name}] and its settings below")),
                );
                continue;
            };
            match self.substitute(name) {
                Ok(name) => {
                    let at = self.at(offset);
                    self.out.statements.push(Statement::Entry { at, scope, name: name.clone() });
                    self.settings(scope, &name, entry);
                }
                Err(fault) => self.error(offset, name, fault),
            }
        }
    }

    fn settings(&mut self, scope: Scope, entry: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let (name, offset) = (key.get_ref().as_ref(), key.span().start);
            match self.value(value.get_ref()) {
                Ok(value) => {
                    let (at, entry, name) = (self.at(offset), entry.to_owned(), name.to_owned());
                    let assignment = Assignment { at, scope, entry, name, value };
                    self.out.statements.push(Statement::Assign(assignment));
                }
                Err(fault) => self.error(offset, name, fault),
            }
        }
    }

    fn value(&self, value: &DeValue<'_>) -> Result<Value, Fault> {
        let (text, shape) = match value {
            DeValue::String(text) => (self.substitute(text)?, Shape::String),
            DeValue::Integer(number) => {
                let value = i64::from_str_radix(number.as_str(), number.radix());
                let value = value.map_err(|_| Fault::new("too large a number"))?;
                (value.to_string(), Shape::Integer)
            }
            DeValue::Float(number) => (number.as_str().to_owned(), Shape::Float),
            DeValue::Boolean(flag) => (flag.to_string(), Shape::Boolean),
            DeValue::Array(array) => (self.array(array)?, Shape::Array),
            DeValue::Datetime(_) => return Err(Fault::new("no setting is a date")),
            DeValue::Table(_) => return Err(Fault::new("no setting is a table")),
        };
        let origin = match value {
            DeValue::String(raw) if **raw != text => Origin::Environment,
            _ => Origin::File,
        };
        Ok(Value { text, shape, origin })
    }

    fn array(&self, array: &DeArray<'_>) -> Result<String, Fault> {
        let mut items = Vec::new();
        for item in array.iter() {
            let DeValue::String(text) = item.get_ref() else {
                return Err(Fault::new("a list holds texts").hint("write [\"one\", \"two\"]"));
            };
            items.push(self.substitute(text)?);
        }
        Ok(items.join(", "))
    }

    /// Puts in what `${NAME}` and `${NAME:-text}` stand for.
    fn substitute(&self, text: &str) -> Result<String, Fault> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            let Some(length) = rest[at..].find('}') else {
                return Err(Fault::new("\"${\" without \"}\"").hint("write \"$${\" for the text \"${\""));
            };
            out.push_str(&rest[..at]);
            out.push_str(&self.variable(&rest[at + 2..at + length])?);
            rest = &rest[at + length + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable(&self, inside: &str) -> Result<String, Fault> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
        if name.is_empty() || !name.chars().all(is_name) || name.starts_with(|it: char| it.is_ascii_digit()) {
            return Err(Fault::new("not the name of a variable after \"${\"").hint("as in ${DB_PASSWORD}"));
        }
        // As in a shell, an empty variable counts as missing where there is a default.
        match (self.surroundings.variable(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(Fault::new(format!("the environment has no variable {name}"))
                .hint(format!("set it, or write ${{{name}:-default}}"))),
        }
    }
}

fn unknown_section(name: &str) -> Fault {
    let fault = Fault::new("unknown section");
    if name == "pgbouncer" {
        return fault
            .hint("in a TOML file it is [pgweir]; a pgbouncer.ini is read when its name ends in .ini");
    }
    if settings::global(name).is_some() {
        return Fault::new("a setting outside of any section").hint("write it below [pgweir]");
    }
    match nearest(name, SECTIONS.into_iter()) {
        Some(section) => fault.hint(format!("did you mean [{section}]?")),
        None => fault.hint("sections are [pgweir], [databases.NAME], [users.NAME] and [peers.ID]"),
    }
}
