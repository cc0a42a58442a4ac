//! Makes a [`Config`] of what the files say, or the list of all that is wrong with them.
//!
//! Both syntaxes meet here, so that a setting has the same range, scope and meaning in either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::access::{self, Sources};
use super::diagnostic::Level;
use super::kinds::{FILE_MODE, Facts, FileUse, Form};
use super::load::{Loaded, Surroundings};
use super::settings::{self, Effect, Scope, Setting, Zero};
use super::statement::{Assignment, Findings, Origin, Place, Reading, Shape, Statement, Value};
use super::value::{Fault, database_name, user_name};
use super::{Config, Database, Diagnostic, Dialect, Peer, Settings, User, check, ini, is_console};

/// What assembling needs to know besides the statements.
pub struct Context<'a> {
    /// The file that was asked for.
    pub file: &'a Path,
    /// Its syntax.
    pub dialect: Dialect,
    /// The files and variables around it.
    pub surroundings: &'a dyn Surroundings,
}

impl Context<'_> {
    /// How bad it is where PgBouncer would go on regardless.
    pub fn lenient(&self) -> Level {
        match self.dialect {
            Dialect::Toml | Dialect::Environment => Level::Error,
            Dialect::Ini => Level::Note,
        }
    }

    /// A setting with a value, as the file would have it.
    pub fn written(&self, name: &str, value: &str) -> String {
        match self.dialect {
            Dialect::Toml => format!("{name} = \"{value}\""),
            Dialect::Ini | Dialect::Environment => format!("{name} = {value}"),
        }
    }

    /// A path as the file means it: relative to the file's directory, in an ini file to the working directory.
    fn locate(&self, path: &str) -> PathBuf {
        match self.dialect {
            Dialect::Toml if !path.starts_with('@') => {
                self.file.parent().map_or_else(|| path.into(), |directory| directory.join(path))
            }
            _ => path.into(),
        }
    }
}

/// Where each setting was given.
#[derive(Default)]
pub struct Places(BTreeMap<(Scope, String, &'static str), (Place, Origin)>);

impl Places {
    /// Where a setting was given, if it was.
    pub fn find(&self, scope: Scope, entry: &str, name: &'static str) -> Option<&Place> {
        self.0.get(&(scope, entry.to_owned(), name)).map(|(at, _)| at)
    }

    /// The global settings that were given, and where.
    fn global(&self) -> BTreeMap<&'static str, Place> {
        let given = self.0.iter().filter(|((scope, ..), _)| *scope == Scope::Global);
        given.map(|((.., name), (at, _))| (*name, at.clone())).collect()
    }

    /// A place where a password stands in the configuration itself.
    pub fn literal_secret(&self) -> Option<Place> {
        let mut given = self.0.iter();
        let found = given.find(|((.., name), (_, origin))| *name == "password" && *origin == Origin::File);
        found.map(|(_, (at, _))| at.clone())
    }

    fn forget(&mut self, scope: Scope, entry: &str) {
        self.0.retain(|(other_scope, other, _), _| *other_scope != scope || other != entry);
    }
}

/// Makes the configuration.
pub fn assemble(reading: Reading, context: &Context<'_>) -> Result<Loaded, Vec<Diagnostic>> {
    let mut assembler = Assembler::new(reading.findings, context);
    for statement in reading.statements {
        match statement {
            Statement::Entry { at, scope, name } => assembler.begin(at, scope, name),
            Statement::Assign(it) => assembler.assign(it),
        }
    }
    assembler.finish()
}

struct Assembler<'a> {
    context: &'a Context<'a>,
    findings: Findings,
    places: Places,
    settings: Settings,
    databases: BTreeMap<String, (Place, Database)>,
    users: BTreeMap<String, (Place, User)>,
    peers: BTreeMap<String, (Place, Peer)>,
}

impl<'a> Assembler<'a> {
    fn new(findings: Findings, context: &'a Context<'a>) -> Self {
        let settings = match context.dialect {
            Dialect::Toml | Dialect::Environment => Settings::default(),
            Dialect::Ini => Settings::ini(),
        };
        let places = Places::default();
        let (databases, users, peers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { context, findings, places, settings, databases, users, peers }
    }

    fn begin(&mut self, at: Place, scope: Scope, name: String) {
        self.places.forget(scope, &name);
        let earlier = match scope {
            Scope::Global => None,
            Scope::Database => {
                self.databases.insert(name.clone(), (at.clone(), Database::default())).map(|it| it.0)
            }
            Scope::User => self.users.insert(name.clone(), (at.clone(), User::default())).map(|it| it.0),
            Scope::Peer => self.peers.insert(name.clone(), (at.clone(), Peer::default())).map(|it| it.0),
        };
        if let Some(earlier) = earlier {
            let what = format!("replaces the entry of line {} of {}", earlier.line, earlier.file.display());
            self.findings.note(&at, path(scope, &name, ""), Fault::new(what));
        }
    }

    fn assign(&mut self, it: Assignment) {
        let name = path(it.scope, &it.entry, &it.name);
        let applied = match it.scope {
            Scope::Global => apply(settings::GLOBAL, &mut self.settings, &it, self.context),
            Scope::Database => apply(settings::DATABASE, target(&mut self.databases, &it), &it, self.context),
            Scope::User => apply(settings::USER, target(&mut self.users, &it), &it, self.context),
            Scope::Peer => apply(settings::PEER, target(&mut self.peers, &it), &it, self.context),
        };
        let applied = match applied {
            Ok(applied) => applied,
            Err(fault) => return self.findings.error(&it.at, name, fault),
        };
        for note in applied.notes {
            self.findings.note(&it.at, &name, note);
        }
        let earlier =
            self.places.0.insert((it.scope, it.entry, applied.name), (it.at.clone(), it.value.origin));
        if let Some((earlier, _)) = earlier {
            let what = format!("replaces the value of line {} of {}", earlier.line, earlier.file.display());
            self.findings.note(&it.at, name, Fault::new(what));
        }
    }

    fn finish(mut self) -> Result<Loaded, Vec<Diagnostic>> {
        let mentioned = self.places.global();
        let mut config =
            Config { dialect: self.context.dialect, settings: self.settings, ..Config::default() };
        for (name, (at, database)) in self.databases {
            if name == "*" {
                config.any_database = Some(database);
                continue;
            }
            match database_name(&name) {
                Ok(_) if is_console(&name) => {
                    let fault = Fault::new("the name is reserved for the console");
                    self.findings.error(&at, path(Scope::Database, &name, ""), fault);
                }
                Ok(name) => drop(config.databases.insert(name, database)),
                Err(fault) => self.findings.error(&at, path(Scope::Database, &name, ""), fault),
            }
        }
        for (name, (at, user)) in self.users {
            match user_name(&name) {
                Ok(name) => drop(config.users.insert(name, user)),
                Err(fault) => self.findings.error(&at, path(Scope::User, &name, ""), fault),
            }
        }
        for (name, (at, peer)) in self.peers {
            match name.parse::<u16>() {
                Ok(id) if id > 0 => drop(config.peers.insert(id, peer)),
                _ => {
                    let fault = Fault::new("not the number of a peer").hint("from 1 to 65535");
                    self.findings.error(&at, path(Scope::Peer, &name, ""), fault);
                }
            }
        }
        let mut unread = BTreeMap::new();
        let left_out = self.context.lenient();
        let surroundings = self.context.surroundings;
        let findings = &mut self.findings;
        let mut sources = Sources { surroundings, left_out, findings, unread: &mut unread };
        config.secrets = access::secrets(&config, &mut sources);
        config.access = access::read(&config.settings, &mut sources);
        check::check(&config, self.context, &self.places, &unread, &mut self.findings);
        let notes = self.findings.into_result()?;
        Ok(Loaded { config, notes, unread, mentioned })
    }
}

/// A setting's whole name in a finding: `databases.app.pool_size`.
pub fn path(scope: Scope, entry: &str, name: &str) -> String {
    let section = match scope {
        Scope::Global => return name.to_owned(),
        Scope::Database => "databases",
        Scope::User => "users",
        Scope::Peer => "peers",
    };
    if name.is_empty() { format!("{section}.{entry}") } else { format!("{section}.{entry}.{name}") }
}

struct Applied {
    name: &'static str,
    notes: Vec<Fault>,
}

/// The entry that a setting belongs to.
fn target<'a, T: Default>(entries: &'a mut BTreeMap<String, (Place, T)>, it: &Assignment) -> &'a mut T {
    &mut entries.entry(it.entry.clone()).or_insert_with(|| (it.at.clone(), T::default())).1
}

/// Finds the setting and gives it the value.
fn apply<T>(
    table: &'static [Setting<T>],
    target: &mut T,
    it: &Assignment,
    context: &Context<'_>,
) -> Result<Applied, Fault> {
    let row = settings::find(table, &it.name).ok_or_else(|| settings::unknown(it.scope, &it.name))?;
    let mut notes = Vec::new();
    let text = text_of(&row.facts, &it.value)?;
    let text = match (row.facts.form, row.facts.file) {
        (_, FileUse::Content) => content(&context.locate(&text), context, &mut notes)?,
        (Form::Path, _) if !text.is_empty() => context.locate(&text).display().to_string(),
        _ => text,
    };
    if text.contains('\0') {
        return Err(Fault::new("a value must not contain a zero byte"));
    }
    let is_ini = context.dialect == Dialect::Ini;
    let text = match row.facts.form {
        Form::Number if is_ini && it.scope != Scope::Global => decimal(&text),
        _ => &text,
    };
    let inherits = is_ini && inherits(row.zero, text);
    (row.read)(target, if inherits { "" } else { text })
        .map_err(|fault| advised(fault, &row.facts, text, context.dialect))?;
    if let Effect::None(why) = row.effect {
        notes.push(Fault::new(format!("has no effect: {why}")));
    }
    Ok(Applied { name: row.name, notes })
}

/// An entry's number in an ini file without leading zeros: PgBouncer reads those by `atoi`, in its global section they are
/// octal.
fn decimal(text: &str) -> &str {
    let digits = text.trim_start_matches('0');
    if digits.starts_with(|it: char| it.is_ascii_digit()) { digits } else { text }
}

/// The fault with the advice that fits the syntax.
fn advised(fault: Fault, facts: &Facts, text: &str, dialect: Dialect) -> Fault {
    let comment = [" ;", "\t;", " #", "\t#"].iter().any(|it| text.contains(it));
    match dialect {
        Dialect::Ini if comment => fault.hint(ini::COMMENT_HINT),
        Dialect::Toml if facts.name == FILE_MODE.facts.name => {
            fault.hint("write it in octal: 0o770 or \"0770\"")
        }
        Dialect::Ini | Dialect::Toml | Dialect::Environment => fault,
    }
}

/// Whether an entry's number in an ini file stands for the global setting.
fn inherits(zero: Zero, text: &str) -> bool {
    let number = text.parse::<f64>();
    match zero {
        Zero::Value => false,
        Zero::InheritBelow => number.is_ok_and(|it| it < 0.0),
        Zero::Inherit => number.is_ok_and(|it| it <= 0.0),
    }
}

/// The text of a value, if it is written as such values may be.
fn text_of(facts: &Facts, value: &Value) -> Result<String, Fault> {
    let fits = match value.shape {
        Shape::Untyped | Shape::String => true,
        Shape::Integer => !matches!(facts.form, Form::Text | Form::Path | Form::List),
        Shape::Float => matches!(facts.form, Form::Seconds | Form::Milliseconds | Form::Bytes),
        Shape::Boolean => facts.form == Form::Flag,
        Shape::Array => facts.form == Form::List,
    };
    if fits {
        return Ok(value.text.clone());
    }
    let written = match value.shape {
        Shape::Boolean => "true or false",
        Shape::Array => "a list",
        _ => "a number",
    };
    let hint = match facts.form {
        Form::Text | Form::Path => "write a text in quotes",
        Form::List => "write [\"one\", \"two\"]",
        Form::Flag => "write true or false",
        Form::Seconds | Form::Milliseconds => "write a number of seconds or a text as \"10min\"",
        Form::Number | Form::Bytes => "write a number",
    };
    Err(Fault::new(format!("is {written}, not a {}", facts.name)).hint(hint))
}

/// The text of a file that holds a secret.
fn content(path: &Path, context: &Context<'_>, notes: &mut Vec<Fault>) -> Result<String, Fault> {
    let shown = path.display();
    let text = context.surroundings.text(path).map_err(|why| Fault::new(format!("{shown}: {why}")))?;
    if context.surroundings.look(path).is_ok_and(|it| it.open_to_all) {
        notes.push(open_to_all(path));
    }
    Ok(text.strip_suffix('\n').map(|it| it.strip_suffix('\r').unwrap_or(it)).unwrap_or(&text).to_owned())
}

/// What to say of a file with secrets that everybody may read.
pub fn open_to_all(path: &Path) -> Fault {
    let shown = path.display();
    Fault::new(format!("{shown} holds secrets and everybody may read it")).hint(format!("chmod o= {shown}"))
}
