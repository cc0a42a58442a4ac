//! The settings that follow a client from server to server.
//!
//! A server reports some settings (`GUC_REPORT`); what it reported is known without asking. A client's view of them
//! is kept beside it, and compared when it gets a server. Settings that a client gave in its start-up message and
//! that servers do not report are remembered on both sides as *extra*. The difference becomes one query.
//!
//! Sets are shared by `Arc`: clients and servers that agree hold the same one, and agreement costs a comparison of
//! two pointers; where they hold two equal ones, their texts are shared for the most part.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Weak};

/// Reported settings that can't be set: their `GucContext` is `PGC_INTERNAL`, or setting them is the business of
/// SET SESSION AUTHORIZATION. src/backend/utils/misc/guc_parameters.dat.
const NOT_SETTABLE: [&str; 6] = [
    "server_version",
    "server_encoding",
    "integer_datetimes",
    "is_superuser",
    "in_hot_standby",
    "session_authorization",
];

fn is_settable(name: &str) -> bool {
    !NOT_SETTABLE.iter().any(|it| it.eq_ignore_ascii_case(name))
}

/// Names of settings are compared without regard to case: `guc_name_compare` in src/backend/utils/misc/guc.c.
fn compare_names(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.bytes(), other.bytes());
    one.map(|it| it.to_ascii_lowercase()).cmp(other.map(|it| it.to_ascii_lowercase()))
}

/// Values of settings by name, in the order of the names.
///
/// A copy shares the texts: sets that came from each other are compared by address for the most part, and a set that
/// differs in one value costs little more than that value.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Values(Vec<(Arc<str>, Arc<str>)>);

impl Values {
    /// The set without any setting: all who have none share this one.
    pub fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<Values>> = LazyLock::new(Arc::default);
        Arc::clone(&NONE)
    }

    /// A setting's value.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.place(name).ok().map(|place| &*self.0[place].1)
    }

    /// A setting's value, shared with this set.
    pub fn text(&self, name: &str) -> Option<Arc<str>> {
        self.place(name).ok().map(|place| Arc::clone(&self.0[place].1))
    }

    /// Gives a setting a value, under the name as it is spelled here if it has none yet.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.place(name) {
            Ok(place) => self.0[place].1 = value.into(),
            Err(place) => self.0.insert(place, (name.into(), value.into())),
        }
    }

    /// Names and values in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// What the server that reports these is to replication.
    pub fn role(&self) -> Role {
        match self.value("in_hot_standby") {
            Some("off") => Role::Primary,
            Some("on") => Role::Standby,
            _ => Role::Unknown,
        }
    }

    /// True when it has no setting.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(it, _)| compare_names(it, name))
    }
}

/// The sets that clients have at present, so that those with the same settings hold the same one.
///
/// It keeps nothing alive, and at most twice as many places as there are sets, or `SHARED_MIN`.
#[derive(Debug, Default)]
pub struct SharedValues {
    sets: HashMap<u64, Weak<Values>>,
    hasher: RandomState,
    /// How many sets there may be before those that nobody has are looked for.
    room: usize,
}

/// As many places for sets cost nothing worth looking for.
const SHARED_MIN: usize = 64;

impl SharedValues {
    /// The set that others hold, where there is one with the same values; else this one.
    pub fn share(&mut self, values: Arc<Values>) -> Arc<Values> {
        if values.is_empty() {
            return Values::none();
        }
        let hash = self.hasher.hash_one(&*values);
        if let Some(known) = self.sets.get(&hash).and_then(Weak::upgrade).filter(|it| **it == *values) {
            return known;
        }
        if self.sets.len() >= self.room.max(SHARED_MIN) {
            self.sets.retain(|_, it| it.strong_count() > 0);
            self.sets.shrink_to(2 * self.sets.len());
            self.room = 2 * self.sets.len();
        }
        self.sets.insert(hash, Arc::downgrade(&values));
        values
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Values {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let mut values = Self::default();
        pairs.into_iter().for_each(|(name, value)| values.set(name, value));
        values
    }
}

/// What a server is to replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary and takes none.
    Standby,
    /// It does not say: PostgreSQL before 14.
    Unknown,
}

/// What one side holds: a client's wishes or a server's state.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Settings that servers report.
    pub reported: Arc<Values>,
    /// Settings of a client's start-up message that servers do not report.
    pub extra: Arc<Values>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { reported: Values::none(), extra: Values::none() }
    }
}

impl Parameters {
    /// A client's: what a server of the pool reports, with the client's own values in place of it.
    pub fn of_client<'a>(
        welcome: &Arc<Values>,
        wanted: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut client = Self { reported: Arc::clone(welcome), extra: Values::none() };
        for (name, value) in wanted {
            match client.reported.value(name) {
                Some(same) if same == value => {}
                Some(_) => Arc::make_mut(&mut client.reported).set(name, value),
                None => Arc::make_mut(&mut client.extra).set(name, value),
            }
        }
        client
    }

    fn has(&self, name: &str) -> bool {
        self.reported.value(name).is_some() || self.extra.value(name).is_some()
    }

    /// What a server does not report and has lost.
    pub fn forget(&mut self, gone: impl Fn(&str) -> bool) {
        if self.extra.iter().any(|(name, _)| gone(name)) {
            self.extra = Arc::new(self.extra.iter().filter(|(name, _)| !gone(name)).collect());
        }
    }

    /// True where the server already is as the client wants it.
    pub fn agrees_with(&self, server: &Self) -> bool {
        self.reported == server.reported && self.extra == server.extra
    }

    /// The same, and a server that agrees then holds the client's sets: the next comparison is one of two pointers.
    #[inline]
    pub fn agrees_and_lends(&self, server: &mut Self) -> bool {
        let same = Arc::ptr_eq(&self.reported, &server.reported) && Arc::ptr_eq(&self.extra, &server.extra);
        if same {
            return true;
        }
        let agrees = self.agrees_with(server);
        if agrees {
            *server = self.clone();
        }
        agrees
    }

    /// The query that makes the server as the client wants it; `None` where nothing differs in value.
    pub fn query_for(&self, server: &Self) -> Option<String> {
        let mut query = Query::default();
        for (name, value) in self.reported.iter() {
            // What this server does not report can't be told to differ.
            if is_settable(name) && server.reported.value(name).is_some_and(|it| it != value) {
                query.set(name, value);
            }
        }
        for (name, value) in self.extra.iter() {
            if server.extra.value(name) != Some(value) {
                query.set(name, value);
            }
        }
        for (name, _) in server.extra.iter() {
            if self.extra.value(name).is_none() {
                query.reset(name);
            }
        }
        // A client from before these servers, which report more than those that it knew: others may have set it.
        for (name, _) in server.reported.iter() {
            if !self.has(name) && is_settable(name) {
                query.reset(name);
            }
        }
        query.finish()
    }

    /// What [`Self::query_for`] sets, for the log.
    pub fn difference<'a>(&'a self, server: &'a Self) -> impl std::fmt::Display + 'a {
        std::fmt::from_fn(|f| {
            let differs =
                |(name, value): &(&str, &str)| server.reported.value(name).is_some_and(|it| it != *value);
            for (name, value) in self.reported.iter().filter(differs).filter(|(name, _)| is_settable(name)) {
                write!(f, "SET {name}='{value}';")?;
            }
            let differs = |(name, value): &(&str, &str)| server.extra.value(name) != Some(*value);
            for (name, value) in self.extra.iter().filter(differs) {
                write!(f, "SET {name}='{value}';")?;
            }
            Ok(())
        })
    }

    /// The server was just brought to the client's settings, so that what it reports now is what the client wants, in
    /// PostgreSQL's own spelling: `ISO` has become `ISO, MDY`. What it reports that the client did not know of is new.
    pub fn adopt(&mut self, server: &Self) {
        let spelled: Vec<_> = server
            .reported
            .iter()
            .filter(|(name, value)| self.reported.value(name).is_some_and(|it| it != *value))
            .collect();
        for (name, value) in spelled {
            let own = self.reported.value(name).unwrap_or_default();
            tracing::debug!(
                "varcache_set_canonical: setting {name} to its canonical version {own} -> {value}"
            );
            Arc::make_mut(&mut self.reported).set(name, value);
        }
        for (name, value) in server.reported.iter() {
            if !self.has(name) {
                Arc::make_mut(&mut self.reported).set(name, value);
            }
        }
    }

    /// The server reports a setting's value, which the client it serves learns too.
    pub fn on_status(&mut self, name: &str, value: &str, client: Option<&mut Self>) {
        let before = Arc::clone(&self.reported);
        if before.value(name) != Some(value) {
            Arc::make_mut(&mut self.reported).set(name, value);
        }
        let Some(client) = client else { return };
        if Arc::ptr_eq(&client.reported, &before) {
            client.reported = Arc::clone(&self.reported);
        } else if client.reported.value(name) != Some(value) {
            Arc::make_mut(&mut client.reported).set(name, value);
        }
    }

    /// Has a server that agrees with its client hold the client's sets, so that the next comparison is cheap. It is
    /// never the other way round: clients with the same settings share theirs, and shall go on doing so.
    pub fn lend(&self, server: &mut Self) {
        if self.reported == server.reported {
            server.reported = Arc::clone(&self.reported);
        }
        if self.extra == server.extra {
            server.extra = Arc::clone(&self.extra);
        }
    }
}

/// One simple query under construction.
///
/// `set_config` takes a value as the start-up message does, so that lists such as `search_path` mean the same.
/// Schema names guard against look-alikes on a client's `search_path`.
#[derive(Default)]
struct Query {
    resets: String,
    sets: String,
}

impl Query {
    fn set(&mut self, name: &str, value: &str) {
        self.sets.push_str(if self.sets.is_empty() { "SELECT " } else { ", " });
        self.sets.push_str("pg_catalog.set_config(");
        literal(&mut self.sets, name);
        self.sets.push_str(", ");
        literal(&mut self.sets, value);
        self.sets.push_str(", false)");
    }

    /// A RESET; a name with characters that no setting has is left alone, as it can't have been set.
    fn reset(&mut self, name: &str) {
        if name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'.' | b'$')) {
            self.resets.push_str("RESET ");
            self.resets.push_str(name);
            self.resets.push_str("; ");
        }
    }

    fn finish(self) -> Option<String> {
        (!self.resets.is_empty() || !self.sets.is_empty()).then(|| self.resets + &self.sets)
    }
}

/// Appends an expression for `text` that means the same whatever `client_encoding` and
/// `standard_conforming_strings` are: an `E''` literal of plain ASCII, else the bytes in hexadecimal.
fn literal(out: &mut String, text: &str) {
    if text.bytes().all(|it| (b' '..=b'~').contains(&it)) {
        out.push_str("E'");
        for character in text.chars() {
            if matches!(character, '\'' | '\\') {
                out.push('\\');
            }
            out.push(character);
        }
        out.push('\'');
        return;
    }
    out.push_str("pg_catalog.convert_from(pg_catalog.decode('");
    for byte in text.bytes() {
        // Writing to a String can't fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.push_str("', 'hex'), 'UTF8')");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Parameters {
        let reported = [("TimeZone", "UTC"), ("application_name", ""), ("server_version", "15.1")];
        Parameters { reported: Arc::new(reported.into_iter().collect()), extra: Arc::default() }
    }

    fn client(wanted: &[(&str, &str)]) -> Parameters {
        Parameters::of_client(&server().reported, wanted.iter().copied())
    }

    #[test]
    fn those_who_agree_share_one_set_and_need_no_query() {
        let server = server();
        let client = Parameters::of_client(&server.reported, [("timezone", "UTC")]);
        assert!(client.agrees_with(&server));
        assert_eq!(client.query_for(&server), None);
    }

    #[test]
    fn only_what_differs_is_set_and_what_another_left_is_reset() {
        let mut server = server();
        Arc::make_mut(&mut server.extra).set("geqo", "off");
        Arc::make_mut(&mut server.extra).set("work_mem", "1MB");
        let client = client(&[("timezone", "CET"), ("work_mem", "1MB"), ("server_version", "9")]);
        assert_eq!(
            client.query_for(&server).as_deref(),
            Some("RESET geqo; SELECT pg_catalog.set_config(E'TimeZone', E'CET', false)")
        );
    }

    #[test]
    fn a_value_that_the_server_spells_otherwise_is_set_once() {
        let mut server = server();
        Arc::make_mut(&mut server.reported).set("DateStyle", "ISO, MDY");
        let mut client = Parameters::of_client(&server.reported, [("datestyle", "ISO")]);
        assert!(client.query_for(&server).is_some());
        assert_eq!(client.difference(&server).to_string(), "SET DateStyle='ISO';");
        client.adopt(&server);
        assert_eq!(client.query_for(&server), None);
    }

    #[test]
    fn what_newer_servers_report_is_reset_for_a_client_from_before_them() {
        let mut client = client(&[]);
        let mut server = server();
        Arc::make_mut(&mut server.reported).set("search_path", "somebody_elses");
        Arc::make_mut(&mut server.reported).set("in_hot_standby", "off");
        assert_eq!(client.query_for(&server).as_deref(), Some("RESET search_path; "));
        Arc::make_mut(&mut server.reported).set("search_path", "public");
        client.adopt(&server);
        assert!(client.agrees_with(&server));
    }

    #[test]
    fn no_value_breaks_out_of_its_quotes() {
        let query = |value| client(&[("application_name", value)]).query_for(&server());
        assert_eq!(
            query(r"'; drop \").as_deref(),
            Some(r"SELECT pg_catalog.set_config(E'application_name', E'\'; drop \\', false)")
        );
        assert_eq!(
            query("ä\n").as_deref(),
            Some(
                "SELECT pg_catalog.set_config(E'application_name', \
                 pg_catalog.convert_from(pg_catalog.decode('c3a40a', 'hex'), 'UTF8'), false)"
            )
        );
    }

    #[test]
    fn clients_with_the_same_settings_share_one_set() {
        let mut shared = SharedValues::default();
        let ours = |name| client(&[("application_name", name)]).reported;
        let first = shared.share(ours("psql"));
        assert!(Arc::ptr_eq(&first, &shared.share(ours("psql"))));
        assert!(!Arc::ptr_eq(&first, &shared.share(ours("other"))));
        assert!(Arc::ptr_eq(&shared.share(Arc::default()), &Values::none()));
    }

    #[test]
    fn sets_that_nobody_has_any_more_take_no_place() {
        let mut shared = SharedValues::default();
        let kept = shared.share(client(&[("application_name", "kept")]).reported);
        for number in 0..10 * SHARED_MIN {
            let _ = shared.share(client(&[("application_name", &number.to_string())]).reported);
        }
        assert!(shared.sets.len() <= SHARED_MIN);
        assert!(Arc::ptr_eq(&kept, &shared.share(client(&[("application_name", "kept")]).reported)));
    }

    #[test]
    fn equal_sets_agree_and_a_server_then_holds_the_clients() {
        let mut server = server();
        let client = Parameters::of_client(&self::server().reported, []);
        assert!(!Arc::ptr_eq(&client.reported, &server.reported));
        assert!(client.agrees_and_lends(&mut server));
        assert!(Arc::ptr_eq(&client.reported, &server.reported));
        assert!(client.agrees_and_lends(&mut server));
        assert!(!self::client(&[("TimeZone", "CET")]).agrees_and_lends(&mut server));
        assert!(Arc::ptr_eq(&client.reported, &server.reported), "who differs lends nothing");
    }

    #[test]
    fn a_status_reaches_the_client_and_leaves_both_in_agreement() {
        let mut server = server();
        let mut client = Parameters { reported: Arc::clone(&server.reported), extra: Arc::default() };
        server.on_status("TimeZone", "CET", Some(&mut client));
        assert!(client.agrees_with(&server));
        assert_eq!(client.reported.value("TIMEZONE"), Some("CET"));
        let mut other = self::client(&[("application_name", "x")]);
        server.on_status("TimeZone", "UTC", Some(&mut other));
        assert_eq!(other.reported.value("application_name"), Some("x"));
        assert_eq!(other.reported.value("TimeZone"), Some("UTC"));
    }
}
