//! Carries out what the console and signals ask for.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::process::{Phase, Process};
use super::reload::Reloader;
use crate::admin::{Answer, Order, Refusal, Request, Shutdown};
use crate::ids::DatabaseName;
use crate::pool::OrderError;

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
        Order::Reload => reloader.reload(process).map_err(|why| Refusal::ReloadFailed { why })?,
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
            pause(process, None).await?;
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
    if config.databases.contains_key(name) || in_use() {
        return Ok(());
    }
    Err(Refusal::NoSuchDatabase(name.clone()))
}

async fn pause(process: &Process, database: Option<DatabaseName>) -> Result<(), Refusal> {
    if process.is_ending() {
        return Err(Refusal::ShuttingDown);
    }
    process.pools.pause(database.as_ref()).map_err(|_| Refusal::AlreadyPaused)?;
    process.pools.idle(database.as_ref()).await;
    Ok(())
}

fn resume(process: &Process, database: Option<DatabaseName>) -> Result<(), Refusal> {
    if process.is_ending() {
        return Err(Refusal::ShuttingDown);
    }
    if let Some(name) = &database {
        known(process, Some(name))?;
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
