//! The worker threads: one runtime each, on which its clients live and its servers are driven.
//!
//! A client lives on the worker that [`Staffing`] calls its home, and moves there when that changes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::thread::{Pid, gettid};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::accept;
use super::adopt::{self, Adopted, Passage};
use super::opener::{self, Errand};
use super::process::Process;
use super::session::{self, Moved};
use crate::admin::Admin;
use crate::client::Worker;
use crate::client::staffing::Place;
use crate::config::RelayDriver;
use crate::ids::{ClientId, WorkerId};
use crate::net::listen::{Accepted, Bound};
use crate::net::ring::Ring;
use crate::pool::Participant;
use crate::session::pipe::Spare;

/// A client on its way to its worker.
pub struct Arrival {
    /// What is to be done with it.
    pub what: Arriving,
    /// Its number, in the order in which clients were accepted.
    pub id: ClientId,
    /// Its place in the order of arrival.
    pub place: Place,
}

/// Where a client comes from.
pub enum Arriving {
    /// It was accepted, and takes part in SUSPEND.
    New(Accepted, Participant),
    /// It is one of the process before.
    Adopted(Box<Adopted>, Passage),
    /// It lived on another worker so far.
    Moved(Box<Moved>),
}

/// The workers as the control thread sees them.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    ids: Vec<Pid>,
    doors: mpsc::UnboundedSender<Door>,
    stop: CancellationToken,
    /// Cancelled when one of them ends, whyever.
    ended: CancellationToken,
}

/// The ways of clients to all workers.
#[derive(Default)]
pub struct Hall(OnceLock<Vec<mpsc::UnboundedSender<Arrival>>>);

impl Hall {
    /// Brings a client to its home.
    pub fn enter(&self, process: &Process, what: Arriving) {
        let arrival = Arrival::new(process, what);
        self.send(process.staffing.home(arrival.place), arrival);
    }

    fn send(&self, home: WorkerId, arrival: Arrival) {
        if let Some(worker) = self.0.get().and_then(|workers| workers.get(usize::from(home.0))) {
            // Where the worker has ended the connection comes back and is closed.
            let _ = worker.send(arrival);
        }
    }
}

impl Arrival {
    fn new(process: &Process, what: Arriving) -> Self {
        let (place, id) = match &what {
            Arriving::New(..) | Arriving::Adopted(..) => (process.staffing.arrive(), process.ids.client()),
            Arriving::Moved(moved) => (moved.place(), moved.id()),
        };
        Self { what, id, place }
    }
}

/// What serving a client takes, on the thread of a worker.
#[derive(Clone)]
pub struct Crew {
    process: Arc<Process>,
    admin: Arc<Admin>,
    worker: Rc<Worker>,
}

impl Crew {
    /// Brings a client that was accepted here to its home. Where that is this worker, nobody need be told.
    pub fn receive(&self, client: Accepted, participant: Participant) {
        let arrival = Arrival::new(&self.process, Arriving::New(client, participant));
        let home = self.process.staffing.home(arrival.place);
        if home == self.worker.id {
            self.take(arrival);
        } else {
            self.process.hall.send(home, arrival);
        }
    }

    /// Whom they are clients of.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Serves a client on this worker, in a task of its own.
    fn take(&self, arrival: Arrival) {
        let Self { process, admin, worker } = self.clone();
        let Arrival { what, id, place } = arrival;
        match what {
            Arriving::New(socket, participant) => {
                let newcomer = session::Accepted { socket, id, place, participant };
                session::serve(process, admin, worker, newcomer);
            }
            Arriving::Adopted(adopted, passage) => {
                tokio::task::spawn_local(adopt::go_on(process, worker, (*adopted, passage), id, place));
            }
            Arriving::Moved(moved) => moved.arrive(worker),
        }
    }
}

/// A socket on which a worker is to accept.
struct Door {
    socket: Bound,
    opened: oneshot::Sender<io::Result<Open>>,
}

/// A door that is open. Ready when it is closed.
pub type Open = oneshot::Receiver<()>;

/// What a worker is made of.
struct Post {
    id: WorkerId,
    process: Arc<Process>,
    admin: Arc<Admin>,
    inbox: Inbox,
    stop: CancellationToken,
}

/// A worker's queues. All are bounded by others: arrivals by the file descriptors there are, errands by the limits of
/// the pools, doors by the settings.
struct Inbox {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    doors: mpsc::UnboundedReceiver<Door>,
    errands: mpsc::UnboundedReceiver<Errand>,
}

impl Workers {
    /// Starts all of them.
    ///
    /// Errors: no thread or no reactor is to be had.
    pub fn start(
        process: &Arc<Process>,
        admin: &Arc<Admin>,
        openings: &super::opener::Openings,
    ) -> io::Result<Self> {
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (mut intakes, mut errands, mut threads, mut ids) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut inboxes, mut doors) = (Vec::new(), Vec::new());
        for _ in 0..process.workers {
            let (arrival, arrivals_of) = mpsc::unbounded_channel();
            let (door, doors_of) = mpsc::unbounded_channel();
            let (errand, errands_of) = mpsc::unbounded_channel();
            inboxes.push(Inbox { arrivals: arrivals_of, doors: doors_of, errands: errands_of });
            intakes.push(arrival);
            doors.push(door);
            errands.push(errand);
        }
        let driver = driver(process.config.load().settings.relay_driver)?;
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let id = WorkerId(u16::try_from(number).unwrap_or(u16::MAX));
            let post = Post {
                id,
                process: Arc::clone(process),
                admin: Arc::clone(admin),
                inbox,
                stop: stop.clone(),
            };
            let (ready, started) = std::sync::mpsc::channel();
            let ending = ended.clone().drop_guard();
            let body = move || {
                let _ending = ending;
                drive(driver, &ready, run(post));
            };
            threads.push(std::thread::Builder::new().name(format!("worker {number}")).spawn(body)?);
            ids.push(started.recv().map_err(|_| io::Error::other("a worker has ended at once"))??);
        }
        openings.start(errands);
        // It is set once: a process starts its workers once.
        let _ = process.hall.0.set(intakes);
        // The first worker is always at work.
        let doors = doors.into_iter().next().ok_or_else(|| io::Error::other("there are no workers"))?;
        Ok(Self { threads, ids, doors, stop, ended })
    }

    /// Their threads, in their order.
    pub fn ids(&self) -> &[Pid] {
        &self.ids
    }

    /// Has clients accepted that connect here, by the first worker.
    ///
    /// Errors: the reactor refuses.
    pub async fn open(&self, socket: Bound) -> io::Result<Open> {
        let (opened, outcome) = oneshot::channel();
        let door = Door { socket, opened };
        // A connection that comes to who serves it wakes no other thread.
        let _ = self.doors.send(door);
        outcome.await.map_err(|_| io::Error::other("a worker has ended"))?
    }

    /// Ready when one of them has ended that nobody has stopped: its clients are gone, and perhaps nobody accepts.
    pub async fn lost(&self) {
        self.ended.cancelled().await;
    }

    /// Ends all of them, and with them what they still have.
    pub fn stop(self) {
        self.stop.cancel();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker has panicked");
            }
        }
    }
}

impl Door {
    /// Accepts on the calling thread, in a task of its own.
    fn open(self, crew: Crew) {
        let answer = self.socket.serve().map(|listener| {
            let (closes, closed) = oneshot::channel::<()>();
            tokio::task::spawn_local(async move {
                accept::until_closed(&crew, listener).await;
                drop(closes);
            });
            closed
        });
        // It fails only where nobody waits for it any more: the process ends.
        let _ = self.opened.send(answer);
    }
}

/// What drives the sockets of workers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Tokio,
    Rings,
}

/// What is to drive them, and can. Errors: it was insisted on io_uring, and there is none.
fn driver(wanted: RelayDriver) -> io::Result<Driver> {
    let probed = if wanted == RelayDriver::Tokio { return Ok(Driver::Tokio) } else { Ring::probe() };
    match probed {
        Ok(()) => {
            tracing::info!("relay_driver: io_uring");
            Ok(Driver::Rings)
        }
        Err(error) if wanted == RelayDriver::IoUring => {
            let text = format!("relay_driver = io_uring, but there is no io_uring here: {error}");
            Err(io::Error::new(error.kind(), text))
        }
        Err(error) => {
            tracing::info!("no io_uring here ({error}): relay_driver is tokio");
            Ok(Driver::Tokio)
        }
    }
}

/// Runs a worker on the calling thread. Whether it can begin is told to `ready`.
fn drive(driver: Driver, ready: &Sender<io::Result<Pid>>, worker: impl Future<Output = ()> + 'static) {
    let ring = match driver {
        Driver::Tokio => None,
        Driver::Rings => Ring::new()
            .inspect_err(|error| tracing::warn!("no ring for this worker, it does without: {error}"))
            .ok(),
    };
    // Made here: neither runtime nor ring can move between threads.
    let result = match ring {
        None => {
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map(|runtime| {
                let _ = ready.send(Ok(gettid()));
                // Its tasks are scheduled without a `LocalSet` between.
                runtime.block_on(worker);
            })
        }
        Some(ring) => Builder::new_current_thread().enable_all().build().map(|runtime| {
            let _ = ready.send(Ok(gettid()));
            if let Err(error) = ring.block_on(&runtime, worker) {
                tracing::error!("a worker has lost its ring: {error}");
            }
        }),
    };
    if let Err(error) = result {
        let _ = ready.send(Err(error));
    }
}

/// A worker's life.
async fn run(post: Post) {
    let Post { id, process, admin, mut inbox, stop } = post;
    let worker = Worker {
        id,
        spare: RefCell::new(Spare::default()),
        now: Cell::new(Instant::now()),
        shared: RefCell::default(),
        pulse: Rc::default(),
        registry: Arc::clone(&process.registry),
        roster: Arc::clone(&process.roster),
        config: Arc::clone(&process.config),
        connector: Arc::clone(&process.connector),
        staffing: Arc::clone(&process.staffing),
        exports: Arc::clone(&process.exports),
    };
    let crew = Crew { process, admin, worker: Rc::new(worker) };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(arrival) = inbox.arrivals.recv() => crew.take(arrival),
            Some(door) = inbox.doors.recv() => door.open(crew.clone()),
            Some(errand) = inbox.errands.recv() => {
                let process = Arc::clone(&crew.process);
                tokio::task::spawn_local(async move { opener::run(&process, id, errand).await });
            }
        }
    }
}
