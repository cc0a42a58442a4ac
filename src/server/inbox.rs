//! Whole messages of a server, for conversations in which the pooler reads every one.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::net::Stream;
use crate::wire::limits::SERVER_MESSAGE_BYTES_MAX;
use crate::wire::{self, Backend, Header, frame::HEADER};

/// Why no further message comes.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The server closed the connection.
    #[error("server conn crashed?")]
    Closed,
    /// The connection broke.
    #[error("connection to the server failed: {0}")]
    Io(#[from] io::Error),
    /// No PostgreSQL message.
    #[error("bad packet from server: {0}")]
    Malformed(#[from] wire::Error),
    /// A message larger than any that belongs here.
    #[error(
        "bad packet from server: message '{}' of {bytes} bytes, at most {SERVER_MESSAGE_BYTES_MAX} fit",
        tag.escape_ascii()
    )]
    TooLong {
        /// Its first byte.
        tag: u8,
        /// Its size.
        bytes: usize,
    },
}

/// A message, undecoded.
pub(super) struct Message {
    tag: u8,
    body: Bytes,
}

impl Message {
    pub(super) fn tag(&self) -> u8 {
        self.tag
    }

    pub(super) fn decode(&self) -> Result<Backend<'_>, InboxError> {
        Ok(Backend::decode(self.tag, &self.body)?)
    }
}

/// What was received and not yet read.
#[derive(Default)]
pub(super) struct Inbox(BytesMut);

impl Inbox {
    /// True when every byte that was received has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next message. Cancel safe.
    pub(super) async fn next(&mut self, stream: &mut Stream) -> Result<Message, InboxError> {
        loop {
            if let Some(header) = Header::peek(&self.0)? {
                if header.body > SERVER_MESSAGE_BYTES_MAX {
                    return Err(InboxError::TooLong { tag: header.tag, bytes: header.body });
                }
                if self.0.len() >= header.total() {
                    let mut whole = self.0.split_to(header.total());
                    return Ok(Message { tag: header.tag, body: whole.split_off(HEADER).freeze() });
                }
                self.0.reserve(header.total() - self.0.len());
            }
            if stream.read_buf(&mut self.0).await? == 0 {
                return Err(InboxError::Closed);
            }
        }
    }
}
