//! Bytes and messages of the PostgreSQL protocol, versions 3.0 and 3.2.
//!
//! Owns headers, start-up packets, the messages that a pooler reads or writes itself, and SQLSTATEs. It performs no
//! input or output, keeps no conversation state, and never panics whatever the bytes are.

pub mod backend;
pub mod encode;
pub mod frame;
pub mod frontend;
pub mod limits;
mod report;
pub mod sqlstate;
pub mod startup;

pub use backend::Backend;
pub use frame::Header;
pub use report::{Report, Severity};
pub use sqlstate::SqlState;
pub use startup::CancelKey;

/// Bytes that are no PostgreSQL message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header whose length is below its own four bytes or beyond what its kind may have.
    #[error("message '{}' says it has {length} bytes, which it cannot have", tag.escape_ascii())]
    Length {
        /// The message's first byte; 0 for the untagged start-up packets.
        tag: u8,
        /// The length it claims, itself included.
        length: u32,
    },
    /// A body that ends too early or holds too much.
    #[error("broken {0} message")]
    Broken(&'static str),
    /// Text that is not UTF-8 where the pooler must read it.
    #[error("{0} is not valid UTF-8")]
    Utf8(&'static str),
    /// A start-up packet of a protocol that is not spoken here.
    #[error("unsupported frontend protocol {major}.{minor}")]
    Protocol {
        /// Upper half of the version.
        major: u16,
        /// Lower half of the version.
        minor: u16,
    },
}

/// A server's word in ReadyForQuery: `PqMsg_ReadyForQuery` in src/backend/tcop/dest.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TxStatus {
    /// `I`: in no transaction block.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a transaction block that has failed.
    Failed,
}

impl TxStatus {
    /// The status for its byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// Its byte in a ReadyForQuery.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}
