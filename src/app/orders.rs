//! Carries out what the console and signals ask for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::process::{Phase, Process};
use super::reload::Reloader;
use crate::admin::{Answer, Order, Refusal, Request, Shutdown};
use crate::ids::DatabaseName;
use crate::pool::OrderError;

/// How long clients that do not come to rest may take to be told so.
const SUSPEND_FAREWELL: Duration = Duration::from_secs(1);

/// Takes orders for as long as the process runs. Orders that must wait for something wait beside the others.
pub async fn run(
    process: Arc<Process>,
    reloader: Arc<Reloader>,
    mut orders: mpsc::UnboundedReceiver<Request>,
) {
    while let Some(Request { order, mut reply }) = orders.recv().await {
        let (process, reloader) = (Arc::clone(&process), Arc::clone(&reloader));
        tokio::task::spawn_local(async move {
            let answer = tokio::select! {
                // In this order, so that what takes no time is done even for a client that leaves at once.
                biased;
                answer = carry_out(&process, &reloader, order) => answer,
                // The client has cancelled or left: nobody waits for the answer any more.
                () = reply.closed() => return,
            };
            // It fails only where nobody waits any more.
            let _ = reply.send(answer);
        });
    }
}

async fn carry_out(process: &Process, reloader: &Reloader, order: Order) -> Answer {
    let pools = &process.pools;
    match order {
        Order::Reload => return reloader.reload(process).map_err(|why| Refusal::ReloadFailed { why }),
        Order::Set { name, value } => {
            return reloader.set(process, &name, &value).map_err(|why| Refusal::SetFailed { why });
        }
        Order::Pause(database) => {
            known(process, database.as_ref())?;
            pause(process, database).await?;
        }
        Order::Suspend => {
            if pools.any_paused() {
                return Err(Refusal::PausedDatabases);
            }
            suspend(process).await?;
        }
        Order::Resume(database) => resume(process, database)?,
        Order::Disable(database) => {
            known(process, Some(&database))?;
            pools.disable(&database);
        }
        Order::Enable(database) => {
            known(process, Some(&database))?;
            pools.enable(&database);
        }
        Order::Reconnect(database) => {
            known(process, database.as_ref())?;
            pools.reconnect(database.as_ref());
        }
        Order::Kill(database) => {
            known(process, database.as_ref())?;
            if pools.suspension().is_on() {
                return Err(Refusal::AlreadyPaused);
            }
            pools.kill(database.as_ref()).map_err(|_| Refusal::AlreadyPaused)?;
        }
        Order::WaitClose(database) => {
            known(process, database.as_ref())?;
            pools.closed(database.as_ref()).await;
        }
        Order::Shutdown(how) => shut_down(process, how),
    }
    Ok(Vec::new())
}

fn known(process: &Process, database: Option<&DatabaseName>) -> Result<(), Refusal> {
    let Some(name) = database else { return Ok(()) };
    let config = process.config.load();
    let in_use = || process.pools.databases().iter().any(|it| it.name == *name);
    // The entry `*` stands for every name.
    if config.database(name).is_some() || in_use() {
        return Ok(());
    }
    Err(Refusal::NoSuchDatabase(name.clone()))
}

async fn pause(process: &Process, database: Option<DatabaseName>) -> Result<(), Refusal> {
    if process.is_ending() {
        return Err(Refusal::ShuttingDown);
    }
    if process.pools.suspension().is_on() {
        return Err(Refusal::AlreadyPaused);
    }
    process.pools.pause(database.as_ref()).map_err(|_| Refusal::AlreadyPaused)?;
    process.pools.idle(database.as_ref()).await;
    Ok(())
}

/// Stops taking from sockets, and waits until every conversation stands still: `suspend_timeout` at most, then those
/// that do not are ended.
async fn suspend(process: &Process) -> Result<(), Refusal> {
    if process.is_ending() {
        return Err(Refusal::ShuttingDown);
    }
    let suspension = process.pools.suspension();
    if suspension.is_on() || process.pools.is_paused(None) {
        return Err(Refusal::AlreadyPaused);
    }
    suspension.begin();
    wake_all(process);
    let limit = process.config.load().settings.suspend_timeout;
    if limit.is_zero() {
        suspension.settled().await;
    } else if timeout(limit, suspension.settled()).await.is_err() {
        suspension.insist();
        wake_all(process);
        // Whoever cannot even be told is not waited for.
        let _ = timeout(SUSPEND_FAREWELL, suspension.settled()).await;
    }
    Ok(())
}

fn wake_all(process: &Process) {
    process.roster.clients().iter().for_each(|client| client.nudge());
}

/// RESUME after SUSPEND. Returns whether all was suspended.
pub fn resume_suspended(process: &Process) -> bool {
    if process.exports.has_given() {
        tracing::warn!("another process is taking over, no RESUME before it gives up");
        return false;
    }
    let was_suspended = process.pools.suspension().end();
    wake_all(process);
    was_suspended
}

fn resume(process: &Process, database: Option<DatabaseName>) -> Result<(), Refusal> {
    if process.is_ending() {
        return Err(Refusal::ShuttingDown);
    }
    match &database {
        Some(name) => known(process, Some(name))?,
        None if resume_suspended(process) => return Ok(()),
        None => {}
    }
    process.pools.resume(database.as_ref()).map_err(|error| match (error, database) {
        (OrderError::NotPaused, Some(name)) => Refusal::NotPaused(name),
        (OrderError::NotPaused, None) => Refusal::PoolerNotPaused,
        (OrderError::AlreadyPaused, _) => Refusal::AlreadyPaused,
    })
}

/// Begins to end the process. A phase never goes back.
pub fn shut_down(process: &Process, how: Shutdown) {
    process.notifier.stopping();
    // Nobody is to hold the listening sockets open.
    process.doors.lock().clear();
    let next = match how {
        Shutdown::Immediate => Phase::Stopped,
        Shutdown::WaitForServers => Phase::WaitingForServers,
        Shutdown::WaitForClients => Phase::WaitingForClients,
    };
    process.phase.send_if_modified(|phase| {
        let moves = next > *phase;
        *phase = next.max(*phase);
        moves
    });
    if next == Phase::WaitingForServers {
        process.pools.drain();
    }
}
