//! Everything that lives as long as the process and is shared by all its threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::opener::{Openings, Origins};
use super::orders::resume_suspended;
use super::workers::Hall;
use crate::admin::{Admin, Request};
use crate::auth::{KeyCache, ProcessSecret};
use crate::cancel;
use crate::client::secrets::SecretMemory;
use crate::client::{Census, Exports, Staffing};
use crate::config::Config;
use crate::handover::Notifier;
use crate::ids::IdSequence;
use crate::net::{AddressesGone, Dialer, Handshakes, Names, Shared, TcpOptions, Tls};
use crate::pool::{Pools, PoolsSetup};
use crate::prepared::Registry;
use crate::server::{Connector, ServerConn};
use crate::stats::Roster;

/// Where the process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Everybody is welcome.
    Running,
    /// No new clients; those who are here go on. It ends with the last of them.
    WaitingForClients,
    /// No new clients, no new work. It ends with the last busy server.
    WaitingForServers,
    /// It ends now.
    Stopped,
}

/// What all threads share.
pub struct Process {
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// TLS in force.
    pub tls: Arc<ArcSwap<Tls>>,
    /// Handshakes and key derivations, away from the workers.
    pub handshakes: Handshakes,
    /// What salts are made of.
    pub process_secret: Arc<ProcessSecret>,
    /// Keys derived before.
    pub keys: Arc<KeyCache>,
    /// What `auth_query` found.
    pub secrets: Arc<SecretMemory>,
    /// Limits on clients.
    pub census: Arc<Census>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// Numbers for connections.
    pub ids: Arc<IdSequence>,
    /// The statements all clients share.
    pub registry: Arc<Registry>,
    /// Cancel keys.
    pub cancels: Arc<cancel::Registry>,
    /// The ways to other processes that share our port.
    pub peers: cancel::Peers,
    /// Opens servers and cancels on them.
    pub connector: Arc<Connector>,
    /// With what and where servers of each pool are opened.
    pub origins: Arc<Origins>,
    /// All pools.
    pub pools: Arc<Pools<ServerConn>>,
    /// Takes the console's orders.
    pub orders: mpsc::UnboundedSender<Request>,
    /// Where the process is in its life.
    pub phase: watch::Sender<Phase>,
    /// Who asks for conversations, to go on with them.
    pub exports: Arc<Exports>,
    /// Where clients connect, for the next process.
    pub doors: Mutex<Vec<Shared>>,
    /// Tells the service manager how it goes.
    pub notifier: Notifier,
    /// How many workers there are.
    pub workers: usize,
    /// How many of them are at work.
    pub staffing: Arc<Staffing>,
    /// The ways of clients to them.
    pub hall: Hall,
    /// Sessions of the console.
    pub consoles: Consoles,
}

/// The process's receiving ends, for the control thread.
pub struct Control {
    /// Orders from the console.
    pub orders: mpsc::UnboundedReceiver<Request>,
    /// Names of servers that are not where they were.
    pub moves: mpsc::UnboundedReceiver<AddressesGone>,
}

/// Threads for handshakes and key derivations. One is enough to keep them off the workers; two use both cores of a
/// small machine during a storm of logins without taking them all.
const HANDSHAKE_THREADS: usize = 2;

/// How many sessions of the console there are.
#[derive(Default)]
pub struct Consoles(AtomicUsize);

/// A session of the console. The last one resumes what is suspended: nobody else could.
pub struct ConsolePresence<'a>(&'a Process);

impl Consoles {
    /// Counts one.
    pub fn enter(process: &Process) -> ConsolePresence<'_> {
        process.consoles.0.fetch_add(1, Ordering::SeqCst);
        ConsolePresence(process)
    }
}

impl Drop for ConsolePresence<'_> {
    fn drop(&mut self) {
        let is_last = self.0.consoles.0.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && !self.0.is_ending() && resume_suspended(self.0) {
            tracing::info!("admin disappeared when suspended, doing RESUME");
        }
    }
}

impl Process {
    /// Makes smaller what has grown with the number of clients.
    pub fn shrink(&self) {
        self.roster.shrink();
        self.cancels.shrink();
    }

    /// Forgets statements that nobody knows any longer, and what is known of pools that are gone.
    pub fn sweep(&self) {
        self.registry.sweep();
        self.origins.sweep(|pool| self.pools.has(pool));
    }

    /// All of it, from a configuration. Starts no thread but those for handshakes.
    ///
    /// Errors: no threads or random numbers are to be had.
    pub fn new(
        config: Config,
        tls: Tls,
        workers: usize,
        openings: Arc<Openings>,
    ) -> io::Result<(Arc<Self>, Control)> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let options = TcpOptions::of(&config.settings);
        let peer = config.settings.peer();
        let (names, moves) = Names::new(&config.settings)?;
        let staffing = Arc::new(Staffing::new(workers));
        staffing.keep(config.settings.workers_min);
        let config = Arc::new(ArcSwap::from_pointee(config));
        let peers = cancel::Peers::new(Arc::clone(&config));
        let tls = Arc::new(ArcSwap::from_pointee(tls));
        let handshakes = Handshakes::start(HANDSHAKE_THREADS)?;
        let keys = Arc::new(KeyCache::default());
        let ids = Arc::new(IdSequence::default());
        let roster = Roster::new(Instant::now(), SystemTime::now());
        let connector = Arc::new(Connector {
            dialer: Arc::new(Dialer::new(options, names)),
            handshakes: handshakes.clone(),
            tls: Arc::clone(&tls),
            keys: Arc::clone(&keys),
            ids: Arc::clone(&ids),
        });
        let pools = Pools::new(PoolsSetup {
            config: Arc::clone(&config),
            roster: Arc::clone(&roster),
            opener: openings,
            workers,
        });
        let (orders, received) = mpsc::unbounded_channel();
        let process = Arc::new(Self {
            config,
            tls,
            handshakes,
            process_secret: Arc::new(ProcessSecret::new(random)),
            keys,
            secrets: Arc::default(),
            census: Arc::default(),
            roster,
            ids,
            registry: Arc::default(),
            cancels: cancel::Registry::new(peer),
            peers,
            connector,
            origins: Arc::default(),
            pools,
            orders,
            phase: watch::Sender::new(Phase::Running),
            exports: Arc::default(),
            doors: Mutex::default(),
            notifier: Notifier::from_env(),
            workers,
            staffing,
            hall: Hall::default(),
            consoles: Consoles::default(),
        });
        Ok((process, Control { orders: received, moves }))
    }

    /// The console's side of the process.
    pub fn admin(self: &Arc<Self>) -> Arc<Admin> {
        let source = Arc::clone(self) as Arc<dyn crate::admin::Source>;
        Admin::new(source, self.orders.clone(), self.workers)
    }

    /// True once no more clients are to be let in.
    pub fn is_ending(&self) -> bool {
        *self.phase.borrow() > Phase::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Credentials, Stored};
    use crate::ids::PoolKey;

    #[test]
    fn what_clients_have_shown_is_forgotten_with_their_pool() {
        let config = Config::default();
        let tls = Tls::of(&config.settings).expect("the defaults are good");
        let (process, _control) = Process::new(config, tls, 1, Arc::default()).expect("a process");
        let shown =
            || Credentials { secret: Some(Arc::new(Stored::parse("secret").expect("a secret"))), keys: None };
        let [stays, goes] =
            ["stays", "goes"].map(|user| PoolKey { database: "app".into(), user: user.into() });
        let _member = process.pools.enter(&stays);
        process.origins.remember(&stays, shown());
        process.origins.remember(&goes, shown());
        process.sweep();
        assert!(process.origins.known(&stays).secret.is_some());
        assert!(process.origins.known(&goes).secret.is_none());
    }
}
