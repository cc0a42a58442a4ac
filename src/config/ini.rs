//! Reads `pgbouncer.ini`, as `lib/usual/cfparser.c` and `src/loader.c` of PgBouncer do.
//!
//! Comments begin with `;` or `#` at the start of a line. A value runs to the end of its line. Sections may come in
//! any order and more than once; a later value replaces an earlier one. `%include FILE` reads another file in place.
//! The value of an entry is a list of `key=value` with blanks between them. Unlike PgBouncer, reading goes on after
//! a mistake, to find the others. Comments may be in any encoding; names and values are UTF-8.

use std::path::Path;
use std::sync::Arc;

use super::diagnostic::nearest;
use super::load::Surroundings;
use super::settings::Scope;
use super::statement::{Assignment, Origin, Place, Reading, Shape, Statement, Value};
use super::value::{Fault, is_utf8, not_utf8};

/// What to say of a value with a comment behind it.
pub const COMMENT_HINT: &str = "in an ini file a comment needs a line of its own";

/// PgBouncer's limit: MAX_INCLUDE in `lib/usual/cfparser.c`.
const INCLUDE_DEPTH_MAX: usize = 10;

/// How many files one configuration may include in all, so that files that include each other come to an end.
const INCLUDES_MAX: usize = 1000;

/// Reads a file's text and the files it includes; mistakes are in the result.
pub fn read(file: &Path, text: &str, surroundings: &dyn Surroundings) -> Reading {
    let section = Section::None;
    let mut reader = Reader { surroundings, section, includes: 0, main_seen: false, out: Reading::default() };
    reader.file(file.into(), text, 0);
    if !reader.main_seen {
        let at = Place { file: file.into(), line: 0 };
        let fault = Fault::new("the section [pgbouncer] is missing");
        reader.out.findings.error(&at, "", fault);
    }
    reader.out
}

/// The section that the next line belongs to.
#[derive(Clone, Copy)]
enum Section {
    /// None has begun yet.
    None,
    Known(Scope),
    /// It has been complained of; what it holds is passed over.
    Unknown,
}

struct Reader<'a> {
    surroundings: &'a dyn Surroundings,
    section: Section,
    includes: usize,
    main_seen: bool,
    out: Reading,
}

impl Reader<'_> {
    fn file(&mut self, file: Arc<Path>, text: &str, depth: usize) {
        for (index, line) in text.split('\n').enumerate() {
            let at = Place { file: file.clone(), line: index + 1 };
            if let Some(path) = included(line.trim_ascii_start()) {
                self.include(&at, path, depth);
            } else {
                self.line(&at, line.trim_ascii());
            }
        }
    }

    fn include(&mut self, at: &Place, path: &str, depth: usize) {
        const NAME: &str = "%include";
        self.includes += 1;
        if depth >= INCLUDE_DEPTH_MAX {
            let fault = Fault::new(format!("files include each other more than {INCLUDE_DEPTH_MAX} deep"));
            return self.out.findings.error(at, NAME, fault);
        }
        if self.includes > INCLUDES_MAX {
            let fault = Fault::new(format!("more than {INCLUDES_MAX} files are included"));
            return self.out.findings.error(at, NAME, fault);
        }
        match self.surroundings.lossy_text(Path::new(path)) {
            Ok(text) => self.file(Path::new(path).into(), &text, depth + 1),
            Err(why) => self.out.findings.error(at, NAME, Fault::new(format!("{path}: {why}"))),
        }
    }

    fn line(&mut self, at: &Place, line: &str) {
        let mut rest = line;
        // PgBouncer takes a setting on the line of its section's name.
        while let Some(inside) = rest.strip_prefix('[') {
            let Some((name, after)) = inside.split_once(']') else {
                let fault = Fault::new("\"[\" without \"]\"");
                return self.out.findings.error(at, "", fault);
            };
            self.begin(at, name);
            rest = after.trim_ascii();
        }
        if rest.is_empty() || rest.starts_with([';', '#']) {
            return;
        }
        match assignment(rest) {
            Ok((key, _)) if !is_utf8(key) => self.out.findings.error(at, "", not_utf8("the name")),
            Ok((key, value)) if !is_utf8(value) => self.out.findings.error(at, key, not_utf8("the value")),
            Ok((key, value)) => self.assign(at, key, value),
            Err(fault) => self.out.findings.error(at, "", fault),
        }
    }

    fn begin(&mut self, at: &Place, name: &str) {
        self.section = match name {
            "pgbouncer" | "pgweir" => {
                self.main_seen = true;
                Section::Known(Scope::Global)
            }
            "databases" => Section::Known(Scope::Database),
            "users" => Section::Known(Scope::User),
            "peers" => Section::Known(Scope::Peer),
            _ => {
                let fault = Fault::new("unknown section");
                let sections = ["pgbouncer", "databases", "users", "peers"];
                let fault = match nearest(name, sections.into_iter()) {
                    Some(section) => fault.hint(format!("did you mean [{section}]?")),
                    None => fault.hint("sections are [pgbouncer], [databases], [users] and [peers]"),
                };
                self.out.findings.error(at, format!("[{name}]"), fault);
                Section::Unknown
            }
        };
    }

    fn assign(&mut self, at: &Place, key: &str, value: &str) {
        match self.section {
            Section::Known(Scope::Global) => self.push(at, Scope::Global, "", (key, value.to_owned())),
            Section::Known(scope) => self.entry(at, scope, key, value),
            Section::Unknown => {}
            Section::None => {
                let fault = Fault::new("a setting before the first section");
                self.out.findings.error(at, key, fault.hint("write it below [pgbouncer]"));
            }
        }
    }

    fn entry(&mut self, at: &Place, scope: Scope, name: &str, value: &str) {
        self.out.statements.push(Statement::Entry { at: at.clone(), scope, name: name.to_owned() });
        let mut rest = value;
        loop {
            match pair(rest) {
                Ok(None) => return,
                Ok(Some((key, value, after))) => {
                    self.push(at, scope, name, (key, value));
                    rest = after;
                }
                Err(fault) => return self.out.findings.error(at, name, fault),
            }
        }
    }

    fn push(&mut self, at: &Place, scope: Scope, entry: &str, (name, text): (&str, String)) {
        let (entry, name) = (entry.to_owned(), name.to_owned());
        let value = Value { text, shape: Shape::Untyped, origin: Origin::File };
        let assignment = Assignment { at: at.clone(), scope, entry, name, value };
        self.out.statements.push(Statement::Assign(assignment));
    }
}

/// The file that a line includes.
fn included(line: &str) -> Option<&str> {
    let path = line.strip_prefix("%include")?;
    path.starts_with([' ', '\t']).then(|| path.trim_ascii())
}

fn is_key(it: char) -> bool {
    it.is_ascii_alphanumeric() || "_.-*".contains(it)
}

/// Takes `key = value` or `'key' = value` apart.
fn assignment(line: &str) -> Result<(&str, &str), Fault> {
    let (key, rest) = match line.strip_prefix('\'') {
        Some(quoted) => {
            quoted.split_once('\'').ok_or_else(|| Fault::new("the quote around the name is not closed"))?
        }
        None => line.split_at(line.find(|it| !is_key(it)).unwrap_or(line.len())),
    };
    let value = rest.trim_ascii_start().strip_prefix('=').filter(|_| !key.is_empty());
    let value = value.ok_or_else(|| Fault::new("not understood").hint("write name = value"))?;
    Ok((key, value.trim_ascii()))
}

/// All of an entry's `key=value`.
pub fn pairs(text: &str) -> Result<Vec<(&str, String)>, Fault> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some((key, value, after)) = pair(rest)? {
        found.push((key, value));
        rest = after;
    }
    Ok(found)
}

/// Takes the first `key=value` off an entry's value: key, value and what follows. A value with blanks in it stands in
/// single quotes, a single quote in it is doubled.
fn pair(text: &str) -> Result<Option<(&str, String, &str)>, Fault> {
    const BLANKS: [char; 2] = [' ', '\t'];
    let text = text.trim_start_matches(BLANKS);
    if text.is_empty() {
        return Ok(None);
    }
    let end = text.find(|it| it == '=' || BLANKS.contains(&it)).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    let rest = rest.trim_start_matches(BLANKS).strip_prefix('=').filter(|_| !key.is_empty());
    // The text itself is not shown: it may be part of a password.
    let rest = rest.ok_or_else(|| {
        let fault = Fault::new("not a list of key=value");
        match text.starts_with([';', '#']) {
            true => fault.hint(COMMENT_HINT),
            false => fault.hint("a value with blanks stands in single quotes: key='a b'"),
        }
    })?;
    let rest = rest.trim_start_matches(BLANKS);
    let (value, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => {
            unquote(quoted).ok_or_else(|| Fault::new(format!("the quote of {key} is not closed")))?
        }
        None => {
            let (value, rest) = rest.split_at(rest.find(BLANKS).unwrap_or(rest.len()));
            (value.to_owned(), rest)
        }
    };
    if value.is_empty() {
        return Err(Fault::new(format!("{key} has no value")).hint("leave it out"));
    }
    if !rest.is_empty() && !rest.starts_with(BLANKS) {
        return Err(Fault::new(format!("text follows the quoted value of {key}")).hint("put a blank between"));
    }
    Ok(Some((key, value, rest)))
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}
