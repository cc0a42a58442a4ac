//! One timer for a connection that has many limits and rarely meets one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is moved as seldom as possible: a later deadline leaves it as it is, and when it fires too early it
/// is set anew. A connection whose queries are faster than their limits never touches the timer wheel.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when the deadline is over. Without one it is never ready.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<std::time::Instant>) -> Poll<()> {
        let Some(deadline) = deadline.map(Instant::from_std) else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
