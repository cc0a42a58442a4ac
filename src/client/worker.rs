//! What all conversations of one worker share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use bytes::{Bytes, BytesMut};

use super::export::Exports;
use super::pulse::Pulse;
use super::staffing::Staffing;
use crate::config::{ClientSettings, Config};
use crate::ids::WorkerId;
use crate::prepared::Registry;
use crate::server::Connector;
use crate::session::params::{Parameters, SharedValues, Values};
use crate::session::pipe::Spare;
use crate::stats::Roster;
use crate::wire::encode;

/// A worker as its clients see it. It stays on its thread.
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Buffers that no client uses just now. Borrowed only between two awaits.
    pub spare: RefCell<Spare>,
    /// The time of the turn that is being taken: a conversation asks the clock once for all that it finds to do.
    pub now: Cell<Instant>,
    /// What clients have in common, held once. Borrowed only between two awaits.
    pub shared: RefCell<Shared>,
    /// Runs while clients come.
    pub pulse: Rc<Pulse>,
    /// The statements all clients share.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Sends cancel requests.
    pub connector: Arc<Connector>,
    /// Whose clients are at home here.
    pub staffing: Arc<Staffing>,
    /// Who asks for conversations.
    pub exports: Arc<Exports>,
}

/// Kinds of clients that a worker remembers the greeting of: applications have few, each by its name and pool.
const GREETINGS_MAX: usize = 16;

/// What clients with the same wishes begin with in the same pool.
#[derive(Debug)]
pub struct Greeting {
    /// What the pool's servers report.
    welcome: Arc<Values>,
    /// What the client asked for.
    wanted: Vec<(String, String)>,
    /// The client's settings.
    pub parameters: Parameters,
    /// What RESET comes back to, where that is not what the server comes back to.
    pub start: Arc<Values>,
    /// The ParameterStatus messages for the client.
    pub messages: Bytes,
}

impl Greeting {
    fn new(values: &mut SharedValues, welcome: &Arc<Values>, wanted: &[(String, String)]) -> Self {
        let pairs = wanted.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let start = pairs.clone().filter(|(name, _)| welcome.value(name).is_some()).collect();
        let Parameters { reported, extra } = Parameters::of_client(welcome, pairs);
        let parameters = Parameters { reported: values.share(reported), extra: values.share(extra) };
        let mut messages = BytesMut::new();
        for (name, value) in parameters.reported.iter() {
            encode::parameter_status(&mut messages, name, value);
        }
        Self {
            welcome: Arc::clone(welcome),
            wanted: wanted.to_vec(),
            parameters,
            start: values.share(Arc::new(start)),
            messages: messages.freeze(),
        }
    }
}

/// What a worker's clients have in common, so that each costs only what is its own.
#[derive(Debug, Default)]
pub struct Shared {
    /// Sets of settings.
    pub values: SharedValues,
    /// The latest come first.
    greetings: Vec<Rc<Greeting>>,
    limits: Option<Rc<ClientSettings>>,
    tls: Option<Arc<str>>,
}

impl Shared {
    /// What a client with these wishes begins with, in a pool whose servers report `welcome`.
    pub fn greeting(&mut self, welcome: &Arc<Values>, wanted: &[(String, String)]) -> Rc<Greeting> {
        let is_it = |it: &Rc<Greeting>| Arc::ptr_eq(&it.welcome, welcome) && it.wanted == wanted;
        let place = self.greetings.iter().position(is_it).unwrap_or_else(|| {
            self.greetings.truncate(GREETINGS_MAX - 1);
            self.greetings.push(Rc::new(Greeting::new(&mut self.values, welcome, wanted)));
            self.greetings.len() - 1
        });
        self.greetings[..=place].rotate_right(1);
        Rc::clone(&self.greetings[0])
    }

    /// A client's limits, shared with the client before it where they are the same.
    pub fn limits(&mut self, limits: ClientSettings) -> Rc<ClientSettings> {
        match &self.limits {
            Some(same) if **same == limits => Rc::clone(same),
            _ => Rc::clone(self.limits.insert(Rc::new(limits))),
        }
    }

    /// What a client's TLS handshake came to, shared likewise.
    pub fn tls(&mut self, text: &str) -> Arc<str> {
        match &self.tls {
            Some(same) if **same == *text => Arc::clone(same),
            _ => Arc::clone(self.tls.insert(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> Vec<(String, String)> {
        vec![("application_name".to_owned(), name.to_owned()), ("search_path".to_owned(), "s".to_owned())]
    }

    #[test]
    fn who_asks_for_the_same_begins_with_the_same() {
        let mut shared = Shared::default();
        let pairs = [("application_name", ""), ("server_version", "18.1")];
        let welcome: Arc<Values> = Arc::new(pairs.into_iter().collect());
        let first = shared.greeting(&welcome, &wanted("one"));
        assert!(Rc::ptr_eq(&first, &shared.greeting(&welcome, &wanted("one"))));
        assert_eq!(first.parameters.reported.value("application_name"), Some("one"));
        assert_eq!(first.parameters.extra.value("search_path"), Some("s"));
        assert_eq!(first.start.iter().collect::<Vec<_>>(), [("application_name", "one")]);
        assert!(memchr::memmem::find(&first.messages, b"application_name\0one\0").is_some());
        // Other wishes, or another server.
        assert!(!Rc::ptr_eq(&first, &shared.greeting(&welcome, &wanted("two"))));
        let newer: Arc<Values> = Arc::new([("server_version", "19.0")].into_iter().collect());
        let second = shared.greeting(&newer, &wanted("one"));
        assert_eq!(second.parameters.reported.value("server_version"), Some("19.0"));
        assert_eq!(second.parameters.extra.value("application_name"), Some("one"));
    }

    #[test]
    fn no_more_greetings_are_kept_than_the_limit() {
        let (mut shared, welcome) = (Shared::default(), Values::none());
        let often = shared.greeting(&welcome, &wanted("often"));
        for number in 0..10 * GREETINGS_MAX {
            shared.greeting(&welcome, &wanted(&number.to_string()));
            assert!(Rc::ptr_eq(&often, &shared.greeting(&welcome, &wanted("often"))));
        }
        assert_eq!(shared.greetings.len(), GREETINGS_MAX);
    }
}
