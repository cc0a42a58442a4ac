//! The world and its driver: it does for relays and schedules what tasks and sockets do in the real one, and asserts
//! the invariants wherever it can see them.

use std::time::{Duration, Instant};

use pgweir::config::{Compatibility, PoolMode, PoolSettings};
use pgweir::ids::{ClientId, WorkerId};
use pgweir::pool::schedule::{
    Asker, Checkout, Closing, Flow, OpenFailure, Opening, Release, Schedule, Seat, WaitTicket,
};
use pgweir::prepared::Registry;
use pgweir::session::params::{Parameters, Values};
use pgweir::session::pipe::Spare;
use pgweir::session::relay::{Closing as RelayClosing, Rules, Turn};
use pgweir::session::server::Server;
use pgweir::session::verdict::{CloseReason, Verdict};
use pgweir::session::{Relay, residue::Residue};
use pgweir::stats::Cell;
use pgweir::wire::{Report, SqlState};

use super::client::{Client, REFUSED};
use super::message::{Fields, Framer, Message, query};
use super::postgres::Backend;
use super::postgres::session::REPORTED;
use super::rng::Rng;
use super::trace::Trace;
use super::workload::{Mode, Workload};

/// Steps of chaos before everything is brought to its end.
const STEPS: usize = 2500;
/// Rounds in which everything must have come to its end.
const ROUNDS_MAX: usize = 20_000;
/// Rounds without any progress after which nothing will happen any more. Virtual time passes in them.
const IDLE_ROUNDS_MAX: usize = 300;
/// What the kernel holds for a server that does not read.
const SERVER_INPUT_BYTES_MAX: usize = 48 * 1024;
/// A pipe may hold this much that is decided, whatever happens: its store, what was inserted, and a message's names.
const READY_BYTES_MAX: usize = 1024 * 1024;

/// A server connection in the hands of the driver.
pub struct Handle {
    pub backend: usize,
    pub session: Box<Server>,
}

/// A server that is being cleaned.
pub struct Reset {
    pub seat: Seat,
    pub handle: Handle,
    worker: WorkerId,
    framer: Framer,
    all: bool,
    failed: bool,
    ready: bool,
}

pub struct Pool {
    pub schedule: Schedule<Handle, usize, Report>,
    pub settings: PoolSettings,
    pub rules: Rules,
    pub openings: Vec<Opening>,
    pub resets: Vec<Reset>,
    /// Closed, but still counted.
    pub closing: Vec<(Seat, usize)>,
    /// The most servers it may have had since it was last resized.
    pub limit: usize,
    pub epoch: u32,
    welcome: std::sync::Arc<Values>,
}

/// A client with its relay.
pub struct Peer {
    pub client: Client,
    pub relay: Relay,
    pub pool: usize,
    pub worker: WorkerId,
    pub lease: Option<(Seat, usize)>,
    pub ticket: Option<WaitTicket>,
    /// The connection is closed, by one side or the other.
    pub closed: bool,
}

impl Peer {
    pub fn is_over(&self) -> bool {
        self.closed && !self.relay.has_server()
    }
}

/// A server process, and which pool it belongs to.
pub struct Process {
    pub backend: Backend,
    pub pool: usize,
    /// The pooler has closed the connection.
    pub closed: bool,
    /// Who has it on loan.
    pub peer: Option<usize>,
    pub seat: Seat,
}

/// A cancel request on its way.
pub struct Cancel {
    pub pool: usize,
    pub seat: Seat,
    pub backend: usize,
    pub client: usize,
}

pub struct World<'t> {
    pub rng: Rng,
    pub now: Instant,
    began: Instant,
    pub pools: Vec<Pool>,
    pub processes: Vec<Process>,
    pub peers: Vec<Peer>,
    pub cancels: Vec<Cancel>,
    registry: Registry,
    stats: Cell,
    spare: Spare,
    /// Nothing is broken any more.
    pub calm: bool,
    pub trace: &'t Trace,
}

pub type Step = Result<(), String>;

impl<'t> World<'t> {
    pub fn new(seed: u64, trace: &'t Trace) -> Self {
        let mut rng = Rng::new(seed);
        let began = Instant::now();
        let pools: Vec<Pool> = (0..rng.range(1, 2)).map(|_| new_pool(&mut rng)).collect();
        // Where none are kept, whoever waits keeps what it has said in a store of that size.
        let buffers_kept = *rng.pick(&[0, 1, 256]);
        let mut world = Self {
            rng,
            now: began,
            began,
            pools,
            processes: Vec::new(),
            peers: Vec::new(),
            cancels: Vec::new(),
            registry: Registry::default(),
            stats: Cell::default(),
            spare: Spare::keeping(buffers_kept),
            calm: false,
            trace,
        };
        for _ in 0..world.rng.range(1, 7) {
            world.connect_client();
        }
        world
    }

    pub fn run(mut self) -> Step {
        for _ in 0..STEPS {
            self.now += Duration::from_micros(self.rng.below(400) as u64);
            self.random_step()?;
            self.check()?;
            if self.peers.iter().all(Peer::is_over) {
                break;
            }
        }
        self.calm_down()?;
        let (mut rounds, mut idle) = (0, 0);
        while !self.peers.iter().all(Peer::is_over) {
            idle = if self.round()? { 0 } else { idle + 1 };
            rounds += 1;
            if idle > IDLE_ROUNDS_MAX || rounds > ROUNDS_MAX {
                return Err(format!("nothing moves any more: {}", self.describe()));
            }
            self.check()?;
        }
        for _ in 0..100 {
            self.round()?;
        }
        self.check_end()
    }

    pub fn note(&self, event: impl FnOnce() -> String) {
        let at = self.now.duration_since(self.began);
        self.trace.note(|| format!("{at:>12.6?} {}", event()));
    }

    fn connect_client(&mut self) {
        let pool = self.rng.below(self.pools.len());
        let rules = self.pools[pool].rules;
        let mode = match rules.mode {
            PoolMode::Session => Mode::Session,
            PoolMode::Transaction => Mode::Transaction,
            PoolMode::Statement => Mode::Statement,
        };
        let mut workload = Workload::new(mode, rules.prepared_max > 0, &mut self.rng);
        let refused = self.rng.one_in(40);
        if refused {
            workload.start.push(("geqo".into(), "invalid".into()));
        }
        let id = self.peers.len();
        let wanted = workload.start.clone();
        let parameters = Parameters::of_client(
            &self.pools[pool].welcome,
            wanted.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let mut client = Client::new(id, workload);
        client.doomed = refused.then_some("its parameters are refused");
        let worker = WorkerId(u16::try_from(self.rng.below(2)).expect("two workers"));
        let relay = Relay::new(rules, parameters, self.now);
        self.note(|| format!("client {id} in pool {pool} ({mode:?}) with {wanted:?}"));
        self.peers.push(Peer { client, relay, pool, worker, lease: None, ticket: None, closed: false });
    }

    /// Tells a relay something.
    pub fn tell<T>(&mut self, peer: usize, event: impl FnOnce(&mut Relay, &mut Turn<'_>) -> T) -> T {
        let mut turn =
            Turn { now: self.now, spare: &mut self.spare, registry: &self.registry, stats: &self.stats };
        event(&mut self.peers[peer].relay, &mut turn)
    }

    /// Bytes into one of a relay's pipes. Returns how many were taken.
    pub fn fill(&mut self, peer: usize, from_client: bool, bytes: &[u8]) -> usize {
        self.tell(peer, |relay, turn| {
            let pipe = if from_client { relay.from_client() } else { relay.from_server() };
            let taken = pipe.fill_from(bytes, turn.spare);
            match (taken, from_client) {
                (0, _) => {}
                (_, true) => relay.on_client_bytes(turn),
                (_, false) => relay.on_server_bytes(turn),
            }
            taken
        })
    }

    /// Does what a relay asks for, until it asks for nothing more.
    pub fn attend(&mut self, peer: usize) -> Step {
        loop {
            let it = &mut self.peers[peer];
            if let Some((session, verdict)) = it.relay.take_released() {
                self.take_back(peer, session, verdict)?;
            } else if it.relay.wants_server() && it.ticket.is_none() && !it.closed {
                self.check_out(peer)?;
                if self.peers[peer].ticket.is_some() {
                    return Ok(());
                }
            } else if it.relay.closing().is_some() && it.relay.to_client().ready() == 0 && !it.closed {
                if it.relay.owes_client() {
                    // It said Terminate, but what it asked before is answered first.
                    return Ok(());
                }
                self.disconnect(peer)?;
            } else {
                return Ok(());
            }
        }
    }

    /// The pooler closes a client's connection.
    fn disconnect(&mut self, peer: usize) -> Step {
        let it = &mut self.peers[peer];
        it.closed = true;
        it.client.closed()?;
        self.note(|| format!("client {peer} is disconnected"));
        // One that was told to go has no server, or one that is in the middle of saying something.
        if self.peers[peer].relay.closing() == Some(&RelayClosing::Terminated) {
            self.leave(peer);
        }
        Ok(())
    }

    /// The client's connection is gone.
    pub fn leave(&mut self, peer: usize) {
        let it = &mut self.peers[peer];
        it.closed = true;
        if let Some(ticket) = it.ticket.take() {
            self.pools[it.pool].schedule.abandon(ticket);
        }
        self.tell(peer, |relay, turn| relay.on_client_gone(turn));
    }

    fn check_out(&mut self, peer: usize) -> Step {
        let (pool, worker) = (self.peers[peer].pool, self.peers[peer].worker);
        let processes = &self.processes;
        let fit = |it: &Handle| is_silent(&processes[it.backend]);
        let asker = Asker { client: ClientId(peer as u64), worker };
        match self.pools[pool].schedule.checkout(asker, self.now, fit, || peer) {
            Checkout::Granted { seat, server } => self.grant(peer, seat, server),
            Checkout::Waits(ticket) => {
                self.note(|| format!("client {peer} waits"));
                self.peers[peer].ticket = Some(ticket);
                self.peers[peer].relay.from_client().settle(&mut self.spare);
                self.open_servers(pool);
                Ok(())
            }
            Checkout::Refused(report) => {
                self.refuse(peer, &report);
                Ok(())
            }
        }
    }

    pub fn refuse(&mut self, peer: usize, report: &Report) {
        self.note(|| format!("client {peer} is refused: {}", report.message));
        self.peers[peer].client.refusals += 1;
        self.tell(peer, |relay, turn| relay.refuse(report, turn));
    }

    /// A client gets a server: the place where anything left by another would show.
    fn grant(&mut self, peer: usize, seat: Seat, handle: Handle) -> Step {
        let Handle { backend, session } = handle;
        self.note(|| format!("client {peer} gets server {backend}"));
        let process = &mut self.processes[backend];
        let extra = &session.parameters.extra;
        let remains = process.backend.remains(|name, value| extra.value(name) == Some(value));
        let silent = process.backend.output.is_empty();
        if !process.backend.is_dead() && !process.backend.is_at_rest() {
            return Err(format!("client {peer} gets server {backend} while it works"));
        }
        if !remains.is_empty() {
            return Err(format!("client {peer} gets server {backend} with {remains:?}"));
        }
        for (name, value) in extra.iter() {
            let actual = process.backend.session.setting(name);
            if actual.is_some_and(|it| it != value) {
                return Err(format!("{name} of server {backend} is taken to be {value}, and is {actual:?}"));
            }
        }
        for name in REPORTED {
            let (known, actual) = (session.parameters.reported.value(name), process.backend.reported(name));
            if silent && known != actual {
                return Err(format!(
                    "{name} of server {backend} is taken to be {known:?}, and is {actual:?}"
                ));
            }
        }
        let most = self.pools[process.pool].rules.prepared_max.max(1);
        // And the one whose name is always taken.
        if process.backend.session.prepared.len() > most as usize + 1 {
            return Err(format!("server {backend} has more than {most} statements"));
        }
        if process.backend.is_dead() {
            // Nobody has looked since it was released, or while a cancel request held it.
            self.peers[peer].client.doomed = Some("its server had died");
        }
        process.backend.session.owner = Some(peer);
        process.peer = Some(peer);
        self.peers[peer].lease = Some((seat, backend));
        self.peers[peer].ticket = None;
        let rules = self.pools[self.peers[peer].pool].rules;
        self.tell(peer, |relay, turn| relay.on_granted(session, rules, turn));
        Ok(())
    }

    fn take_back(&mut self, peer: usize, session: Box<Server>, verdict: Verdict) -> Step {
        let (seat, backend) = self.peers[peer].lease.take().ok_or("a server came back that was not lent")?;
        let (pool, worker) = (self.peers[peer].pool, self.peers[peer].worker);
        self.note(|| format!("client {peer} gives back server {backend}: {verdict:?}"));
        let process = &mut self.processes[backend];
        process.peer = None;
        process.backend.session.owner = None;
        if self.peers[peer].relay.to_server().ready() > 0 && !matches!(verdict, Verdict::Close(_)) {
            return Err(format!("server {backend} was given back while something is to be sent to it"));
        }
        let handle = Handle { backend, session };
        match (verdict, self.pools[pool].rules.mode) {
            (Verdict::Close(CloseReason::ProtocolViolation), _) => {
                Err(format!("client {peer} or server {backend} is said to break the protocol"))
            }
            (Verdict::Close(_), _) => {
                self.close(pool, seat, backend);
                Ok(())
            }
            (_, _) if !process.backend.is_dead() && !process.backend.is_at_rest() => {
                Err(format!("server {backend} was given back while it works"))
            }
            (_, PoolMode::Session) => self.clean(pool, Reset::new(seat, handle, worker), None),
            (Verdict::Clean(_, residue), _) => {
                self.clean(pool, Reset::new(seat, handle, worker), Some(residue))
            }
            (Verdict::Reuse(_), _) => {
                let release = self.pools[pool].schedule.release(seat, handle, worker, self.now);
                self.place(pool, release)
            }
        }
    }

    /// Begins to clean a server: of this, or of everything.
    fn clean(&mut self, pool: usize, mut reset: Reset, residue: Option<Residue>) -> Step {
        let sql = residue.map_or_else(|| "DISCARD ALL".to_owned(), Residue::cleaning);
        self.note(|| format!("server {} is cleaned: {sql}", reset.handle.backend));
        let mut bytes = Vec::new();
        query(&sql).encode(&mut bytes);
        self.processes[reset.handle.backend].backend.input.push(&bytes);
        reset.all = residue.is_none();
        self.pools[pool].schedule.resetting(reset.seat);
        self.pools[pool].resets.push(reset);
        Ok(())
    }

    /// What a server that is being cleaned has said. False: nothing.
    pub fn hear_reset(&mut self, pool: usize, index: usize) -> Result<bool, String> {
        let reset = &mut self.pools[pool].resets[index];
        let process = &mut self.processes[reset.handle.backend];
        let count =
            if process.backend.output.is_empty() { 0 } else { self.rng.cut(process.backend.output.len()) };
        if count == 0 && !process.backend.is_dead() {
            return Ok(false);
        }
        if count == 0 {
            let reset = self.pools[pool].resets.swap_remove(index);
            self.close(pool, reset.seat, reset.handle.backend);
            return Ok(true);
        }
        reset.framer.push(&process.backend.output.take_front(count));
        while let Some(message) = reset.framer.next() {
            match message.tag {
                b'S' => note_status(&mut reset.handle.session, &message),
                b'E' => reset.failed = true,
                b'Z' => reset.ready = true,
                _ => {}
            }
        }
        // What it says after that may have come in part only.
        if reset.ready && reset.framer.is_empty() {
            self.cleaned(pool, index)?;
        }
        Ok(true)
    }

    fn cleaned(&mut self, pool: usize, index: usize) -> Step {
        let Reset { seat, mut handle, worker, all, failed, .. } = self.pools[pool].resets.swap_remove(index);
        if failed {
            self.close(pool, seat, handle.backend);
            return Ok(());
        }
        handle.session.on_cleaned(all);
        let release = self.pools[pool].schedule.release(seat, handle, worker, self.now);
        self.place(pool, release)
    }

    /// Does what became of a server that came back.
    pub fn place(&mut self, pool: usize, release: Release<Handle, usize>) -> Step {
        match release {
            Release::Kept | Release::Held => {}
            Release::HandTo { waiter, seat, server } => {
                self.grant(waiter.handle, seat, server)?;
                self.attend(waiter.handle)?;
            }
            Release::Close(closing) => self.close_all(pool, vec![closing]),
        }
        self.open_servers(pool);
        Ok(())
    }

    pub fn close_all(&mut self, pool: usize, closing: Vec<Closing<Handle>>) {
        for Closing { seat, server, reason } in closing {
            self.note(|| format!("server {} is closed: {reason}", server.backend));
            self.close(pool, seat, server.backend);
        }
    }

    /// Closes a server. It counts until the schedule is told, some time later.
    pub fn close(&mut self, pool: usize, seat: Seat, backend: usize) {
        self.note(|| format!("server {backend} is being closed"));
        self.processes[backend].closed = true;
        self.processes[backend].backend.die(false);
        self.pools[pool].closing.push((seat, backend));
    }

    pub fn closed(&mut self, pool: usize) -> bool {
        let Some((seat, _)) = self.pools[pool].closing.pop() else { return false };
        self.pools[pool].schedule.gone(seat);
        self.open_servers(pool);
        true
    }

    pub fn open_servers(&mut self, pool: usize) {
        while let Some(opening) = self.pools[pool].schedule.next_open(self.now) {
            self.pools[pool].openings.push(opening);
        }
    }

    /// An attempt to open a server ends, one way or the other.
    pub fn opened(&mut self, pool: usize, fails: bool) -> Result<bool, String> {
        if self.pools[pool].openings.is_empty() {
            return Ok(false);
        }
        let index = self.rng.below(self.pools[pool].openings.len());
        let opening = self.pools[pool].openings.swap_remove(index);
        let schedule = &mut self.pools[pool].schedule;
        if fails {
            let report = Report::error(SqlState::CONNECTION_FAILURE, format!("{REFUSED}login failed"));
            let kind = if self.rng.one_in(2) { OpenFailure::Refused } else { OpenFailure::Unreachable };
            let waiters = schedule.open_failed(opening.seat, report.clone(), kind, self.now);
            self.note(|| format!("a server of pool {pool} can't be opened: {kind:?}"));
            for waiter in waiters {
                self.peers[waiter.handle].ticket = None;
                self.refuse(waiter.handle, &report);
                self.attend(waiter.handle)?;
            }
            self.open_servers(pool);
            return Ok(true);
        }
        let mut backend = Backend::new(&[]);
        backend.reports_at_once = self.rng.one_in(3);
        backend.session.epoch = self.pools[pool].epoch;
        backend.diary = self.trace.is_read().then(Vec::new);
        let reported: Values =
            REPORTED.iter().map(|name| (*name, backend.session.setting(name).unwrap_or_default())).collect();
        let session = Box::new(Server::new(std::sync::Arc::new(reported)));
        let number = self.processes.len();
        self.note(|| format!("server {number} of pool {pool} is open"));
        self.processes.push(Process { backend, pool, closed: false, peer: None, seat: opening.seat });
        let worker = opening.worker.unwrap_or(WorkerId(0));
        let handle = Handle { backend: number, session };
        let release = self.pools[pool].schedule.opened(opening.seat, handle, worker, self.now);
        self.place(pool, release)?;
        Ok(true)
    }

    /// An idle server has spoken or died: it is heard.
    pub fn examine(&mut self, pool: usize, seat: Seat, backend: usize) -> Result<bool, String> {
        let Some(mut handle) = self.pools[pool].schedule.examine(seat) else { return Ok(false) };
        if handle.backend != backend {
            return Err(format!("seat of server {backend} holds server {}", handle.backend));
        }
        let process = &mut self.processes[backend];
        let mut framer = Framer::default();
        framer.push(&process.backend.output.take_front(process.backend.output.len()));
        while let Some(message) = framer.next() {
            if message.tag == b'S' {
                note_status(&mut handle.session, &message);
            }
        }
        if process.backend.is_dead() {
            self.close(pool, seat, backend);
            return Ok(true);
        }
        let release = self.pools[pool].schedule.release(seat, handle, WorkerId(0), self.now);
        self.place(pool, release)?;
        Ok(true)
    }

    /// What must hold at any time.
    fn check(&self) -> Step {
        for (number, pool) in self.pools.iter().enumerate() {
            let alive = self.processes.iter().filter(|it| it.pool == number && !it.closed).count();
            let all = alive + pool.openings.len() + pool.closing.len();
            if all > pool.limit {
                return Err(format!("pool {number} has {all} servers, more than {}", pool.limit));
            }
            let counts = pool.schedule.counts();
            let all_silent =
                self.processes.iter().filter(|it| it.pool == number && !it.closed).all(is_silent);
            let waiting = pool.schedule.waiting();
            if counts.idle > 0 && waiting > 0 && all_silent && pool.schedule.flow() == Flow::Running {
                return Err(format!("{waiting} wait in pool {number} beside {} idle servers", counts.idle));
            }
        }
        for (number, peer) in self.peers.iter().enumerate() {
            let (up, down) = (peer.relay.to_server().ready(), peer.relay.to_client().ready());
            if up.max(down) > READY_BYTES_MAX {
                return Err(format!("the pipes of client {number} hold {up} and {down} bytes"));
            }
        }
        Ok(())
    }

    /// What must hold once everybody has left.
    fn check_end(&self) -> Step {
        for (number, pool) in self.pools.iter().enumerate() {
            let counts = pool.schedule.counts();
            if counts.busy() + counts.closing + counts.opening > 0 || pool.schedule.waiting() > 0 {
                return Err(format!("pool {number} is not at rest: {counts:?}"));
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let peers = self.peers.iter().filter(|it| !it.is_over()).map(|it| {
            format!(
                "\n  {}; lease {:?}, ticket {:?}, closed {}, {:?}, closing {:?}, up {}+{}, down {}+{}",
                it.client.describe(),
                it.lease.map(|(_, backend)| backend),
                it.ticket,
                it.closed,
                it.relay.activity(),
                it.relay.closing(),
                it.relay.to_server().ready(),
                it.relay.to_server().undecided().len(),
                it.relay.to_client().ready(),
                it.relay.to_client().undecided().len(),
            )
        });
        let pools = self.pools.iter().map(|it| {
            format!(
                "\n  pool: {:?}, {:?}, waiting {}",
                it.schedule.counts(),
                it.settings,
                it.schedule.waiting()
            )
        });
        peers.chain(pools).collect()
    }
}

impl Reset {
    fn new(seat: Seat, handle: Handle, worker: WorkerId) -> Self {
        Self { seat, handle, worker, framer: Framer::default(), all: false, failed: false, ready: false }
    }
}

/// Nothing has come from it that nobody has heard.
pub fn is_silent(process: &Process) -> bool {
    process.backend.output.is_empty() && !process.backend.is_dead()
}

fn note_status(session: &mut Server, message: &Message) {
    let mut fields = Fields(&message.body);
    let (name, value) = (fields.text(), fields.text());
    session.on_parameter_status(name, value);
}

fn new_pool(rng: &mut Rng) -> Pool {
    let mode =
        *rng.pick(&[PoolMode::Transaction, PoolMode::Transaction, PoolMode::Session, PoolMode::Statement]);
    let settings = PoolSettings {
        mode,
        size: rng.range(1, 4),
        min_size: 0,
        reserve_size: rng.below(2),
        reserve_timeout: Duration::from_millis(50),
        server_lifetime: *rng.pick(&[Duration::from_secs(3600), Duration::from_millis(100), Duration::ZERO]),
        server_idle_timeout: Duration::from_secs(600),
        server_login_retry: Duration::from_millis(100),
        server_round_robin: rng.one_in(3),
        connecting_max: rng.range(1, 3),
        check_after: None,
        switchover_timeout: Duration::ZERO,
    };
    let rules = Rules {
        mode,
        prepared_max: *rng.pick(&[0, 2, 3, 200, 200]),
        simple_queries: true,
        reset_query_always: false,
        compatibility: Compatibility::Postgres,
    };
    let backend = Backend::new(&[]);
    let welcome = REPORTED.iter().map(|name| (*name, backend.session.setting(name).unwrap_or_default()));
    Pool {
        schedule: Schedule::new(settings.clone()),
        limit: settings.size + settings.reserve_size,
        settings,
        rules,
        openings: Vec::new(),
        resets: Vec::new(),
        closing: Vec::new(),
        epoch: 0,
        welcome: std::sync::Arc::new(welcome.collect()),
    }
}

/// How many bytes may be sent to a server. It holds one message in memory, however long it is.
pub fn room(process: &Process) -> usize {
    let input = &process.backend.input;
    if input.is_ready() { SERVER_INPUT_BYTES_MAX.saturating_sub(input.len()) } else { SERVER_INPUT_BYTES_MAX }
}
