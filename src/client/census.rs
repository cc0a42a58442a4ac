//! How many clients there are: in all, by database, by user.
//!
//! Owns `max_client_conn`, `max_db_client_connections` and `max_user_client_connections`. A place is taken before
//! the client has it and given back when its [`Seat`] is dropped, so that a limit is not exceeded even for an
//! instant. Only who has logged in counts for a database or a user: else anybody could fill them up.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::ids::{DatabaseName, UserName};

/// How many there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// As many as come; they are counted all the same.
    None,
    /// No more than this.
    AtMost(usize),
}

impl Limit {
    /// A setting of which 0 means: no limit.
    pub fn of(setting: usize) -> Self {
        if setting == 0 { Self::None } else { Self::AtMost(setting) }
    }

    fn allows(self, count: usize) -> bool {
        match self {
            Self::None => true,
            Self::AtMost(most) => count <= most,
        }
    }
}

/// All clients of the process, over all workers.
#[derive(Default)]
pub struct Census {
    clients: AtomicUsize,
    databases: Tally<DatabaseName>,
    users: Tally<UserName>,
}

impl Census {
    /// A place for one more client; `None` where there is none left.
    pub fn seat(self: &Arc<Self>, limit: Limit) -> Option<Seat> {
        let taken = self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            limit.allows(count + 1).then_some(count + 1)
        });
        taken.ok().map(|_| Seat { census: Arc::clone(self), database: None, user: None })
    }

    /// Clients that have sent a StartupMessage and are not gone.
    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

/// One client's place; dropping it gives it back.
#[must_use = "dropping a seat gives it back"]
pub struct Seat {
    census: Arc<Census>,
    database: Option<DatabaseName>,
    user: Option<UserName>,
}

impl Seat {
    /// Takes a place in a database; false where there is none left.
    pub fn enter_database(&mut self, name: &DatabaseName, limit: Limit) -> bool {
        let Some(name) = self.census.databases.enter(name, limit) else { return false };
        if let Some(before) = self.database.replace(name) {
            self.census.databases.leave(&before);
        }
        true
    }

    /// Takes a place of a user; false where there is none left.
    pub fn enter_user(&mut self, name: &UserName, limit: Limit) -> bool {
        let Some(name) = self.census.users.enter(name, limit) else { return false };
        if let Some(before) = self.user.replace(name) {
            self.census.users.leave(&before);
        }
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.census.clients.fetch_sub(1, Ordering::Relaxed);
        if let Some(name) = &self.database {
            self.census.databases.leave(name);
        }
        if let Some(name) = &self.user {
            self.census.users.leave(name);
        }
    }
}

/// Counts by name; a name that nobody has takes no room.
struct Tally<Name>(Mutex<HashMap<Name, Cell<usize>, RandomState>>);

impl<Name> Default for Tally<Name> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Name: Clone + Eq + Hash> Tally<Name> {
    /// Returns the name as all those hold it who have entered, so that its text is there once.
    fn enter(&self, name: &Name, limit: Limit) -> Option<Name> {
        let mut counts = self.0.lock();
        match counts.get_key_value(name) {
            Some((name, count)) => limit.allows(count.get() + 1).then(|| {
                count.update(|it| it + 1);
                name.clone()
            }),
            None => limit.allows(1).then(|| {
                counts.insert(name.clone(), Cell::new(1));
                name.clone()
            }),
        }
    }

    fn leave(&self, name: &Name) {
        let mut counts = self.0.lock();
        match counts.get(name) {
            Some(count) if count.get() > 1 => count.update(|it| it - 1),
            Some(_) => drop(counts.remove(name)),
            None => {}
        }
    }

    #[cfg(test)]
    fn count(&self, name: &Name) -> usize {
        self.0.lock().get(name).map_or(0, Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_limited_and_come_back() {
        let census = Arc::new(Census::default());
        let (database, user) = (DatabaseName::from("d"), UserName::from("u"));
        let mut first = census.seat(Limit::AtMost(2)).unwrap();
        let mut second = census.seat(Limit::AtMost(2)).unwrap();
        assert!(census.seat(Limit::AtMost(2)).is_none());
        let exempt = census.seat(Limit::None).unwrap();
        assert_eq!(census.clients(), 3);

        assert!(first.enter_database(&database, Limit::of(1)));
        assert!(!second.enter_database(&database, Limit::of(1)));
        assert!(second.enter_database(&database, Limit::of(0)));
        assert!(first.enter_user(&user, Limit::of(1)));
        assert!(!second.enter_user(&user, Limit::of(1)));
        assert_eq!((census.databases.count(&database), census.users.count(&user)), (2, 1));

        drop((first, second, exempt));
        assert_eq!(census.clients(), 0);
        assert_eq!((census.databases.count(&database), census.users.count(&user)), (0, 0));
        assert!(census.databases.0.lock().is_empty() && census.users.0.lock().is_empty());
    }

    #[test]
    fn no_limit_is_exceeded_by_threads_in_a_hurry() {
        let census = Arc::new(Census::default());
        let come_and_go = || {
            for _ in 0..2000 {
                let seat = census.seat(Limit::AtMost(2));
                assert!(census.clients() <= 2);
                drop(seat);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(come_and_go);
            }
        });
        assert_eq!(census.clients(), 0);
    }
}
