//! Puts another configuration in force while clients are connected: all of a file, or nothing of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::descriptors;
use super::log::Log;
use super::options::RunOptions;
use super::process::Process;
use crate::config::{self, Compatibility, Config, Diagnostic, Dialect, Level, ReloadPlan, Unread};
use crate::net::{NameTimes, TcpOptions, Tls};
use crate::wire::Report;

/// Reads the configuration's files again.
pub struct Reloader {
    path: PathBuf,
    dialect: Dialect,
    /// `-v` of the command line, which a file without `verbose` does not take back.
    verbose: u8,
    log: Log,
    /// Two reloads at once would each undo the other.
    one_at_a_time: Mutex<()>,
}

impl Reloader {
    /// For these files.
    pub fn new(options: &RunOptions, log: Log) -> Self {
        let RunOptions { config, dialect, verbose, .. } = options;
        let (path, dialect, verbose) = (config.clone(), *dialect, *verbose);
        Self { path, dialect, verbose, log, one_at_a_time: Mutex::new(()) }
    }

    /// Reads the files and puts them in force.
    ///
    /// Returns what the console is to be told beside. Errors: what is wrong with them; nothing has changed.
    pub fn reload(&self, process: &Process) -> Result<Vec<Report>, String> {
        let _alone = self.one_at_a_time.lock();
        process.notifier.reloading();
        let done = self.read_again(process);
        process.notifier.reloaded(done.as_ref().err().map(String::as_str));
        done
    }

    fn read_again(&self, process: &Process) -> Result<Vec<Report>, String> {
        let old = process.config.load_full();
        let path = old.settings.conffile.clone().unwrap_or_else(|| self.path.clone());
        let loaded = config::load(&path, self.dialect).and_then(|it| it.keeping(&old, &config::System));
        let mut loaded = loaded.map_err(|findings| refused(&findings))?;
        let (unread, notes): (Vec<_>, Vec<_>) = std::mem::take(&mut loaded.notes)
            .into_iter()
            .partition(|note| loaded.unread.contains_key(note.name.as_str()));
        super::log_findings(&notes);
        let effects =
            loaded.unread.iter().map(|(setting, why)| (*setting, (why.clone(), effect(setting, why, &old))));
        let effects: BTreeMap<_, _> = effects.collect();
        let (mut new, plan) = loaded.onto(&old);
        // An ini file that does not mention it has left it as it was.
        if self.dialect != Dialect::Ini {
            new.settings.verbose = new.settings.verbose.max(self.verbose);
        }
        // Certificates may be new under an old name.
        let tls = set_up_tls(&new)?;
        self.put_in_force(process, new, &plan, Some(tls)).inspect_err(|why| tracing::error!("{why}"))?;
        for name in &plan.needs_restart {
            tracing::warn!("{name} takes effect only after a restart");
        }
        for finding in &unread {
            if let Some((_, effect)) = effects.get(finding.name.as_str()) {
                tracing::error!("{finding}; {effect}");
            }
        }
        let told = effects.iter().map(|(setting, (why, effect))| format!("{setting}: {why}; {effect}"));
        Ok(told.map(Report::notice).collect())
    }

    /// Changes one setting until the next reload. Returns what the console is to be told beside.
    ///
    /// Errors: why it can't be; nothing has changed.
    pub fn set(&self, process: &Process, name: &str, value: &str) -> Result<Vec<Report>, String> {
        let _alone = self.one_at_a_time.lock();
        let old = process.config.load_full();
        let new = old.set(name, value).map_err(|fault| match &fault.hint {
            Some(hint) => format!("{}: {hint}", fault.what),
            None => fault.what.clone(),
        })?;
        let new = config::with_access(new, name, &config::System)?;
        let plan = config::diff(&old, &new);
        let (tls, told) = match name.contains("_tls").then(|| set_up_tls(&new)) {
            None => (None, Vec::new()),
            Some(Ok(tls)) => (Some(tls), Vec::new()),
            // A certificate and its key can only be set one after the other; PgBouncer waits for the second.
            Some(Err(_)) if new.settings.compatibility == Compatibility::PgBouncer => {
                let told = "TLS settings could not be applied, still using old configuration";
                (None, vec![Report::notice(told)])
            }
            Some(Err(error)) => return Err(error),
        };
        self.put_in_force(process, new, &plan, tls)?;
        Ok(told)
    }

    /// `tls`: `None` leaves TLS as it is.
    fn put_in_force(
        &self,
        process: &Process,
        new: Config,
        plan: &ReloadPlan,
        tls: Option<Tls>,
    ) -> Result<(), String> {
        // What may fail comes before anything changes.
        self.log.reload(&new.settings).map_err(|error| error.to_string())?;
        if let Some(tls) = tls {
            tls.notes().for_each(|note| tracing::warn!("{note}"));
            process.tls.store(Arc::new(tls));
        }
        let dialer = &process.connector.dialer;
        dialer.set_options(TcpOptions::of(&new.settings));
        dialer.names().set_times(NameTimes::of(&new.settings));
        process.cancels.set_peer(new.settings.peer());
        process.staffing.keep(new.settings.workers_min);
        descriptors::follow(&process.config.load(), &new);
        let old = process.config.swap(Arc::new(new));
        process.peers.reload(&old);
        process.secrets.clear();
        process.origins.forget(&plan.secrets);
        process.pools.reload(plan);
        Ok(())
    }
}

/// Logs all that is wrong with a file, for a message that names the first.
fn refused(findings: &[Diagnostic]) -> String {
    super::log_findings(findings);
    let mistakes: Vec<_> = findings.iter().filter(|it| it.level == Level::Error).collect();
    match mistakes.as_slice() {
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first} (and {} more, see the log)", more.len()),
        [] => "unknown".to_owned(),
    }
}

/// What a file that could not be read means: a RELOAD that kept what it said must not look as if it had read it.
fn effect(setting: &str, why: &Unread, old: &Config) -> &'static str {
    match (setting, why, &old.access) {
        ("auth_file", ..) => "the known users stay",
        ("auth_ident_file", Unread::Missing, _) | ("auth_ident_file", _, None) => {
            "rules with map= are left out"
        }
        (_, _, Some(_)) => "the known rules stay",
        (_, _, None) => "there are no rules, so that nobody can log in",
    }
}

fn set_up_tls(config: &Config) -> Result<Tls, String> {
    Tls::of(&config.settings).map_err(|error| {
        tracing::error!("TLS setup failed: {error}");
        error.to_string()
    })
}
