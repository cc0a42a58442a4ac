//! The protocol state of one server connection: it travels with the connection from client to client.

use std::sync::Arc;

use super::owed::Queue;
use super::params::{Parameters, Role, Values};
use super::residue::Residue;
use super::verdict::{CloseReason, Done, Verdict};
use crate::prepared::Shelf;
use crate::wire::TxStatus;

/// Where a COPY FROM STDIN, or the streaming of replication, stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum CopyIn {
    /// None is under way.
    #[default]
    No,
    /// The server takes data.
    Receiving,
    /// The client has ended its data; the server has not answered yet.
    Ended,
    /// Both sides send data: START_REPLICATION. Either may end its own first, and the command ends after both.
    Both,
}

/// Whom a server serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Serves {
    /// One client after the other.
    #[default]
    Everybody,
    /// The one client for which it was opened.
    OneClient,
}

/// All that must be known of a server to say what its next message means and whether it may be given back.
#[derive(Debug, Default)]
pub struct Server {
    /// Its settings.
    pub parameters: Parameters,
    /// What it reported when it was opened: what RESET brings it back to.
    pub(super) defaults: Arc<Values>,
    /// The statements it has prepared.
    pub shelf: Shelf,
    pub(super) status: TxStatus,
    pub(super) queue: Queue,
    pub(super) copy_in: CopyIn,
    /// It skips everything up to the next Sync.
    pub(super) skipping: bool,
    /// Messages of the extended protocol went out since the last Sync.
    pub(super) batch_open: bool,
    /// It is not known yet whether COPY mode ignores a Sync that is on its way.
    pub(super) unsure_sync: bool,
    /// What must be cleaned before another client may have it.
    pub(super) residue: Residue,
    /// What the statement that has just been executed does away with, unless it is undone.
    pub(super) cleared: Residue,
    /// Statements executed since the last ReadyForQuery.
    pub(super) completed: u32,
    /// Some statement's text was not seen whole, so that command tags tell what it left.
    pub(super) tags_decide: bool,
    /// Its only statement of a name not the pooler's was made for a DEALLOCATE that is under way.
    pub(super) lent_name: bool,
    pub(super) condemned: Option<CloseReason>,
    /// It has said 25006, which a standby says to whoever wants to write.
    pub(super) read_only: bool,
    pub(super) serves: Serves,
}

impl Server {
    /// A server that has just sent its first ReadyForQuery, with the settings it reported.
    pub fn new(reported: Arc<Values>) -> Self {
        let defaults = Arc::clone(&reported);
        let parameters = Parameters { reported, extra: Values::none() };
        Self { parameters, defaults, ..Self::default() }
    }

    /// What it reported when it was opened.
    pub fn defaults(&self) -> Arc<Values> {
        Arc::clone(&self.defaults)
    }

    /// Of a server that has just been opened: shares a set of settings that equals what it has reported.
    pub fn share_defaults(&mut self, same: Arc<Values>) {
        self.parameters.reported = Arc::clone(&same);
        self.defaults = same;
    }

    /// The same of a server that was opened for one client and is closed after it: a replication connection.
    pub fn for_one_client(reported: Arc<Values>) -> Self {
        Self { serves: Serves::OneClient, condemned: Some(CloseReason::OwnerLeft), ..Self::new(reported) }
    }

    /// Whether it was opened for one client alone.
    pub(super) fn is_own(&self) -> bool {
        self.serves == Serves::OneClient
    }

    /// A ParameterStatus came while no client had it.
    pub fn on_parameter_status(&mut self, name: &str, value: &str) {
        self.parameters.on_status(name, value, None);
    }

    /// A query of the pooler's own has done away with what was left: [`Residue::cleaning`], or `server_reset_query`
    /// if `all`, which is taken to be DISCARD ALL.
    pub fn on_cleaned(&mut self, all: bool) {
        if all || self.residue.contains(Residue::PREPARED) {
            self.shelf.clear();
        }
        // RESET ALL leaves the role alone, and RESET ROLE all else.
        let gone = |name: &str| {
            all || self.residue.contains(if is_role(name) { Residue::ROLE } else { Residue::SETTING })
        };
        self.parameters.forget(gone);
        self.residue = Residue::NONE;
    }

    /// What its settings of a start-up message are, that it does not report.
    pub fn extras(&self) -> Residue {
        let kind = |(name, _): (&str, &str)| if is_role(name) { Residue::ROLE } else { Residue::SETTING };
        self.parameters.extra.iter().map(kind).fold(Residue::NONE, Residue::union)
    }

    /// A query of the pooler's own has reset them.
    pub fn on_extras_reset(&mut self) {
        self.parameters.forget(|_| true);
    }

    /// It may have lost its prepared statements.
    pub fn doubt_statements(&mut self) {
        self.shelf.mark_all_stale();
    }

    /// The client has set or reset something. It may be what its start-up message set as well, and that is now the
    /// server's own default: nobody knows before it is cleaned.
    pub(super) fn on_setting(&mut self) {
        if !self.parameters.extra.is_empty() {
            self.residue |= Residue::SETTING;
        }
        if self.parameters.extra.iter().any(|(name, _)| is_role(name)) {
            self.residue |= Residue::ROLE;
        }
    }

    /// Whether it is a standby and somebody wanted to write. A client that has made its own transaction read-only on a
    /// primary is told the same, which says nothing of the server.
    pub fn refused_write(&self) -> bool {
        self.read_only && self.parameters.reported.role() == Role::Standby
    }

    /// What must be cleaned before another client may have it.
    pub fn residue(&self) -> Residue {
        self.residue
    }

    /// True when it is in no transaction, owes nothing, and no pipeline or COPY is open.
    pub(super) fn is_done(&self) -> bool {
        self.status == TxStatus::Idle
            && self.queue.is_empty()
            && !self.batch_open
            && !self.skipping
            && self.copy_in == CopyIn::No
    }

    /// The proof that it is done, if it is.
    pub fn proof(&self) -> Option<Done> {
        self.is_done().then(Done::witnessed)
    }

    /// What is to become of it now that it is done.
    pub(super) fn verdict(&self) -> Verdict {
        debug_assert!(self.is_done(), "only a server that is done has a verdict");
        match self.condemned {
            Some(reason) => Verdict::Close(reason),
            None if self.residue.needs_close() => Verdict::Close(CloseReason::Uncertain),
            None if self.residue.is_empty() => Verdict::Reuse(Done::witnessed()),
            None => Verdict::Clean(Done::witnessed(), self.residue),
        }
    }
}

fn is_role(setting: &str) -> bool {
    ["role", "session_authorization"].iter().any(|it| it.eq_ignore_ascii_case(setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_forgets_the_settings_that_it_reset_and_no_others() {
        for (residue, all, left) in [
            (Residue::ROLE, false, vec!["work_mem"]),
            (Residue::SETTING, false, vec!["role"]),
            (Residue::TEMPORARY, false, vec!["role", "work_mem"]),
            (Residue::NONE, true, vec![]),
        ] {
            let mut server = Server { residue, ..Server::default() };
            server.parameters.extra = Arc::new([("work_mem", "1MB"), ("role", "x")].into_iter().collect());
            server.on_cleaned(all);
            assert_eq!(server.parameters.extra.iter().map(|it| it.0).collect::<Vec<_>>(), left, "{residue}");
        }
    }
}
