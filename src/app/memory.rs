//! Gives memory back to the system once many clients have left.
//!
//! The C library keeps what was freed, in whole pages, wherever something that is still in use lies behind it: after a
//! crowd of clients that is nearly all they had (measured in docs/performance.md). So it is told to let go of them,
//! once the maps of clients have given up what room they no longer need, and seldom enough that nobody notices the time
//! it takes. The C library is told only where it is glibc.
//!
//! The one call is `unsafe` for being foreign. It has no preconditions: malloc_trim(3) may be called at any time, from
//! any thread (it is MT-safe), and touches only memory that nobody has.

/// Clients that must have left since the last time. Fewer leave nothing behind that is worth the work.
const LEFT_MIN: usize = 256;

/// Watches how many clients there are.
#[derive(Debug, Default)]
pub struct Tide {
    /// The most there have been since memory was last given back.
    high: usize,
}

impl Tide {
    /// To be called every now and then; gives memory back where it is time, after `shrink` has made what grew with the
    /// clients smaller.
    pub fn observe(&mut self, clients: usize, shrink: impl FnOnce()) {
        if self.is_out(clients) {
            shrink();
            give_back();
        }
    }

    /// Whether a quarter of the clients, and no fewer than [`LEFT_MIN`], have left since the last time.
    fn is_out(&mut self, clients: usize) -> bool {
        let left = self.high.saturating_sub(clients);
        let is_out = left >= LEFT_MIN && left >= self.high / 4;
        self.high = if is_out { clients } else { self.high.max(clients) };
        is_out
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    #[expect(
        unsafe_code,
        reason = "a foreign function; why it is safe to call stands at the head of this file"
    )]
    let released = unsafe { libc::malloc_trim(0) } != 0;
    tracing::debug!(released, "memory of clients that have left was given back");
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_crowd_that_left() {
        let mut tide = Tide::default();
        let seen: Vec<bool> = [0, 5000, 4000, 3750, 3700, 3000, 2000, 1990, 5000, 0, 0, 255, 0]
            .into_iter()
            .map(|clients| tide.is_out(clients))
            .collect();
        let expected =
            [false, false, false, true, false, false, true, false, false, true, false, false, false];
        assert_eq!(seen, expected);
        let mut shrunk = 0;
        for clients in [10_000, 0, 0] {
            tide.observe(clients, || shrunk += 1);
        }
        assert_eq!((tide.high, shrunk), (0, 1));
    }
}
