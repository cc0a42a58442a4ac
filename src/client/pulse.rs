//! A timer that is due soon, for as long as clients come, so that their own need not rouse the reactor.
//!
//! tokio writes to a descriptor, so as to wake the thread that waits in its reactor, whenever a timer is set that is due
//! before all others; also where that thread sets it itself. With few clients the timer of every login is such a one.
//! While this one is set, none is. Without clients it does not run.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Shorter than the limits that logins have as a rule.
const PERIOD: Duration = Duration::from_secs(1);

/// One worker's.
#[derive(Default, Debug)]
pub struct Pulse {
    runs: Cell<bool>,
    /// Somebody has come since it last looked.
    wanted: Cell<bool>,
}

impl Pulse {
    /// A client comes: it runs for a while, in a task of its own.
    pub fn keep(self: &Rc<Self>) {
        self.wanted.set(true);
        if !self.runs.replace(true) {
            let pulse = Rc::clone(self);
            tokio::task::spawn_local(async move {
                while pulse.wanted.replace(false) {
                    tokio::time::sleep(PERIOD).await;
                }
                pulse.runs.set(false);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_runs_only_while_clients_come() {
        let clients = async {
            let pulse = Rc::new(Pulse::default());
            for after in [PERIOD / 2, PERIOD / 2, 3 * PERIOD, PERIOD / 2, 3 * PERIOD] {
                pulse.keep();
                tokio::time::sleep(after).await;
                let runs = after < PERIOD;
                assert_eq!(pulse.runs.get(), runs);
                assert_eq!(Rc::strong_count(&pulse), 1 + usize::from(runs));
            }
        };
        tokio::task::LocalSet::new().run_until(clients).await;
    }
}
