//! What the integration tests stand on: private PostgreSQL clusters, pgweir processes and a protocol client of their
//! own.
//!
//! Nothing here uses pgweir's own code: the client that speaks the protocol is a second opinion on it. Every server a
//! test starts is on 127.0.0.1 and ends with the test process, whatever way that ends.

pub mod bouncer;
pub mod certs;
pub mod cluster;
pub mod dns;
pub mod message;
pub mod pgbouncer;
pub mod place;
pub mod pooler;
pub mod raw;
pub mod slapd;

use std::time::{Duration, Instant};

/// What nearly every test uses.
pub mod prelude {
    pub use super::cluster::Cluster;
    pub use super::message::*;
    pub use super::pooler::{Pooler, Setup};
    pub use super::raw::Raw;
    pub use super::{Random, eventually};
    pub use rustix::process::Signal;
    pub use std::time::{Duration, Instant};
}

/// How long anything in a test may take before it counts as hanging. Long, for slow and busy machines: no test waits
/// for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until `probe` is true; fails the test when it never is.
#[track_caller]
pub fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A small generator of pseudo-random numbers (xorshift64*), so that a seed alone replays a test.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).expect("31 bits fit") % bound
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
