//! What happens next, by chance: bytes move, servers work, and now and then something breaks.

use std::io::IoSlice;
use std::time::Duration;

use pgweir::pool::schedule::Flow;
use pgweir::session::pipe::SLICES_MAX;
use pgweir::session::verdict::CloseReason;
use pgweir::wire::{Report, SqlState};

use super::client::REFUSED;
use super::world::{Cancel, Step, World, is_silent, room};

/// The words for a client that cancels while it waits.
const CANCELLED: &str = "refused by the pooler: canceling statement due to user request";

impl World<'_> {
    pub fn random_step(&mut self) -> Step {
        let peer = self.rng.below(self.peers.len());
        match self.rng.below(24) {
            0..=4 => drop(self.act(peer)?),
            5..=8 => drop(self.client_to_relay(peer)?),
            9..=11 => drop(self.relay_to_server(peer)?),
            12..=14 => drop(self.server_to_relay(peer)?),
            15..=17 => drop(self.relay_to_client(peer)?),
            18..=20 if !self.processes.is_empty() => {
                let number = self.rng.below(self.processes.len());
                self.serve(number)?;
            }
            21 | 22 => drop(self.tend_pool()?),
            _ if self.rng.one_in(3) => self.chaos()?,
            _ => {}
        }
        Ok(())
    }

    /// Everything that can happen without chance happens once. False: nothing did.
    pub fn round(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for peer in 0..self.peers.len() {
            moved |= self.act(peer)?;
            moved |= self.client_to_relay(peer)?;
            moved |= self.relay_to_server(peer)?;
            moved |= self.server_to_relay(peer)?;
            moved |= self.relay_to_client(peer)?;
        }
        for number in 0..self.processes.len() {
            moved |= self.serve(number)?;
        }
        for _ in 0..self.pools.len() * 4 {
            moved |= self.tend_pool()?;
        }
        if !self.cancels.is_empty() {
            self.deliver_cancel()?;
        }
        self.now += Duration::from_millis(5);
        for pool in 0..self.pools.len() {
            self.open_servers(pool);
        }
        Ok(moved)
    }

    /// From here on nothing breaks any more, and everything must come to its end.
    pub fn calm_down(&mut self) -> Step {
        self.note(|| "calm".into());
        self.calm = true;
        for pool in 0..self.pools.len() {
            self.pools[pool].schedule.set_flow(Flow::Running);
            self.open_servers(pool);
        }
        Ok(())
    }

    fn act(&mut self, peer: usize) -> Result<bool, String> {
        let it = &mut self.peers[peer];
        if it.closed || it.client.outbox.len() > 256 * 1024 {
            return Ok(false);
        }
        Ok(it.client.act(&mut self.rng))
    }

    fn client_to_relay(&mut self, peer: usize) -> Result<bool, String> {
        let it = &mut self.peers[peer];
        if it.closed || it.client.outbox.is_empty() || !it.relay.from_client().has_space() {
            return Ok(false);
        }
        let count = self.rng.cut(it.client.outbox.len());
        let bytes = it.client.outbox.as_slice()[..count].to_vec();
        let taken = self.fill(peer, true, &bytes);
        self.peers[peer].client.outbox.drop_front(taken);
        self.attend(peer)?;
        Ok(taken > 0)
    }

    fn server_to_relay(&mut self, peer: usize) -> Result<bool, String> {
        let Some((_, backend)) = self.peers[peer].lease else { return Ok(false) };
        if !self.peers[peer].relay.from_server().has_space() {
            return Ok(false);
        }
        let process = &mut self.processes[backend];
        if process.backend.output.is_empty() {
            if !process.backend.is_dead() {
                return Ok(false);
            }
            self.note(|| format!("client {peer} loses server {backend}"));
            self.peers[peer].client.doomed = Some("its server died");
            self.tell(peer, |relay, turn| relay.on_server_gone(turn));
            self.attend(peer)?;
            return Ok(true);
        }
        let count = self.rng.cut(process.backend.output.len());
        let bytes = process.backend.output.as_slice()[..count].to_vec();
        let taken = self.fill(peer, false, &bytes);
        self.processes[backend].backend.output.drop_front(taken);
        self.attend(peer)?;
        Ok(taken > 0)
    }

    fn relay_to_server(&mut self, peer: usize) -> Result<bool, String> {
        let Some((_, backend)) = self.peers[peer].lease else { return Ok(false) };
        let room = room(&self.processes[backend]);
        let bytes = self.ready(peer, false, room);
        if bytes.is_empty() {
            return Ok(false);
        }
        // What is sent to a dead server is lost.
        self.processes[backend].backend.input.push(&bytes);
        self.tell(peer, |relay, turn| relay.on_sent_to_server(bytes.len(), turn));
        self.attend(peer)?;
        Ok(true)
    }

    fn relay_to_client(&mut self, peer: usize) -> Result<bool, String> {
        // Some read slowly.
        if self.peers[peer].closed || (!self.calm && peer.is_multiple_of(3) && !self.rng.one_in(4)) {
            return Ok(false);
        }
        let bytes = self.ready(peer, true, usize::MAX);
        if bytes.is_empty() {
            return Ok(false);
        }
        self.peers[peer].client.receive(&bytes)?;
        self.tell(peer, |relay, turn| relay.on_sent_to_client(bytes.len(), turn));
        self.attend(peer)?;
        Ok(true)
    }

    /// Some of what a relay has ready for one side.
    fn ready(&mut self, peer: usize, for_client: bool, most: usize) -> Vec<u8> {
        let relay = &self.peers[peer].relay;
        let pipe = if for_client { relay.to_client() } else { relay.to_server() };
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = pipe.slices(&mut slices);
        let mut bytes: Vec<u8> = slices[..used].iter().flat_map(|it| it.iter().copied()).collect();
        let available = bytes.len().min(most);
        let count = if available == 0 { 0 } else { self.rng.cut(available) };
        bytes.truncate(count);
        bytes
    }

    /// A server does one thing.
    fn serve(&mut self, number: usize) -> Result<bool, String> {
        let process = &mut self.processes[number];
        if process.closed {
            return Ok(false);
        }
        let at = |it: String| format!("server {number}: {it}");
        let moved = if process.backend.is_slow() {
            let wakes = self.rng.one_in(6);
            if wakes {
                process.backend.wake(false).map_err(at)?;
            }
            true
        } else {
            process.backend.step().map_err(at)?
        };
        let pool = process.pool;
        for line in process.backend.diary.iter_mut().flat_map(|it| it.drain(..)).collect::<Vec<_>>() {
            self.note(|| format!("server {number} {line}"));
        }
        let process = &mut self.processes[number];
        let said = std::mem::take(&mut process.backend.session.committed_notifies);
        for other in self.processes.iter_mut().filter(|it| it.pool == pool) {
            other.backend.notifications.extend(said.iter().cloned());
        }
        Ok(moved)
    }

    fn tend_pool(&mut self) -> Result<bool, String> {
        let pool = self.rng.below(self.pools.len());
        let fails = !self.calm && self.rng.one_in(12);
        match self.rng.below(4) {
            0 => self.opened(pool, fails),
            1 => Ok(self.closed(pool)),
            2 if !self.pools[pool].resets.is_empty() => {
                let index = self.rng.below(self.pools[pool].resets.len());
                self.hear_reset(pool, index)
            }
            3 => self.examine_idle(pool),
            _ => Ok(false),
        }
    }

    /// Hears the idle servers that have spoken.
    fn examine_idle(&mut self, pool: usize) -> Result<bool, String> {
        let speaks = |it: &usize| !self.processes[*it].closed && !is_silent(&self.processes[*it]);
        let backends: Vec<usize> =
            (0..self.processes.len()).filter(|it| self.processes[*it].pool == pool).filter(speaks).collect();
        let mut moved = false;
        for backend in backends {
            moved |= self.examine(pool, self.processes[backend].seat, backend)?;
        }
        Ok(moved)
    }

    fn chaos(&mut self) -> Step {
        let peer = self.rng.below(self.peers.len());
        let pool = self.peers[peer].pool;
        match self.rng.below(15) {
            0 => self.kill_server(),
            1 => self.vanish(peer)?,
            2 | 3 => self.cancel(peer)?,
            4 => self.deliver_cancel()?,
            5 => self.refuse_waiting(peer)?,
            6 => {
                let flow = if self.rng.one_in(2) { Flow::Paused } else { Flow::Running };
                self.note(|| format!("pool {pool} is {flow:?}"));
                let closing = self.pools[pool].schedule.set_flow(flow);
                self.close_all(pool, closing);
                self.open_servers(pool);
            }
            7 if self.rng.one_in(2) => {
                self.note(|| format!("pool {pool} is renewed"));
                let closing = self.pools[pool].schedule.renew();
                self.close_all(pool, closing);
                self.open_servers(pool);
            }
            8 => self.resize(pool),
            9 => self.change_types(pool),
            10 => self.speak(),
            11 => self.time_out(peer)?,
            12 => {
                let notice = Report::notice("no server available, put in queue");
                self.tell(peer, |relay, turn| relay.notify(&notice, turn));
            }
            13 => {
                let closing = self.pools[pool].schedule.upkeep(self.now);
                self.close_all(pool, closing);
                self.open_servers(pool);
            }
            _ => self.now += Duration::from_millis(self.rng.below(200) as u64),
        }
        Ok(())
    }

    fn kill_server(&mut self) {
        if self.processes.is_empty() || !self.rng.one_in(3) {
            return;
        }
        let number = self.rng.below(self.processes.len());
        let process = &mut self.processes[number];
        if process.closed || process.backend.is_dead() {
            return;
        }
        let word = self.rng.one_in(2);
        if !word && !process.backend.output.is_empty() {
            // Some of what it said is lost on the way.
            let kept = self.rng.below(process.backend.output.len());
            process.backend.output.truncate(kept);
        }
        process.backend.die(word);
        if let Some(peer) = process.peer {
            self.peers[peer].client.doomed = Some("its server died");
        }
        self.note(|| format!("server {number} dies, {}", if word { "with a word" } else { "silently" }));
    }

    /// A client's connection breaks.
    fn vanish(&mut self, peer: usize) -> Step {
        if !self.rng.one_in(3) {
            return Ok(());
        }
        if self.peers[peer].closed {
            // Its time to be brought to rest is over.
            self.note(|| format!("client {peer} is abandoned"));
            self.tell(peer, |relay, _| relay.abandon());
        } else {
            self.note(|| format!("client {peer} vanishes"));
            self.cancel_what_runs(peer);
            self.leave(peer);
        }
        self.attend(peer)
    }

    fn cancel(&mut self, peer: usize) -> Step {
        let it = &mut self.peers[peer];
        if it.closed {
            return Ok(());
        }
        if let Some(ticket) = it.ticket {
            self.pools[it.pool].schedule.abandon(ticket).ok_or("a waiter was not in the queue")?;
            it.ticket = None;
            let report = Report::error(SqlState::QUERY_CANCELED, CANCELLED);
            self.refuse(peer, &report);
            return self.attend(peer);
        }
        self.cancel_what_runs(peer);
        Ok(())
    }

    fn cancel_what_runs(&mut self, peer: usize) {
        let it = &mut self.peers[peer];
        let Some((seat, backend)) = it.lease else { return };
        if it.relay.is_busy() && self.pools[it.pool].schedule.hold(seat) {
            it.client.cancels += 1;
            let cancel = Cancel { pool: it.pool, seat, backend, client: peer };
            self.cancels.push(cancel);
            self.note(|| format!("client {peer} cancels on server {backend}"));
        }
    }

    /// A cancel request arrives, and PostgreSQL closes its connection.
    fn deliver_cancel(&mut self) -> Step {
        if self.cancels.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.cancels.len());
        let Cancel { pool, seat, backend, client } = self.cancels.swap_remove(index);
        let process = &mut self.processes[backend];
        if process.peer.is_some_and(|it| it != client) {
            return Err(format!("the cancel of client {client} hits client {:?}", process.peer));
        }
        let hit =
            !process.closed && process.backend.cancel().map_err(|it| format!("server {backend}: {it}"))?;
        self.note(|| format!("the cancel of client {client} reaches server {backend}, hits {hit}"));
        match self.pools[pool].schedule.unhold(seat, self.now, |_| true) {
            Some(release) => self.place(pool, release),
            None => Ok(()),
        }
    }

    /// Its patience is over, and it is told so.
    fn refuse_waiting(&mut self, peer: usize) -> Step {
        let it = &mut self.peers[peer];
        let Some(ticket) = it.ticket.take() else { return Ok(()) };
        self.pools[it.pool].schedule.abandon(ticket).ok_or("a waiter was not in the queue")?;
        if self.rng.one_in(3) {
            self.note(|| format!("client {peer} has waited too long"));
            self.peers[peer].client.doomed = Some("query_wait_timeout");
            let report = Report::fatal(SqlState::PROTOCOL_VIOLATION, "query_wait_timeout");
            self.tell(peer, |relay, turn| relay.end(report, CloseReason::Timeout, turn));
        } else {
            let report = Report::error(SqlState::QUERY_CANCELED, format!("{REFUSED}too busy"));
            self.refuse(peer, &report);
        }
        self.attend(peer)
    }

    fn time_out(&mut self, peer: usize) -> Step {
        let it = &mut self.peers[peer];
        if it.closed || it.lease.is_none() || !self.rng.one_in(4) {
            return Ok(());
        }
        it.client.doomed = Some("query_timeout");
        self.note(|| format!("client {peer} has taken too long"));
        let report = Report::fatal(SqlState::QUERY_CANCELED, "query_timeout");
        self.tell(peer, |relay, turn| relay.end(report, CloseReason::Timeout, turn));
        self.attend(peer)
    }

    fn resize(&mut self, pool: usize) {
        let size = self.rng.range(1, 5);
        let it = &mut self.pools[pool];
        it.settings.size = size;
        // Those that are too many go one by one.
        it.limit = it.limit.max(size + it.settings.reserve_size);
        it.schedule.configure(it.settings.clone());
        self.note(|| format!("pool {pool} has room for {size}"));
        self.open_servers(pool);
    }

    /// ALTER TABLE: prepared statements that return rows are out of date.
    fn change_types(&mut self, pool: usize) {
        self.note(|| format!("result types of pool {pool} change"));
        self.pools[pool].epoch += 1;
        let epoch = self.pools[pool].epoch;
        for process in self.processes.iter_mut().filter(|it| it.pool == pool) {
            process.backend.session.epoch = epoch;
        }
    }

    /// Servers say something that nobody asked for.
    fn speak(&mut self) {
        if self.processes.is_empty() {
            return;
        }
        let number = self.rng.below(self.processes.len());
        let value = if self.rng.one_in(2) { "on" } else { "off" };
        let notices = self.rng.one_in(2);
        let process = &mut self.processes[number];
        if process.closed {
            return;
        }
        if notices {
            process.backend.notice("checkpoints are occurring too frequently");
        } else {
            process.backend.session.reconfigure("in_hot_standby", value);
        }
    }
}
