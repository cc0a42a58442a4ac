//! Kinds of connections, and their names in start-up messages, SHOW and the log.

/// Whether a connection is a replication one, by its start-up parameter `replication`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replication {
    /// An ordinary connection.
    #[default]
    None,
    /// `replication=database`.
    Logical,
    /// `replication=true`.
    Physical,
}

impl Replication {
    /// As in SHOW.
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Logical => "logical",
            Self::Physical => "physical",
        }
    }

    /// As the value of the start-up parameter, and in the log; `no` for an ordinary connection.
    pub fn startup_value(self) -> &'static str {
        match self {
            Self::None => "no",
            Self::Logical => "database",
            Self::Physical => "yes",
        }
    }
}
