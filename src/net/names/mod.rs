//! Names of servers and the addresses behind them.
//!
//! Owns what was looked up, for as long as it may be believed, and the serial numbers of the zones the names are in. It
//! refuses to connect. A name that is asked for by many is looked up once; who waits for it may give up without ending
//! the look-up. Invariant: an address that a new answer leaves out is told to [`AddressesGone`]'s receiver.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

mod source;

use source::Source;

use crate::config::Settings;

/// Names that are remembered; the configuration has fewer, but a reload may bring others again and again.
const NAMES_MAX: usize = 4096;

/// How many addresses of one name are used.
const ADDRESSES_MAX: usize = 16;

/// For how long answers are believed: settings `dns_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameTimes {
    /// `dns_max_ttl`: the longest that addresses are.
    pub max_ttl: Duration,
    /// `dns_nxdomain_ttl`: how long a failure is.
    pub nxdomain_ttl: Duration,
    /// `dns_zone_check_period`; zero: zones are not looked at.
    pub zone_check_period: Duration,
}

impl NameTimes {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            max_ttl: settings.dns_max_ttl,
            nxdomain_ttl: settings.dns_nxdomain_ttl,
            zone_check_period: settings.dns_zone_check_period,
        }
    }
}

/// A name that is not where it was: servers at these addresses are somebody else's, or nobody's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressesGone {
    /// The name.
    pub name: String,
    /// The addresses that it has no more.
    pub gone: Vec<IpAddr>,
}

/// A name as SHOW DNS_HOSTS has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownName {
    /// The name.
    pub name: String,
    /// For how long its answer is still believed.
    pub left: Duration,
    /// Its addresses; none where the look-up failed.
    pub addresses: Vec<IpAddr>,
}

/// A zone as SHOW DNS_ZONES has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownZone {
    /// Its name.
    pub name: String,
    /// Its serial number when it was last asked for; 0: never.
    pub serial: u32,
    /// How many names are in it.
    pub names: usize,
}

/// What is known of all names. Clones share it.
#[derive(Clone, Debug)]
pub struct Names(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    times: ArcSwap<NameTimes>,
    times_changed: Notify,
    known: DashMap<String, Arc<Entry>>,
    serials: Mutex<BTreeMap<String, u32>>,
    moves: mpsc::UnboundedSender<AddressesGone>,
    asking: AtomicUsize,
}

/// One name.
#[derive(Debug, Default)]
struct Entry {
    state: Mutex<State>,
    answered: Notify,
    /// Whose turn it is among its addresses.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    answer: Option<Answer>,
    is_asked: bool,
    /// The addresses of the last answer that had any.
    last: Arc<[SocketAddr]>,
}

#[derive(Clone, Debug)]
struct Answer {
    found: Found,
    until: Instant,
}

/// Addresses in the order of the answer, with port 0; or why there are none.
type Found = Result<Arc<[SocketAddr]>, Arc<str>>;

impl Default for Names {
    /// Looked up by the system, for the times of the settings' defaults; nobody hears of changes.
    fn default() -> Self {
        Self::from_parts(Source::system(), NameTimes::of(&Settings::default()), mpsc::unbounded_channel().0)
    }
}

impl Names {
    /// None yet. They are looked up as the system does it (`/etc/hosts`, DNS, and whatever else `/etc/nsswitch.conf`
    /// says), or, where `resolv_conf` is set, in `/etc/hosts` and by DNS as that file says.
    ///
    /// Errors: `resolv_conf` cannot be read or makes no sense.
    pub fn new(settings: &Settings) -> io::Result<(Self, mpsc::UnboundedReceiver<AddressesGone>)> {
        let times = NameTimes::of(settings);
        let resolv_conf = settings.resolv_conf.as_deref().filter(|it| !it.as_os_str().is_empty());
        let source = Source::of(resolv_conf)?;
        let (moves, moved) = mpsc::unbounded_channel();
        Ok((Self::from_parts(source, times, moves), moved))
    }

    fn from_parts(source: Source, times: NameTimes, moves: mpsc::UnboundedSender<AddressesGone>) -> Self {
        Self(Arc::new(Inner {
            source,
            times: ArcSwap::from_pointee(times),
            times_changed: Notify::new(),
            known: DashMap::new(),
            serials: Mutex::default(),
            moves,
            asking: AtomicUsize::new(0),
        }))
    }

    /// Other settings are in force, for the answers to come.
    pub fn set_times(&self, times: NameTimes) {
        self.0.times.store(Arc::new(times));
        self.0.times_changed.notify_waiters();
    }

    /// The addresses of a name, beginning with another one each time. Cancel safe: the look-up goes on.
    ///
    /// Errors: why there are none.
    pub async fn addresses(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, Arc<str>> {
        let entry = self.entry(name);
        let found = self.found(name, &entry).await?;
        let first = entry.turn.fetch_add(1, Ordering::Relaxed) % found.len().max(1);
        let with_port = |address: &SocketAddr| {
            let mut address = *address;
            address.set_port(port);
            address
        };
        Ok(found.iter().cycle().skip(first).take(found.len()).map(with_port).collect())
    }

    /// What is known of a name has led astray: the next who asks for it has it looked up anew.
    pub fn doubt(&self, name: &str) {
        if let Some(entry) = self.0.known.get(name)
            && let Some(answer) = &mut entry.state.lock().answer
        {
            answer.until = Instant::now();
        }
    }

    async fn found(&self, name: &str, entry: &Arc<Entry>) -> Found {
        let answered = entry.answered.notified();
        tokio::pin!(answered);
        // Enabled before the look, so that an answer that comes after it is not missed.
        answered.as_mut().enable();
        if let Some(found) = entry.fresh(Instant::now()) {
            return found;
        }
        self.ask(name, entry);
        answered.await;
        // However short it is to be believed: it is as fresh as can be.
        entry.state.lock().answer.as_ref().map_or_else(|| Err(Arc::from("no answer")), |it| it.found.clone())
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        if let Some(entry) = self.0.known.get(name) {
            return Arc::clone(&entry);
        }
        if self.0.known.len() >= NAMES_MAX {
            let now = Instant::now();
            self.0.known.retain(|_, entry| entry.is_fresh_or_asked(now));
        }
        Arc::clone(&self.0.known.entry(name.to_owned()).or_default())
    }

    /// Looks a name up beside everything else, unless that is being done.
    fn ask(&self, name: &str, entry: &Arc<Entry>) {
        if std::mem::replace(&mut entry.state.lock().is_asked, true) {
            return;
        }
        self.0.asking.fetch_add(1, Ordering::Relaxed);
        let asking = Asking { names: self.clone(), name: name.to_owned(), entry: Arc::clone(entry) };
        tokio::spawn(async move {
            let found = asking.names.0.source.addresses(&asking.name).await;
            asking.answer(found);
        });
    }

    /// Looks at the zones for as long as the process runs, whenever `dns_zone_check_period` says so. Cancel safe.
    pub async fn tend(&self) {
        loop {
            let changed = self.0.times_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let period = self.0.times.load().zone_check_period;
            if period.is_zero() {
                changed.await;
            } else if tokio::time::timeout(period, changed).await.is_err() {
                self.check_zones().await;
            }
        }
    }

    async fn check_zones(&self) {
        for zone in self.zones() {
            let Some(serial) = self.0.source.serial(&zone.name).await else {
                tracing::debug!("failure to get zone '{}' serial", zone.name);
                continue;
            };
            let before = self.0.serials.lock().insert(zone.name.clone(), serial);
            if before.is_some_and(|before| !is_later(serial, before)) {
                continue;
            }
            tracing::info!("zone '{}' serial changed: old={} new={serial}", zone.name, zone.serial);
            let of_it: Vec<_> =
                self.0.known.iter().map(|it| (it.key().clone(), Arc::clone(it.value()))).collect();
            for (name, entry) in of_it.iter().filter(|(name, _)| zone_of(name) == Some(&zone.name)) {
                self.ask(name, entry);
            }
        }
    }

    /// All names there are, in order.
    pub fn names(&self) -> Vec<KnownName> {
        let now = Instant::now();
        let known = |name: &String, entry: &Entry| {
            let state = entry.state.lock();
            let found = state.answer.as_ref().and_then(|it| it.found.as_ref().ok());
            let until = state.answer.as_ref().map_or(now, |it| it.until);
            KnownName {
                name: name.clone(),
                left: until.saturating_duration_since(now),
                addresses: found.into_iter().flat_map(|it| it.iter().map(SocketAddr::ip)).collect(),
            }
        };
        let mut names: Vec<_> = self.0.known.iter().map(|it| known(it.key(), it.value())).collect();
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        names
    }

    /// All zones that names are in, in order.
    pub fn zones(&self) -> Vec<KnownZone> {
        let mut counts = BTreeMap::<String, usize>::new();
        for name in &self.0.known {
            if let Some(zone) = zone_of(name.key()) {
                *counts.entry(zone.to_owned()).or_default() += 1;
            }
        }
        let serials = self.0.serials.lock();
        let zone = |(name, names): (String, usize)| {
            let serial = serials.get(&name).copied().unwrap_or(0);
            KnownZone { name, serial, names }
        };
        counts.into_iter().map(zone).collect()
    }

    /// How many look-ups are under way.
    pub fn asking(&self) -> usize {
        self.0.asking.load(Ordering::Relaxed)
    }
}

impl Entry {
    fn fresh(&self, now: Instant) -> Option<Found> {
        let state = self.state.lock();
        state.answer.as_ref().filter(|it| now < it.until).map(|it| it.found.clone())
    }

    fn is_fresh_or_asked(&self, now: Instant) -> bool {
        let state = self.state.lock();
        state.is_asked || state.answer.as_ref().is_some_and(|it| now < it.until)
    }
}

/// A look-up under way. However it ends, those who wait for it hear of it.
struct Asking {
    names: Names,
    name: String,
    entry: Arc<Entry>,
}

impl Asking {
    fn answer(self, found: Result<source::Addresses, String>) {
        let times = **self.names.0.times.load();
        let found = found.and_then(|it| match it.addresses.is_empty() {
            true => Err("no address".to_owned()),
            false => Ok(it),
        });
        let (found, ttl) = match found {
            Ok(found) => {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for address in found.addresses {
                    if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                        addresses.push(address);
                    }
                }
                (Ok(Arc::from(addresses)), found.ttl.map_or(times.max_ttl, |it| it.min(times.max_ttl)))
            }
            Err(why) => {
                tracing::warn!("DNS lookup failed: {}: {why}", self.name);
                (Err(Arc::from(why)), times.nxdomain_ttl)
            }
        };
        let gone = self.store(found, Instant::now() + ttl);
        if !gone.is_empty() {
            // Nobody listens where the process is about to end.
            let _ = self.names.0.moves.send(AddressesGone { name: self.name.clone(), gone });
        }
    }

    /// Returns the addresses that are no more in the answer.
    fn store(&self, found: Found, until: Instant) -> Vec<IpAddr> {
        let mut state = self.entry.state.lock();
        let mut gone = Vec::new();
        if let Ok(addresses) = &found {
            let is_there = |ip: &IpAddr| addresses.iter().any(|it| it.ip() == *ip);
            gone = state.last.iter().map(SocketAddr::ip).filter(|ip| !is_there(ip)).collect();
            state.last = Arc::clone(addresses);
        }
        state.answer = Some(Answer { found, until });
        gone
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.entry.state.lock().is_asked = false;
        self.names.0.asking.fetch_sub(1, Ordering::Relaxed);
        self.entry.answered.notify_waiters();
    }
}

/// What follows the first label of a name, as PgBouncer takes it: `zone_register` in src/dnslookup.c.
fn zone_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, zone)| zone).filter(|zone| !zone.is_empty())
}

/// Serial numbers wrap around: RFC 1982.
fn is_later(serial: u32, before: u32) -> bool {
    serial.wrapping_sub(before).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_what_follows_the_first_label() {
        for (name, zone) in
            [("db.example.org", Some("example.org")), ("localhost", None), ("db.", None), ("a.b", Some("b"))]
        {
            assert_eq!(zone_of(name), zone, "{name}");
        }
    }

    #[test]
    fn serial_numbers_wrap_around() {
        for (serial, before, later) in [(2, 1, true), (1, 1, false), (1, 2, false), (3, u32::MAX, true)] {
            assert_eq!(is_later(serial, before), later, "{before} -> {serial}");
        }
    }

    fn answer(names: &Names, addresses: &[&str]) {
        let addresses =
            addresses.iter().map(|it| SocketAddr::new(it.parse().expect("an address"), 0)).collect();
        let entry = names.entry("db.example");
        names.0.asking.fetch_add(1, Ordering::Relaxed);
        let asking = Asking { names: names.clone(), name: "db.example".into(), entry };
        asking.answer(Ok(source::Addresses { addresses, ttl: None }));
    }

    #[tokio::test]
    async fn addresses_take_turns_and_those_that_vanish_are_told() {
        let (names, mut moved) = Names::new(&Settings::default()).expect("the system's");
        answer(&names, &["192.0.2.1", "192.0.2.2", "192.0.2.1"]);
        let mut first = Vec::new();
        for _ in 0..3 {
            let addresses = names.addresses("db.example", 5432).await.expect("they are known");
            assert_eq!(addresses.len(), 2);
            first.push(addresses[0].to_string());
        }
        assert_eq!(first, ["192.0.2.1:5432", "192.0.2.2:5432", "192.0.2.1:5432"]);
        assert!(moved.try_recv().is_err());
        answer(&names, &["192.0.2.2", "192.0.2.3"]);
        let gone = vec!["192.0.2.1".parse().expect("an address")];
        assert_eq!(moved.try_recv(), Ok(AddressesGone { name: "db.example".into(), gone }));
        assert_eq!(names.asking(), 0);
        let known = names.names();
        assert_eq!((known.len(), known[0].addresses.len()), (1, 2));
        assert_eq!(names.zones(), [KnownZone { name: "example".into(), serial: 0, names: 1 }]);
    }

    #[tokio::test]
    async fn a_name_that_led_astray_is_looked_up_anew() {
        let names = Names::default();
        answer(&names, &["192.0.2.1"]);
        assert!(names.entry("db.example").fresh(Instant::now()).is_some());
        names.doubt("db.example");
        names.doubt("unheard.of");
        assert!(names.entry("db.example").fresh(Instant::now()).is_none());
        assert_eq!(names.names().len(), 1);
    }

    #[tokio::test]
    async fn a_failure_is_remembered_and_those_who_wait_hear_of_it() {
        let names = Names::default();
        let (one, other) =
            tokio::join!(names.addresses("name.invalid", 1), names.addresses("name.invalid", 1));
        assert!(one.is_err() && one == other);
        assert!(names.entry("name.invalid").fresh(Instant::now()).is_some_and(|found| found.is_err()));
    }
}
