//! Reads the files that `auth_type = hba` refers to, and reports what is wrong in them.
//!
//! A line that cannot be read is left out by PgBouncer. So it is here in an ini file, with a note; in a TOML file it is
//! a mistake as any other, because the line after it may let somebody in whom it was to keep out.

use std::path::Path;
use std::sync::Arc;

use super::diagnostic::Level;
use super::hba::{self, Fate, Rules};
use super::ident::Maps;
use super::load::Surroundings;
use super::statement::{Findings, Place};
use super::value::Fault;
use super::{AuthType, Config, Dialect, Settings};

/// The rules in force under these settings.
pub enum Access {
    /// None are asked for.
    Unused,
    /// These.
    Rules(Arc<Rules>),
    /// A file could not be read.
    Unreadable,
}

/// What is needed to read the files.
pub struct Sources<'a> {
    /// Where they are.
    pub surroundings: &'a dyn Surroundings,
    /// How bad a line is that is left out.
    pub left_out: Level,
    /// Takes what is wrong.
    pub findings: &'a mut Findings,
}

/// Reads the files that the settings name. That one is missing is for `check` to say.
pub fn read(settings: &Settings, sources: &mut Sources<'_>) -> Access {
    if settings.auth_type != AuthType::Hba {
        return Access::Unused;
    }
    let Some(file) = &settings.auth_hba_file else { return Access::Rules(Arc::default()) };
    let maps = match &settings.auth_ident_file {
        None => Maps::default(),
        Some(file) => match sources.maps(file) {
            Some(maps) => maps,
            None => return Access::Unreadable,
        },
    };
    match sources.rules(file, &maps) {
        Some(rules) => Access::Rules(Arc::new(rules)),
        None => Access::Unreadable,
    }
}

/// A configuration in which SET has changed the setting `name`, with the rules that are then in force.
///
/// Errors: they cannot be read.
pub fn with_access(
    mut config: Config,
    name: &str,
    surroundings: &dyn Surroundings,
) -> Result<Config, String> {
    if !matches!(name, "auth_type" | "auth_hba_file" | "auth_ident_file") {
        return Ok(config);
    }
    let left_out = match config.dialect {
        Dialect::Toml | Dialect::Environment => Level::Error,
        Dialect::Ini => Level::Note,
    };
    let mut findings = Findings::default();
    let mut sources = Sources { surroundings, left_out, findings: &mut findings };
    config.access = match read(&config.settings, &mut sources) {
        Access::Unused => None,
        Access::Rules(rules) => Some(rules),
        Access::Unreadable => return Err("auth_hba_file or auth_ident_file cannot be read".to_owned()),
    };
    match findings.into_result() {
        Ok(_) => Ok(config),
        Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

impl Sources<'_> {
    fn maps(&mut self, file: &Path) -> Option<Maps> {
        let text = self.surroundings.text(file).ok()?;
        let (maps, faults) = Maps::read(&text);
        for (line, why) in faults {
            let what = format!("could not parse ident config line {line}: {why}");
            self.report(self.left_out, (file, line, "auth_ident_file"), what);
        }
        Some(maps)
    }

    fn rules(&mut self, file: &Path, maps: &Maps) -> Option<Rules> {
        let text = self.surroundings.text(file).ok()?;
        let names = |path: &Path| self.surroundings.text(path);
        let (rules, findings) = Rules::read(&text, &hba::Context { file, maps, text: &names });
        for finding in findings {
            let line = finding.line;
            let (level, what) = match finding.fate {
                Fate::LeftOut => {
                    (self.left_out, format!("could not parse hba config line {line}: {}", finding.what))
                }
                Fate::Counts => (Level::Note, finding.what),
            };
            self.report(level, (file, line, "auth_hba_file"), what);
        }
        Some(rules)
    }

    fn report(&mut self, level: Level, (file, line, name): (&Path, usize, &str), what: String) {
        self.findings.add(level, &Place { file: file.into(), line }, name.to_owned(), Fault::new(what));
    }
}
