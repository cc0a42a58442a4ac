//! A client that is gone while its server still works: the server is brought to rest, its answers go nowhere.

use super::{Closing, Phase, Relay, Turn};
use crate::session::owed::{Fate, Reply};
use crate::session::server::CopyIn;
use crate::session::verdict::{CloseReason, Verdict};
use crate::wire::frontend::tag;
use crate::wire::{TxStatus, encode};

/// Whether there is still somebody to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// The client is there.
    Here,
    /// It is gone; what runs is brought to its end.
    Gone,
    /// It is gone, and the pooler's own ROLLBACK is under way.
    RollingBack,
}

impl Relay {
    /// The client is gone, or has said Terminate. A server on loan is brought to rest: keep driving the relay until
    /// [`Relay::has_server`] is false, for a limited time, and then give up with [`Relay::abandon`].
    pub fn on_client_gone(&mut self, turn: &mut Turn<'_>) {
        if self.presence != Presence::Here {
            return;
        }
        self.presence = Presence::Gone;
        self.wants_server = false;
        self.closing.get_or_insert_with(|| Box::new(Closing::Terminated));
        self.down_rest.pass = false;
        self.down.forget_ready();
        let half_sent = self.up_rest.bytes > 0 && self.up_rest.pass;
        let is_own = self.server.as_ref().is_some_and(|it| it.is_own());
        if half_sent || is_own {
            // The server waits for bytes that will never come, or nobody else will have it.
            return self.abandon();
        }
        self.up.unmark();
        self.up.discard_undecided();
        self.up_rest = super::Rest::default();
        let Some(server) = &mut self.server else { return };
        server.queue.swallow_all();
        self.advance(turn);
    }

    /// A server on loan is closed, whatever it is doing.
    pub fn abandon(&mut self) {
        if let Some(server) = self.server.take() {
            let reason = if server.is_own() { CloseReason::OwnerLeft } else { CloseReason::ClientLeft };
            self.released = Some((server, Verdict::Close(reason)));
        }
    }

    /// Takes the next step to bring the server of a client that is gone to rest. One that has said Terminate will
    /// not end what it began either, but it is still answered.
    pub(super) fn finish_leaving(&mut self, turn: &mut Turn<'_>) {
        let is_gone = self.presence != Presence::Here;
        if !is_gone && !matches!(self.closing.as_deref(), Some(Closing::Terminated)) {
            return;
        }
        if is_gone && self.phase == Phase::Healing {
            self.phase = Phase::Open;
        }
        let Some(server) = &mut self.server else { return };
        if server.copy_in == CopyIn::Receiving {
            // It may have begun only after the client was gone, and then it has read a Sync that came before it.
            server.copy_in = CopyIn::Ended;
            server.batch_open |= server.queue.front().is_some_and(|it| it.reply == Reply::Execute);
            server.queue.push(Reply::CopyEnd, Fate::Swallow);
            self.up.insert(turn.spare, |out| {
                encode::message(out, tag::COPY_FAIL, |out| encode::c_str(out, b"client is gone"));
            });
        }
        if server.batch_open || server.skipping {
            // Without a Sync the server may keep its answers to itself.
            server.batch_open = false;
            server.skipping = false;
            server.queue.push(Reply::Sync, Fate::Swallow);
            self.up.insert(turn.spare, |out| out.extend_from_slice(encode::SYNC));
        }
        if server.queue.is_empty() && server.status != TxStatus::Idle && self.presence == Presence::Gone {
            self.presence = Presence::RollingBack;
            server.queue.push(Reply::Query, Fate::Swallow);
            self.up.insert(turn.spare, |out| encode::query(out, "ROLLBACK"));
        }
    }
}
