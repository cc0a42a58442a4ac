//! What a pool does between the loss of its servers and the coming of those that take their place.
//!
//! In a switchover PostgreSQL goes away in one place and comes back in another. For `switchover_timeout` after a server
//! was lost, clients wait although connecting fails, and it is tried again soon. A pool that has lost a primary waits for
//! one: a standby that is found under the old name is not taken meanwhile.

use std::time::{Duration, Instant};

use crate::session::params::Role;

/// How soon it is tried again, at most: a switchover takes seconds, `server_login_retry` is meant for outages.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// What is being waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Expected {
    until: Instant,
    role: Role,
}

/// What is known of a pool's servers of the past, and expected of the next one.
#[derive(Debug, Default)]
pub struct Succession {
    had_primary: bool,
    expected: Option<Expected>,
}

impl Succession {
    /// A server has been opened.
    pub fn came(&mut self, role: Role) {
        self.had_primary |= role == Role::Primary;
        self.expected = None;
    }

    /// A server is gone by its own doing. Zero `limit`: nobody waits for another.
    pub fn lost(&mut self, role: Role, limit: Duration, now: Instant) {
        if limit.is_zero() {
            return;
        }
        let awaits_primary = role == Role::Primary || self.awaits_primary(now);
        let role = if awaits_primary { Role::Primary } else { Role::Unknown };
        self.expected = Some(Expected { until: now + limit, role });
    }

    /// A standby has refused to write. Returns whether the pool is to leave it: it has had a primary before.
    pub fn demoted(&mut self, limit: Duration, now: Instant) -> bool {
        if !self.had_primary || limit.is_zero() {
            return false;
        }
        // Once; until it has a primary again, that its servers are standbys is no news.
        self.had_primary = false;
        self.lost(Role::Primary, limit, now);
        true
    }

    /// Whether clients wait although connecting has failed.
    pub fn is_awaited(&self, now: Instant) -> bool {
        self.expected.is_some_and(|it| now < it.until)
    }

    /// Whether a standby is not what is being waited for.
    pub fn awaits_primary(&self, now: Instant) -> bool {
        self.expected.is_some_and(|it| now < it.until && it.role == Role::Primary)
    }

    /// When to try again that would wait for `retry` otherwise.
    pub fn retry(&self, retry: Duration, now: Instant) -> Duration {
        if self.is_awaited(now) { retry.min(RETRY_MAX) } else { retry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_pool_that_lost_its_primary_takes_no_standby_for_a_while() {
        let (mut pool, now) = (Succession::default(), Instant::now());
        pool.came(Role::Primary);
        assert!(!pool.awaits_primary(now) && !pool.is_awaited(now));
        pool.lost(Role::Primary, LIMIT, now);
        assert!(pool.awaits_primary(now) && pool.retry(LIMIT, now) == RETRY_MAX);
        // Another one that goes meanwhile changes nothing, whatever it was.
        pool.lost(Role::Unknown, LIMIT, now);
        assert!(pool.awaits_primary(now));
        assert!(!pool.awaits_primary(now + LIMIT) && pool.retry(LIMIT, now + LIMIT) == LIMIT);
        pool.came(Role::Primary);
        assert!(!pool.is_awaited(now));
    }

    #[test]
    fn a_pool_of_standbys_waits_for_any_server() {
        let (mut pool, now) = (Succession::default(), Instant::now());
        pool.came(Role::Standby);
        pool.lost(Role::Standby, LIMIT, now);
        assert!(pool.is_awaited(now) && !pool.awaits_primary(now));
        assert!(!pool.demoted(LIMIT, now), "its clients are wrong, not its servers");
    }

    #[test]
    fn a_refused_write_is_news_once() {
        let (mut pool, now) = (Succession::default(), Instant::now());
        pool.came(Role::Primary);
        assert!(pool.demoted(LIMIT, now) && pool.awaits_primary(now));
        assert!(!pool.demoted(LIMIT, now));
        pool.came(Role::Primary);
        assert!(pool.demoted(LIMIT, now));
    }

    #[test]
    fn without_a_limit_nothing_is_waited_for() {
        let (mut pool, now) = (Succession::default(), Instant::now());
        pool.came(Role::Primary);
        pool.lost(Role::Primary, Duration::ZERO, now);
        assert!(!pool.is_awaited(now) && !pool.demoted(Duration::ZERO, now));
    }
}
