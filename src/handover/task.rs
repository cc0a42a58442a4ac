//! What a row of SHOW FDS or SHOW HANDOVER is about.

/// The words of the column `task`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// A listening socket.
    Pooler,
    /// A client.
    Client,
    /// A server, in use or idle.
    Server,
    /// pgweir's own: the layout of the states that follow.
    Layout,
    /// pgweir's own: a statement that clients and servers have prepared.
    Statement,
    /// pgweir's own: what the servers of a pool report at first.
    Welcome,
}

impl Task {
    const ALL: [Self; 6] =
        [Self::Pooler, Self::Client, Self::Server, Self::Layout, Self::Statement, Self::Welcome];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pooler => "pooler",
            Self::Client => "client",
            Self::Server => "server",
            Self::Layout => "layout",
            Self::Statement => "statement",
            Self::Welcome => "welcome",
        }
    }

    /// The one with that word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }
}
