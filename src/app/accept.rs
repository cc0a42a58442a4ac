//! Accepts clients and spreads them over the workers, until the process is to end.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::process::{Phase, Process};
use super::workers::{Crew, Open};
use super::{DRAIN_LOOK_PERIOD, descriptors};
use crate::net::TcpOptions;
use crate::net::listen::{Listener, Place};
use crate::stats::Disconnect;

/// How long to wait where no file descriptor is left for another client.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);

/// How often the log has it that clients can't be accepted.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// How long clients that are sent away at the end may take to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until the process has ended.
pub async fn until_ended(process: &Process, doors: Vec<Open>) {
    ended(process).await;
    process.phase.send_replace(Phase::Stopped);
    for door in doors {
        // It is never sent anything; it ends.
        let _ = door.await;
    }
}

/// Accepts on one socket, until it is to be closed. TCP sockets close as soon as the process begins to end; unix
/// sockets stay open for the console, as PgBouncer's.
pub async fn until_closed(crew: &Crew, listener: Listener) {
    let process = crew.process();
    let mut phase = process.phase.subscribe();
    let is_tcp = matches!(listener.place(), Place::Tcp(_));
    let until = if is_tcp { Phase::WaitingForClients } else { Phase::Stopped };
    tokio::select! {
        () = accept(crew, &listener) => {}
        _ = phase.wait_for(|it| *it >= until) => {}
    }
    if !process.exports.has_given() {
        listener.remove();
    }
}

async fn accept(crew: &Crew, listener: &Listener) {
    let suspension = crew.process().pools.suspension();
    let mut told: Option<Instant> = None;
    loop {
        suspension.over().await;
        tokio::select! {
            biased;
            // Who connects now waits in the system's queue, for this process or the next.
            () = suspension.begun() => {}
            error = accept_all(crew, listener) => {
                if told.is_none_or(|it| it.elapsed() >= COMPLAINT_PERIOD) {
                    told = Some(Instant::now());
                    if descriptors::were_lacking(&error) {
                        tracing::warn!("cannot accept a client: {error}: {}", descriptors::ADVICE);
                    } else {
                        tracing::warn!("cannot accept a client: {error}");
                    }
                }
                tokio::time::sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
            }
        }
    }
}

/// Accepts one client after the other, as long as that goes well and nothing is suspended.
async fn accept_all(crew: &Crew, listener: &Listener) -> io::Error {
    let suspension = crew.process().pools.suspension();
    loop {
        let options = TcpOptions::of(&crew.process().config.load().settings);
        let mut accepting = pin!(listener.accept(&options));
        // Who is accepted takes part at once: SUSPEND waits for its login, which a next process would know nothing of.
        let accepted = poll_fn(|cx| match suspension.try_join() {
            None => Poll::Pending,
            Some(participant) => accepting.as_mut().poll(cx).map_ok(|accepted| (accepted, participant)),
        });
        match accepted.await {
            Ok((accepted, participant)) => crew.receive(accepted, participant),
            Err(error) => return error,
        }
    }
}

/// Whether `shutdown_timeout` is over.
fn is_overdue(process: &Process, ending_since: Instant) -> bool {
    let limit = process.config.load().settings.shutdown_timeout;
    !limit.is_zero() && ending_since.elapsed() >= limit
}

/// Tells those who are still here that it ends, and waits for them to have heard it.
async fn send_all_away(process: &Process) {
    tracing::warn!("shutdown_timeout is over, {} clients are sent away", process.roster.client_count());
    process.roster.disconnect_all(Disconnect::Shutdown);
    let until = Instant::now() + FAREWELL;
    while process.roster.client_count() > 0 && Instant::now() < until {
        tokio::time::sleep(DRAIN_LOOK_PERIOD).await;
    }
}

/// Ready when nothing keeps the process alive any more.
async fn ended(process: &Process) {
    let mut phase = process.phase.subscribe();
    let mut ending_since = None;
    loop {
        let now = *phase.borrow_and_update();
        if now != Phase::Running && is_overdue(process, *ending_since.get_or_insert_with(Instant::now)) {
            return send_all_away(process).await;
        }
        let over = match now {
            Phase::Running => false,
            Phase::WaitingForClients => process.roster.client_count() == 0,
            Phase::WaitingForServers => !process.pools.is_busy(None) && !process.pools.has_waiters(),
            Phase::Stopped => true,
        };
        if over {
            return;
        }
        if now == Phase::Running {
            // It fails only when the process is gone.
            let _ = phase.changed().await;
        } else {
            let _ = tokio::time::timeout(DRAIN_LOOK_PERIOD, phase.changed()).await;
        }
    }
}
