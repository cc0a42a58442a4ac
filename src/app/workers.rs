//! The worker threads: one runtime each, on which its clients live and its servers are driven.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Adopted};
use super::opener::{self, Errand};
use super::process::Process;
use super::session;
use crate::admin::Admin;
use crate::client::Worker;
use crate::config::RelayDriver;
use crate::ids::{ClientId, WorkerId};
use crate::net::Detached;
use crate::net::ring::Ring;
use crate::session::pipe::Spare;

/// A client on its way to its worker.
pub struct Arrival {
    /// What is to be done with it.
    pub what: Arriving,
    /// Its number, in the order in which clients were accepted.
    pub id: ClientId,
    /// Counts it as one of its worker's clients.
    pub load: Load,
}

/// Where a client comes from.
pub enum Arriving {
    /// It was accepted.
    New(Detached),
    /// It is one of the process before.
    Adopted(Box<Adopted>),
}

/// One of a worker's clients, while it lives.
pub struct Load(Arc<AtomicUsize>);

impl Load {
    fn on(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(clients))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The workers as the control thread sees them.
pub struct Workers {
    intakes: Vec<Intake>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// One worker's door.
struct Intake {
    arrivals: mpsc::UnboundedSender<Arrival>,
    clients: Arc<AtomicUsize>,
}

/// A worker's queues. Both are bounded by others: arrivals by the file descriptors there are, errands by the limits of
/// the pools.
struct Inbox {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
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
        let stop = CancellationToken::new();
        let (mut intakes, mut errands, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        let driver = driver(process.config.load().settings.relay_driver)?;
        for number in 0..process.workers {
            let id = WorkerId(u16::try_from(number).unwrap_or(u16::MAX));
            let (arrival, arrivals_of) = mpsc::unbounded_channel();
            let (errand, errands_of) = mpsc::unbounded_channel();
            let inbox = Inbox { arrivals: arrivals_of, errands: errands_of };
            let (process, admin, stop) = (Arc::clone(process), Arc::clone(admin), stop.clone());
            let (ready, started) = std::sync::mpsc::channel();
            let body = move || drive(driver, &ready, run(process, admin, id, inbox, stop));
            threads.push(std::thread::Builder::new().name(format!("worker {number}")).spawn(body)?);
            started.recv().map_err(|_| io::Error::other("a worker has ended at once"))??;
            intakes.push(Intake { arrivals: arrival, clients: Arc::default() });
            errands.push(errand);
        }
        openings.start(errands);
        Ok(Self { intakes, threads, stop })
    }

    /// Hands a client to the worker with the fewest.
    pub fn hand(&self, process: &Process, stream: Detached) {
        self.place(process, Arriving::New(stream));
    }

    /// The same with one of the process before.
    pub fn go_on(&self, process: &Process, adopted: Adopted) {
        self.place(process, Arriving::Adopted(Box::new(adopted)));
    }

    fn place(&self, process: &Process, what: Arriving) {
        let load = |it: &&Intake| it.clients.load(Ordering::Relaxed);
        let Some(intake) = self.intakes.iter().min_by_key(load) else { return };
        let arrival = Arrival { what, id: process.ids.client(), load: Load::on(&intake.clients) };
        // Where the worker has ended the connection comes back and is closed.
        let _ = intake.arrivals.send(arrival);
    }

    /// Ends all of them, and with them what they still have.
    pub fn stop(self) {
        self.stop.cancel();
        drop(self.intakes);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker has panicked");
            }
        }
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
fn drive(driver: Driver, ready: &Sender<io::Result<()>>, worker: impl Future<Output = ()> + 'static) {
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
                let _ = ready.send(Ok(()));
                // Its tasks are scheduled without a `LocalSet` between.
                runtime.block_on(worker);
            })
        }
        Some(ring) => Builder::new_current_thread().enable_all().build().map(|runtime| {
            let _ = ready.send(Ok(()));
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
async fn run(
    process: Arc<Process>,
    admin: Arc<Admin>,
    id: WorkerId,
    mut inbox: Inbox,
    stop: CancellationToken,
) {
    let worker = Rc::new(Worker {
        id,
        spare: RefCell::new(Spare::default()),
        now: Cell::new(Instant::now()),
        shared: RefCell::default(),
        registry: Arc::clone(&process.registry),
        roster: Arc::clone(&process.roster),
        config: Arc::clone(&process.config),
        connector: Arc::clone(&process.connector),
        exports: Arc::clone(&process.exports),
    });
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(arrival) = inbox.arrivals.recv() => {
                let (process, admin, worker) = (Arc::clone(&process), Arc::clone(&admin), Rc::clone(&worker));
                let Arrival { what, id, load } = arrival;
                match what {
                    Arriving::New(stream) => {
                        let newcomer = session::Accepted { stream, id, load };
                        let conversation = session::serve(process, admin, worker, newcomer);
                        tokio::task::spawn_local(conversation);
                    }
                    Arriving::Adopted(adopted) => {
                        let conversation = adopt::go_on(process, worker, *adopted, id, load);
                        tokio::task::spawn_local(conversation);
                    }
                }
            }
            Some(errand) = inbox.errands.recv() => {
                let process = Arc::clone(&process);
                tokio::task::spawn_local(async move { opener::run(&process, id, errand).await });
            }
        }
    }
}
