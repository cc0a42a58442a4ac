//! The driver's part in partings: clients that are sent away, that leave or that are gone, and whose limits are over.
//!
//! Invariant: a client is told why it is sent away before its connection closes, as far as it reads; what a client has
//! left running is cancelled.

use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::{Driver, Ended, Flush};
use crate::cancel;
use crate::client::patience::{self, Situation, TimeLimit};
use crate::config::PoolMode;
use crate::pool::Cancel;
use crate::session::relay::Closing;
use crate::session::verdict::CloseReason;
use crate::stats::Replication;
use crate::wire::Report;

/// How long a client that was told to go may take to read what it was told.
const LINGER: Duration = Duration::from_secs(5);
/// How long the server of a client that is gone may take to come to rest, once what ran there has been cancelled.
const COME_TO_REST: Duration = Duration::from_secs(5);

impl Driver {
    /// `server_fast_close`: a client that has an obsolete server for its whole session must not keep it. One that
    /// replicates must not in any case: it might never end.
    pub(super) fn give_up_obsolete(&mut self) -> bool {
        let obsolete = self.lease.as_ref().is_some_and(|lease| lease.is_obsolete());
        let gives_up = obsolete
            && match self.replication() {
                Replication::Logical | Replication::Physical => true,
                Replication::None => {
                    !self.relay.is_busy()
                        && self.mode() == PoolMode::Session
                        && self.worker.config.load().settings.server_fast_close
                }
            };
        if !gives_up || self.is_given_away() {
            return false;
        }
        self.send_away(patience::obsolete(self.compatibility), CloseReason::Obsolete);
        true
    }

    /// Whether another process has its sockets: then nothing may be said there any more, not even a good-bye.
    pub(super) fn is_given_away(&self) -> bool {
        self.worker.exports.is_given(self.claim.caller().id())
    }

    pub(super) fn send_away(&mut self, report: Report, reason: CloseReason) {
        self.claim.leave();
        if self.relay.is_busy() && !self.relay.is_streaming() {
            // The server would go on with it until it had something to say.
            self.cancel_what_runs();
        }
        self.event(|relay, turn| relay.end(report, reason, turn));
        // Whoever has said Terminate is told nothing, and may never read what it is still owed.
        self.give_up.get_or_insert_with(|| Instant::now() + LINGER);
    }

    /// The client is gone. What it left running is cancelled, and its server brought to rest.
    pub(super) fn vanished(&mut self) {
        self.end(Ended::Vanished);
        self.part();
    }

    pub(super) fn part(&mut self) {
        if self.client.take().is_none() {
            return;
        }
        self.claim.leave();
        let vanished = self.ended.as_deref() == Some(&Ended::Vanished);
        if (vanished || self.relay.owes_client()) && self.relay.is_busy() && !self.relay.is_streaming() {
            self.cancel_what_runs();
        }
        self.give_up = Some(Instant::now() + COME_TO_REST);
        self.event(|relay, turn| relay.on_client_gone(turn));
    }

    /// Cancels what the client has left running, beside everything else.
    fn cancel_what_runs(&self) {
        let Cancel::Send(hold) = self.claim.caller().cancel() else { return };
        let caller = Arc::clone(self.claim.caller());
        let (connector, roster) = (Arc::clone(&self.worker.connector), Arc::clone(&self.worker.roster));
        let worker = self.worker.id;
        tokio::task::spawn_local(async move {
            let (connector, roster) = (&*connector, &roster);
            let means = cancel::Means { connector, roster, worker, limit: COME_TO_REST };
            cancel::send(&caller, hold, None, means).await
        });
    }

    /// Whether a limit is over; then acts on it.
    pub(super) fn mind_limits(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(when) = self.give_up {
            if self.alarm.poll(cx, Some(when)).is_pending() {
                return false;
            }
            self.client = None;
            self.event(|relay, _| relay.abandon());
            return true;
        }
        let situation = Situation {
            activity: self.relay.activity(),
            waiting_since: self.waiting_since,
            noticed: self.noticed,
            transaction_since: self.relay.transaction_since(),
        };
        let Some((when, limit)) = patience::next(&self.limits, &situation) else { return false };
        if self.alarm.poll(cx, Some(when)).is_pending() {
            return false;
        }
        if limit == TimeLimit::WaitNotice {
            self.noticed = self.event(|relay, turn| relay.notify(&patience::wait_notice(), turn));
            return true;
        }
        let queue = self.claim.queue_view(Instant::now());
        if matches!(limit, TimeLimit::Wait | TimeLimit::QueryWaiting) {
            self.pool.stats().cell(self.worker.id).wait_timeout();
        }
        let report = patience::over(limit, queue.as_ref(), self.compatibility);
        self.send_away(report, CloseReason::Timeout);
        true
    }

    /// Whether the client's connection may be closed without losing what it is to be told.
    fn is_all_sent(&self, cx: &mut Context<'_>) -> bool {
        let handed_over = self.relay.to_client().ready() == 0 && self.client_flush == Flush::Done;
        handed_over && self.client.as_ref().is_none_or(|client| client.poll_sent(cx).is_ready())
    }

    /// True when nothing is left to do. Turns an ending conversation towards its end.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        match self.relay.closing() {
            None => return false,
            // It goes, but what it asked before is answered first, as PostgreSQL does.
            Some(Closing::Terminated) => {
                if !self.relay.owes_client() && self.is_all_sent(cx) {
                    self.part();
                }
            }
            Some(Closing::Told(_)) => {
                self.give_up.get_or_insert_with(|| Instant::now() + LINGER);
                if self.is_all_sent(cx) {
                    self.client = None;
                }
            }
        }
        self.client.is_none() && !self.relay.has_server()
    }
}
