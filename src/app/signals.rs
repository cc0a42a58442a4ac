//! What the process does when it is signalled: as PgBouncer, `src/main.c` and doc/usage.md there.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::orders::{resume_suspended, shut_down};
use super::process::{Phase, Process};
use super::reload::Reloader;
use crate::admin::Shutdown;

/// The signals that mean something here.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// Errors: the system refuses.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Acts on each for as long as the process runs.
    pub async fn run(mut self, process: Arc<Process>, reloader: Arc<Reloader>) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    tracing::info!("got SIGHUP, re-reading config");
                    // What was wrong is in the log.
                    let _ = reloader.reload(&process);
                }
                _ = self.terminate.recv() => end(&process, "SIGTERM", Shutdown::WaitForClients),
                _ = self.interrupt.recv() => end(&process, "SIGINT", Shutdown::WaitForServers),
                _ = self.quit.recv() => {
                    tracing::info!("got SIGQUIT, fast exit");
                    shut_down(&process, Shutdown::Immediate);
                }
                _ = self.user1.recv() => pause(&process),
                _ = self.user2.recv() => resume(&process),
            }
        }
    }
}

/// The first SIGTERM or SIGINT waits, the second does not.
fn end(process: &Process, name: &str, how: Shutdown) {
    if process.is_ending() {
        tracing::info!("got {name} while shutting down, fast exit");
        return shut_down(process, Shutdown::Immediate);
    }
    if process.pools.suspension().is_on() {
        tracing::error!(fatal = true, "suspend was in progress, going down immediately");
        return shut_down(process, Shutdown::Immediate);
    }
    let waits_for =
        if how == Shutdown::WaitForClients { "clients to disconnect" } else { "servers to be released" };
    tracing::info!("got {name}, shutting down, waiting for all {waits_for}");
    shut_down(process, how);
}

fn pause(process: &Process) {
    if *process.phase.borrow() > Phase::Running {
        return tracing::info!("got SIGUSR1 while shutting down, ignoring");
    }
    let pools = &process.pools;
    if pools.suspension().is_on() || pools.pause(None).is_err() {
        return tracing::info!("got SIGUSR1, but already paused/suspended");
    }
    tracing::info!("got SIGUSR1, pausing all activity");
}

fn resume(process: &Process) {
    if *process.phase.borrow() > Phase::Running {
        return tracing::info!("got SIGUSR2 while shutting down, ignoring");
    }
    if resume_suspended(process) {
        return tracing::info!("got SIGUSR2, continuing from SUSPEND");
    }
    match process.pools.resume(None) {
        Ok(()) => tracing::info!("got SIGUSR2, continuing from PAUSE"),
        Err(_) => tracing::info!("got SIGUSR2, but not paused/suspended"),
    }
}
