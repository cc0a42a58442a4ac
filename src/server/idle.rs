//! What a server says while no client has it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::ServerConn;
use super::inbox::{Inbox, InboxError};
use crate::wire::Backend;
use crate::wire::backend::tag::NOTIFICATION_RESPONSE;

/// Why an idle server is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum IdleError {
    /// It has ended the session, and says why.
    #[error("idle server got dirty: {0}")]
    Error(String),
    /// It said something that no idle server says.
    #[error("idle server got dirty: unexpected message '{}'", .0.escape_ascii())]
    Unexpected(u8),
    /// The rest of a message has not come yet: whoever read on would take it for a beginning.
    #[error("idle server got dirty: half a message")]
    Partial,
    /// The connection is closed or broken.
    #[error(transparent)]
    Conversation(#[from] InboxError),
}

impl ServerConn {
    /// Reads what has come so far, without waiting. Settings are taken in; notices and notifications, which nobody
    /// asked for, are dropped.
    ///
    /// Errors: the server is not fit for a client any more.
    pub fn hear_idle(&mut self) -> Result<(), IdleError> {
        let mut inbox = Inbox::default();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let next = pin!(inbox.next(&mut self.stream)).poll(&mut cx);
            let message = match next {
                Poll::Ready(message) => message?,
                Poll::Pending if inbox.is_empty() => return Ok(()),
                Poll::Pending => return Err(IdleError::Partial),
            };
            match message.decode()? {
                Backend::ParameterStatus { name, value } => self.session.on_parameter_status(name, value),
                Backend::NoticeResponse(_) | Backend::Other(NOTIFICATION_RESPONSE) => {
                    tracing::warn!(server = %self.id, "a notice or notification of an idle server is dropped");
                }
                Backend::ErrorResponse(report) => return Err(IdleError::Error(report.message)),
                _ => return Err(IdleError::Unexpected(message.tag())),
            }
        }
    }
}
