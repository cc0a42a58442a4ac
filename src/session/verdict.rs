//! What is to become of a server that a client has done with.

use super::residue::Residue;

/// Proof that a server is idle in no transaction and owes nothing. Only the relay makes one.
#[derive(Debug)]
#[must_use = "a server without a verdict is closed"]
pub struct Done(());

impl Done {
    pub(super) fn witnessed() -> Self {
        Self(())
    }

    /// For tests of pools, which have no relay.
    #[cfg(test)]
    pub(crate) fn assumed() -> Self {
        Self(())
    }
}

/// What is to become of a server.
#[derive(Debug)]
#[must_use = "a server without a verdict is closed"]
pub enum Verdict {
    /// It is clean: the next client may have it as it is.
    Reuse(Done),
    /// It is idle, but this was left behind on it: clean it first.
    Clean(Done, Residue),
    /// No other client may have it.
    Close(CloseReason),
}

/// Why a server is closed rather than given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// It closed the connection itself.
    ServerGone,
    /// It sent what no server may send, or something out of order.
    ProtocolViolation,
    /// Its client left in the middle of a query or transaction.
    ClientLeft,
    /// Its client was told to go.
    ClientSentAway,
    /// It was its client's own, a replication connection, and served nobody else.
    OwnerLeft,
    /// How many answers it still owes can't be told.
    Uncertain,
    /// The settings that its client wants were refused.
    ParametersRefused,
    /// A transaction block was opened in statement mode.
    TransactionBlock,
    /// A time limit was exceeded on it.
    Timeout,
    /// RECONNECT or another configuration, and its client is not waited for: `server_fast_close`.
    Obsolete,
}

impl CloseReason {
    /// PgBouncer's words for it, as its log has them after `closing because:`.
    pub fn text(self) -> &'static str {
        match self {
            Self::ServerGone => "server conn crashed?",
            Self::ProtocolViolation => "bad packet from server",
            Self::ClientLeft => "client disconnect while server was not ready",
            Self::ClientSentAway => "client was sent away",
            Self::OwnerLeft => "replication client was closed",
            Self::Uncertain => "outstanding replies unknown",
            Self::ParametersRefused => "invalid server parameter",
            Self::TransactionBlock => "transaction blocks not allowed in statement pooling mode",
            Self::Timeout => "query timeout",
            Self::Obsolete => "database configuration changed",
        }
    }
}
