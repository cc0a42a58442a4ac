//! `-R`: one process follows another.
//!
//! Owns the order of it. The old process stands still; all that it has is received and understood; only then is it told
//! to end, and from then on everything is ours. Whatever fails before leaves it serving.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Failure;
use super::adopt::{self, Adoption};
use super::pidfile::PidFile;
use super::process::Process;
use crate::config::Config;
use crate::handover::{Inherited, OldProcess, Program, Row, TakeOverError, socket_of};

/// How long the old process may take to remove its pid file, once its console is gone.
const PIDFILE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for.
const PIDFILE_LOOK_PERIOD: Duration = Duration::from_millis(10);

/// The process before this one: suspended, and ready to end.
pub struct Predecessor {
    old: OldProcess,
    rows: Vec<Row>,
}

impl From<TakeOverError> for Failure {
    fn from(error: TakeOverError) -> Self {
        Self::of("takeover failed", error)
    }
}

impl Predecessor {
    /// Has it stand still and receives all that it has. `None`: there is none.
    ///
    /// Errors: it refuses, or this process may not follow another.
    pub fn suspend(config: &Config, inherited: &Inherited) -> Result<Option<Self>, Failure> {
        if !inherited.clients.is_empty() {
            return Err(Failure("cannot reboot under service manager".to_owned()));
        }
        let socket = socket_of(&config.settings)?;
        let Some(mut old) = OldProcess::suspend(&socket, config.settings.suspend_timeout)? else {
            tracing::info!("old process not found, try to continue normally");
            return Ok(None);
        };
        if old.program == Program::PgBouncer {
            return Err(Failure("takeover failed: the old process is PgBouncer, not pgweir".to_owned()));
        }
        let rows = old.rows()?;
        Ok(Some(Self { old, rows }))
    }

    /// Understands what it has, and follows it.
    ///
    /// Errors: something cannot be understood, or it does not end.
    pub fn follow(self, process: &Process) -> Result<Adoption, Failure> {
        let adoption = adopt::read(process, self.rows).map_err(|it| Failure::of("takeover failed", it))?;
        self.old.shut_down()?;
        if let Some(path) = process.config.load().settings.pidfile.as_deref() {
            wait_until_gone(path);
        }
        tracing::info!("old process is gone, going on with {}", adoption.summary());
        Ok(adoption)
    }
}

/// Whoever claims the file next finds out if it stays.
fn wait_until_gone(path: &Path) {
    let deadline = Instant::now() + PIDFILE_WAIT_MAX;
    while path.exists() && Instant::now() < deadline {
        std::thread::sleep(PIDFILE_LOOK_PERIOD);
    }
}

/// Ends a process whose sockets another one has. Nothing is closed in order, because closing a connection in order
/// means to say goodbye on it.
pub fn end_without_goodbye(pidfile: Option<PidFile>) -> ! {
    drop(pidfile);
    std::process::exit(0)
}
