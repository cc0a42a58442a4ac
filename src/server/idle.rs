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
                Backend::ParameterStatus { name, value } => self.session().on_parameter_status(name, value),
                Backend::NoticeResponse(_) | Backend::Other(NOTIFICATION_RESPONSE) => {
                    tracing::warn!(server = %self.id, "a notice or notification of an idle server is dropped");
                }
                Backend::ErrorResponse(report) => return Err(IdleError::Error(report.message)),
                _ => return Err(IdleError::Unexpected(message.tag())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::server::tests::{Step, bytes, connected};
    use crate::wire::{Report, SqlState, encode};

    /// What a server is after it has said these bytes while idle.
    async fn heard(said: Vec<u8>) -> (ServerConn, Result<(), IdleError>) {
        // It waits for a word, so that nothing arrives together with the end of the login.
        let script = vec![Step::Expect(b'S'), Step::Send(said), Step::AwaitEnd];
        let (mut conn, _server) = connected(script).await;
        conn.stream.write_all(b"S\0\0\0\x04").await.expect("it listens");
        conn.stream.readable().await;
        let outcome = conn.hear_idle();
        (conn, outcome)
    }

    #[tokio::test]
    async fn settings_are_taken_in_and_notices_dropped() {
        let said = bytes(|out| {
            Report::notice("hello").encode(out);
            encode::parameter_status(out, "TimeZone", "UTC");
        });
        let (mut conn, outcome) = heard(said).await;
        outcome.expect("it is fit for clients");
        assert_eq!(conn.session().parameters.reported.value("TimeZone"), Some("UTC"));
    }

    #[tokio::test]
    async fn an_error_ends_it_and_says_why() {
        let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection");
        let (_conn, outcome) = heard(bytes(|out| report.encode(out))).await;
        let text = outcome.expect_err("it is gone").to_string();
        assert_eq!(text, "idle server got dirty: terminating connection");
    }

    #[tokio::test]
    async fn half_a_message_and_an_answer_nobody_asked_for_end_it() {
        let (_conn, outcome) = heard(vec![b'S', 0, 0]).await;
        assert!(matches!(outcome, Err(IdleError::Partial)), "{outcome:?}");
        let (_conn, outcome) = heard(bytes(|out| encode::command_complete(out, "SELECT 1"))).await;
        assert!(matches!(outcome, Err(IdleError::Unexpected(b'C'))), "{outcome:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_connection_ends_it() {
        let (mut conn, _server) = connected(vec![]).await;
        conn.stream.readable().await;
        let outcome = conn.hear_idle();
        assert!(matches!(outcome, Err(IdleError::Conversation(InboxError::Closed))), "{outcome:?}");
    }
}
