//! Reads the files that say who may log in, users and rules, and reports what is wrong in them.
//!
//! A line that cannot be read is left out by PgBouncer. So it is here in an ini file, with a note; in a TOML file it is
//! a mistake as any other, because the line after it may let somebody in whom it was to keep out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::ids::UserName;

use super::diagnostic::Level;
use super::hba::{self, Fate, Rules};
use super::ident::Maps;
use super::load::{Surroundings, Unread};
use super::statement::{Findings, Place};
use super::value::Fault;
use super::{AuthType, Config, Dialect, Secret, Settings, userlist};

/// What is needed to read the files.
pub struct Sources<'a> {
    /// Where they are.
    pub surroundings: &'a dyn Surroundings,
    /// How bad a line is that is left out.
    pub left_out: Level,
    /// Takes what is wrong.
    pub findings: &'a mut Findings,
    /// Takes the settings whose files cannot be read, which is for `check` to report.
    pub unread: &'a mut BTreeMap<&'static str, Unread>,
}

/// The rules in force under these settings; `None` where none are asked for. Without the file of the rules there are
/// none, without that of the maps the rules with `map=` are left out, as in PgBouncer.
pub fn read(settings: &Settings, sources: &mut Sources<'_>) -> Option<Arc<Rules>> {
    if settings.auth_type != AuthType::Hba {
        return None;
    }
    let Some(file) = &settings.auth_hba_file else { return Some(Arc::default()) };
    let maps = settings.auth_ident_file.as_deref().map(|file| sources.maps(file)).unwrap_or_default();
    Some(Arc::new(sources.rules(file, &maps)))
}

/// The secrets of `auth_file`, none without the file, and those of users who have a `password`.
pub fn secrets(config: &Config, sources: &mut Sources<'_>) -> BTreeMap<UserName, Secret> {
    let mut secrets =
        config.settings.auth_file.as_deref().map(|file| sources.users(file)).unwrap_or_default();
    let own = config.users.iter().filter_map(|(name, user)| Some((name.clone(), user.password.clone()?)));
    secrets.extend(own);
    secrets
}

/// A configuration in which SET has changed the setting `name`, with the users and rules that are then in force.
///
/// Errors: they cannot be read.
pub fn with_access(
    mut config: Config,
    name: &str,
    surroundings: &dyn Surroundings,
) -> Result<Config, String> {
    let left_out = match config.dialect {
        Dialect::Toml | Dialect::Environment => Level::Error,
        Dialect::Ini => Level::Note,
    };
    let (mut findings, mut unread) = (Findings::default(), BTreeMap::new());
    let mut sources = Sources { surroundings, left_out, findings: &mut findings, unread: &mut unread };
    match name {
        "auth_file" => config.secrets = secrets(&config, &mut sources),
        "auth_type" | "auth_hba_file" | "auth_ident_file" => {
            config.access = read(&config.settings, &mut sources);
        }
        _ => {}
    }
    if let Some((setting, why)) = unread.first_key_value() {
        return Err(format!("{setting} cannot be read: {why}"));
    }
    match findings.into_result() {
        Ok(_) => Ok(config),
        Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

impl Sources<'_> {
    /// A file's text; empty where it cannot be read.
    fn text(&mut self, setting: &'static str, file: &Path) -> String {
        self.surroundings.lossy_text(file).unwrap_or_else(|why| {
            self.unread.insert(setting, why);
            String::new()
        })
    }

    fn users(&mut self, file: &Path) -> BTreeMap<UserName, Secret> {
        let text = self.text("auth_file", file);
        let (level, secrets, faults) = match userlist::read(&text) {
            Ok(users) => (self.left_out, users.secrets, users.left_out),
            Err(faults) => (Level::Error, BTreeMap::new(), faults),
        };
        for (line, fault) in faults {
            self.findings.add(level, &Place { file: file.into(), line }, "auth_file".to_owned(), fault);
        }
        secrets
    }

    fn maps(&mut self, file: &Path) -> Maps {
        let text = self.text("auth_ident_file", file);
        let (maps, faults) = Maps::read(&text);
        for (line, why) in faults {
            let what = format!("could not parse ident config line {line}: {why}");
            self.report(self.left_out, (file, line, "auth_ident_file"), what);
        }
        maps
    }

    fn rules(&mut self, file: &Path, maps: &Maps) -> Rules {
        let text = self.text("auth_hba_file", file);
        let names = |path: &Path| self.surroundings.lossy_text(path).map_err(|why| why.to_string());
        let (rules, findings) = Rules::read(&text, &hba::Context { file, maps, text: &names });
        for finding in findings {
            let line = finding.line;
            let (level, what) = match finding.fate {
                Fate::LeftOut => {
                    (self.left_out, format!("could not parse hba config line {line}: {}", finding.what))
                }
                Fate::CountsInPart => (self.left_out, finding.what),
                Fate::Counts => (Level::Note, finding.what),
            };
            self.report(level, (file, line, "auth_hba_file"), what);
        }
        rules
    }

    fn report(&mut self, level: Level, (file, line, name): (&Path, usize, &str), what: String) {
        self.findings.add(level, &Place { file: file.into(), line }, name.to_owned(), Fault::new(what));
    }
}
