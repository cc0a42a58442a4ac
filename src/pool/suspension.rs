//! SUSPEND: every conversation stands still between two messages, so that nothing of it is in this process alone.
//!
//! Owns whether the pooler is suspended, and the count of those who still move. It stops nobody itself: a conversation
//! asks ([`Participant::call`]) before it takes anything from a socket. Invariant: once [`Suspension::settled`] has said
//! so, nobody who takes part moves before the suspension is over.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::sync::{AtomicU8, AtomicUsize, Ordering};

/// What a conversation is called upon to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Go on.
    Move,
    /// Come to rest at the next place where nothing is half done.
    Rest,
    /// `suspend_timeout` is over: who does not rest by now has to leave.
    RestOrLeave,
}

impl Call {
    fn of(stored: u8) -> Self {
        [Self::Rest, Self::RestOrLeave].into_iter().find(|it| *it as u8 == stored).unwrap_or(Self::Move)
    }
}

/// Whether the pooler is suspended. Read by each conversation on every turn, changed by the console.
#[derive(Debug)]
pub struct Suspension {
    /// What `call` holds, for those who look often.
    stored: AtomicU8,
    call: watch::Sender<Call>,
    moving: AtomicUsize,
    settled: Notify,
}

impl Default for Suspension {
    fn default() -> Self {
        Self {
            stored: AtomicU8::new(Call::Move as u8),
            call: watch::Sender::new(Call::Move),
            moving: AtomicUsize::new(0),
            settled: Notify::new(),
        }
    }
}

impl Suspension {
    /// Whether SUSPEND is in force.
    pub fn is_on(&self) -> bool {
        self.now() != Call::Move
    }

    /// What everybody is called upon to do. Sequentially consistent, like the count: see [`Participant::call`].
    #[inline]
    fn now(&self) -> Call {
        Call::of(self.stored.load(Ordering::SeqCst))
    }

    /// Who waits for it finds it stored when it is woken.
    fn set(&self, call: Call) -> Call {
        let mut before = call;
        self.call.send_modify(|current| {
            before = std::mem::replace(current, call);
            self.stored.store(call as u8, Ordering::SeqCst);
        });
        before
    }

    /// SUSPEND. Those who take part must be woken then.
    pub fn begin(&self) {
        self.set(Call::Rest);
    }

    /// Who does not rest by now has to leave. Those who take part must be woken then.
    pub fn insist(&self) {
        if self.is_on() {
            self.set(Call::RestOrLeave);
        }
    }

    /// RESUME. Those who take part must be woken then. Returns whether there was something to resume.
    pub fn end(&self) -> bool {
        let was_on = self.set(Call::Move) != Call::Move;
        self.settled.notify_waiters();
        was_on
    }

    /// Waits until nobody moves, or the suspension is over. Cancel safe.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Enabled before the look, so that a change after the look is not missed.
            settled.as_mut().enable();
            if self.moving.load(Ordering::SeqCst) == 0 || !self.is_on() {
                return;
            }
            settled.await;
        }
    }

    /// Waits for a suspension. Cancel safe.
    pub async fn begun(&self) {
        self.until(|call| call != Call::Move).await;
    }

    /// Waits until no suspension is in force. Cancel safe.
    pub async fn over(&self) {
        self.until(|call| call == Call::Move).await;
    }

    /// Waits until whoever does not rest has to leave. Cancel safe.
    pub async fn insisted(&self) {
        self.until(|call| call == Call::RestOrLeave).await;
    }

    async fn until(&self, wanted: impl Fn(Call) -> bool) {
        // It fails only when the sender is gone, and that is `self`.
        let _ = self.call.subscribe().wait_for(|call| wanted(*call)).await;
    }

    /// Takes part from now on, moving. `None`: all is suspended, and [`Suspension::begun`] is ready or wakes.
    pub fn try_join(self: &Arc<Self>) -> Option<Participant> {
        let mut participant = Participant { suspension: Arc::clone(self), rests: true };
        (participant.call() == Call::Move).then_some(participant)
    }

    /// Takes part from now on, moving; where all is suspended, once that is over. Cancel safe.
    pub async fn join(self: &Arc<Self>) -> Participant {
        loop {
            if let Some(participant) = self.try_join() {
                return participant;
            }
            self.over().await;
        }
    }

    fn stands_still(&self) {
        if self.moving.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_on() {
            self.settled.notify_waiters();
        }
    }
}

/// One who has to come to rest before all is suspended.
#[derive(Debug)]
pub struct Participant {
    suspension: Arc<Suspension>,
    rests: bool,
}

impl Participant {
    /// What it is called upon to do; must be asked after it has left its waker with those who suspend and resume. With
    /// [`Call::Move`] it counts as moving.
    #[inline]
    pub fn call(&mut self) -> Call {
        if self.rests {
            return self.rise();
        }
        self.suspension.now()
    }

    /// It counts itself as moving first and looks then, while who suspends calls first and counts then: one of the two
    /// sees the other.
    fn rise(&mut self) -> Call {
        if self.suspension.is_on() {
            return self.suspension.now();
        }
        self.suspension.moving.fetch_add(1, Ordering::SeqCst);
        self.rests = false;
        let call = self.suspension.now();
        if call != Call::Move {
            self.rest();
        }
        call
    }

    /// It moves no more until it is called upon to.
    pub fn rest(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            self.suspension.stands_still();
        }
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moving(suspension: &Suspension) -> usize {
        suspension.moving.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn it_is_settled_when_the_last_has_come_to_rest() {
        let suspension = Arc::new(Suspension::default());
        let (mut one, mut other) = (suspension.join().await, suspension.join().await);
        suspension.begin();
        assert_eq!(one.call(), Call::Rest);
        one.rest();
        let settled = suspension.settled();
        tokio::pin!(settled);
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(settled.as_mut().poll(cx).is_pending())).await
        );
        suspension.insist();
        assert_eq!(other.call(), Call::RestOrLeave);
        drop(other);
        settled.await;
        assert_eq!(one.call(), Call::RestOrLeave, "who rests goes on resting");
        assert_eq!(moving(&suspension), 0);
        assert!(suspension.end() && !suspension.end());
        assert_eq!(one.call(), Call::Move);
        assert_eq!(moving(&suspension), 1);
    }

    #[tokio::test]
    async fn who_comes_while_all_is_suspended_waits_at_the_door() {
        let suspension = Arc::new(Suspension::default());
        suspension.begin();
        suspension.settled().await;
        let joining = suspension.join();
        tokio::pin!(joining);
        let arrived =
            std::future::poll_fn(|cx| std::task::Poll::Ready(joining.as_mut().poll(cx).is_ready())).await;
        assert!(!arrived && moving(&suspension) == 0);
        suspension.end();
        assert_eq!(joining.await.call(), Call::Move);
    }

    #[test]
    fn nobody_moves_once_it_is_settled() {
        let suspension = Arc::new(Suspension::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (steps, over) = (AtomicUsize::new(0), AtomicU8::new(0));
        let work = |mut participant: Participant| {
            while over.load(Ordering::SeqCst) == 0 {
                match participant.call() {
                    Call::Move => drop(steps.fetch_add(1, Ordering::SeqCst)),
                    _ => {
                        participant.rest();
                        std::thread::yield_now();
                    }
                }
            }
        };
        let mut moved = 0;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let participant = runtime.block_on(suspension.join());
                scope.spawn(|| work(participant));
            }
            for _ in 0..200 {
                suspension.begin();
                runtime.block_on(suspension.settled());
                let before = steps.load(Ordering::SeqCst);
                std::thread::yield_now();
                moved += steps.load(Ordering::SeqCst) - before;
                suspension.end();
            }
            // Not to be missed by a panic: the others would go on for ever.
            over.store(1, Ordering::SeqCst);
        });
        assert_eq!(moved, 0);
        assert_eq!(moving(&suspension), 0);
    }
}
