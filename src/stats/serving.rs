//! On whose behalf a thread works just now, for the prefix of log lines.
//!
//! Owns that name while a client logs in, where a line may come from any of many places that know no
//! [`ClientEntry`]. It stands in for a span of `tracing`'s: that has its fields written out and kept whether or not
//! there ever is a line, and a login seldom has one. Invariant: a name is in force only while a step of that very
//! client is polled.

use std::cell::RefCell;
use std::future::Future;
use std::mem::swap;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Address, ClientEntry};
use crate::ids::{ClientId, DatabaseName, UserName};

/// A client as log lines name it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its number.
    pub id: ClientId,
    /// Its end.
    pub peer: Address,
    /// What its start-up packet names.
    pub names: Option<(DatabaseName, UserName)>,
}

thread_local! {
    static NOW: RefCell<Option<Served>> = const { RefCell::new(None) };
}

impl Served {
    /// A client that has not said who it is.
    pub fn stranger(entry: &ClientEntry) -> Self {
        Self { id: entry.id(), peer: entry.connected.peer.clone(), names: None }
    }

    /// The same client, with the names that it goes by.
    pub fn named(self, database: &DatabaseName, user: &UserName) -> Self {
        Self { names: Some((database.clone(), user.clone())), ..self }
    }

    /// Whoever is served on this thread now.
    pub fn now() -> Option<Self> {
        NOW.with_borrow(Clone::clone)
    }

    /// A step of the client's, whose lines bear its name. As cancel safe as the step.
    pub fn during<F: Future + Unpin>(self, step: F) -> During<F> {
        During { served: Some(self), step }
    }
}

/// A step of a client's that is under way.
#[derive(Debug)]
#[must_use = "nothing is done unless it is awaited"]
pub struct During<F> {
    served: Option<Served>,
    step: F,
}

impl<F: Future + Unpin> Future for During<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { served, step } = self.get_mut();
        let _turn = Turn::begin(served);
        Pin::new(step).poll(cx)
    }
}

/// The names of a start-up packet, for the lines to come of the client that is served now.
pub fn name_client(database: &DatabaseName, user: &UserName) {
    NOW.with_borrow_mut(|now| {
        if let Some(served) = now {
            served.names = Some((database.clone(), user.clone()));
        }
    });
}

/// While it lives the name is in force, also where the step panics.
struct Turn<'a>(&'a mut Option<Served>);

impl<'a> Turn<'a> {
    fn begin(served: &'a mut Option<Served>) -> Self {
        NOW.with_borrow_mut(|now| swap(now, served));
        Self(served)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        NOW.with_borrow_mut(|now| swap(now, self.0));
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn client(id: u64) -> Served {
        Served { id: ClientId(id), peer: Address::Unix { pid: 0, port: 0 }, names: None }
    }

    fn now() -> Option<(u64, Option<String>)> {
        Served::now().map(|it| (it.id.0, it.names.map(|(database, user)| format!("{database}/{user}"))))
    }

    #[test]
    fn a_name_is_in_force_only_while_its_client_is_served() {
        let mut turns = 0;
        let step = poll_fn(move |_| {
            turns += 1;
            assert_eq!(now(), Some((1, (turns > 1).then(|| "d/u".to_owned()))));
            name_client(&"d".into(), &"u".into());
            let other = pin!(client(2).during(poll_fn(|_| Poll::Ready(now()))));
            let seen = other.poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(seen, Poll::Ready(Some((2, None))));
            assert_eq!(now(), Some((1, Some("d/u".to_owned()))), "the one within has left no trace");
            if turns > 1 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut serving = pin!(client(1).during(step));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(serving.as_mut().poll(&mut cx).is_pending());
        assert_eq!(now(), None);
        name_client(&"nobody".into(), &"nobody".into());
        assert!(serving.poll(&mut cx).is_ready());
        assert_eq!(now(), None);
    }

    #[test]
    fn who_is_known_has_its_names_from_the_beginning() {
        let known = client(3).named(&"d".into(), &"u".into());
        let step = async { ready(now()).await };
        let seen = pin!(known.during(pin!(step))).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(seen, Poll::Ready(Some((3, Some("d/u".to_owned())))));
    }
}
