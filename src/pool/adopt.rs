//! Servers that another process has opened.
//!
//! Owns their way into a pool: an idle one as if it had just been opened, one in use as the loan that it is. Limits
//! count them like all others. One in use is never turned away for a limit: it is there already, and nothing new is
//! opened until the limit is kept again, as after a limit has been lowered.

use std::sync::Arc;
use std::time::Instant;

use super::caller::Claim;
use super::connection::Connection;
use super::lease::{Busy, Given, Lease, Member};
use super::limits::Permit;
use super::sync::Ordering;
use super::{OpenTask, Pool};
use crate::session::params::Values;

impl<C: Connection> Pool<C> {
    /// What servers report when nobody has changed it, as the process before knew it.
    pub fn adopt_welcome(&self, reported: Arc<Values>) {
        self.welcome.store(Some(reported));
    }

    /// Takes in an idle server that was opened at `born`. To be called on the worker that is its home.
    pub fn adopt(self: &Arc<Self>, conn: C, born: Instant) {
        let permit = Permit { database: self.database.take_for_old(), user: self.user.take_for_old() };
        let opening = self.lock().adopt(born, conn.home());
        let task = OpenTask {
            pool: Arc::clone(self),
            opening,
            begun: born,
            permit: Some(permit),
            logging_in: None,
            owner: None,
        };
        task.admit(conn, Instant::now());
    }
}

impl<C: Connection> Claim<C> {
    /// Takes in the server that the client has had in the process before. To be called on the client's worker.
    pub fn adopt(&self, pool: &Arc<Pool<C>>, conn: C, born: Instant) -> Lease<Busy, C> {
        let permit = Permit { database: pool.database.take_for_old(), user: pool.user.take_for_old() };
        let opening = pool.lock().adopt(born, conn.home());
        let connected = conn.connected(&pool.key);
        pool.has_opened.store(true, Ordering::Relaxed);
        {
            let mut schedule = pool.lock();
            schedule.came(conn.reported().role());
            if let Some(address) = connected.peer.ip() {
                schedule.located(opening.seat, address);
            }
        }
        let entry = pool.setup.roster.server(connected, born);
        entry.set_pid(conn.backend());
        entry.set_application_name(conn.reported().text("application_name"));
        let given = Given { permit, entry, born, generation: opening.generation };
        let member = Member::new(&pool.me, opening.seat, conn, given);
        pool.lock().lend(opening.seat, self.caller().id(), Instant::now());
        self.link(pool, opening.seat, member)
    }
}
