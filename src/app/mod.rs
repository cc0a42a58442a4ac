//! Wiring, workers, signals, reload and the phases of the process's life.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::admin::{self, Admin};
use crate::config::{self, Config, Diagnostic, Dialect, Level};
use crate::handover::{self, Inherited};
use crate::net::listen::{self, Bound, Place};
use crate::net::{AddressesGone, Shared, TcpOptions, Tls};

mod accept;
mod adopt;
mod daemon;
mod descriptors;
mod foreman;
mod handing;
mod log;
mod memory;
mod opener;
mod options;
mod orders;
mod pidfile;
mod preflight;
mod process;
mod reload;
mod session;
mod signals;
mod source;
mod succession;
mod workers;

pub use options::RunOptions;
pub use preflight::findings as preflight;

use log::Log;
use process::{Control, Process};
use reload::Reloader;
use signals::Signals;
use succession::Predecessor;
use workers::Workers;

/// How often statements that nobody knows any longer are forgotten, and what is known of pools that are gone. A start
/// that takes over another process's clients enters their pools long before the first time.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

/// How often to look whether so many clients have left that their memory is to be given back.
const TIDE_PERIOD: Duration = Duration::from_secs(2);
/// How often it is looked whether the last client or busy server is gone.
const DRAIN_LOOK_PERIOD: Duration = Duration::from_millis(100);

/// A step of the start that failed, for whoever reads the terminal or the log.
struct Failure(String);

impl Failure {
    fn of(step: &str, error: impl Display) -> Self {
        Self(format!("{step}: {error}"))
    }
}

/// Runs the pooler until it is told to stop.
pub fn run(options: RunOptions) -> ExitCode {
    if options.daemon && !daemon::is_in_background() {
        return daemon::launch();
    }
    let (config, unread) = match config::load(&options.config, options.dialect) {
        Ok(loaded) => {
            let (unread, notes): (Vec<_>, Vec<_>) =
                loaded.notes.into_iter().partition(|it| it.level == Level::Unread);
            notes.iter().for_each(|note| eprintln!("{note}"));
            (loaded.config, unread)
        }
        Err(mistakes) => {
            refuse(&options, &mistakes);
            return ExitCode::FAILURE;
        }
    };
    match live(&options, config, &unread) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            tracing::error!(fatal = true, "{text}");
            if !tracing::dispatcher::has_been_set() || options.is_silent() {
                eprintln!("FATAL {text}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Says why a file cannot be used: for an ini file as PgBouncer's log would.
fn refuse(options: &RunOptions, mistakes: &[Diagnostic]) {
    let as_log = options.dialect == Dialect::Ini
        && Log::start(&config::Settings::ini(), log::Console::StandardError).is_ok();
    if as_log {
        log_findings(mistakes);
        tracing::error!(fatal = true, "cannot load config file");
    } else {
        mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
        eprintln!("FATAL cannot load config file {}", options.config.display());
    }
}

fn log_findings(findings: &[Diagnostic]) {
    for finding in findings {
        match finding.level {
            // As PgBouncer begins such a line.
            Level::Error if finding.name.contains("_tls_") => tracing::error!("TLS setup failed: {finding}"),
            Level::Error | Level::Unread => tracing::error!("{finding}"),
            Level::Note => tracing::warn!("{finding}"),
        }
    }
}

/// The whole life of the process. `unread`: what it goes on without, for the log.
fn live(options: &RunOptions, mut config: Config, unread: &[Diagnostic]) -> Result<(), Failure> {
    config.settings.verbose = config.settings.verbose.max(options.verbose);
    let user = options.user.clone().or_else(|| config.settings.user.clone());
    pidfile::become_user(user.as_deref()).map_err(Failure)?;
    if options.daemon {
        prepare_background(&config)?;
    }
    let console = if options.is_silent() { log::Console::Silent } else { log::Console::StandardError };
    let log = Log::start(&config.settings, console).map_err(|it| Failure::of("log", it))?;
    log::note_panics();
    log_findings(unread);
    descriptors::see_to_limit(&config);
    let inherited = handover::inherited().map_err(|it| Failure(it.to_string()))?;
    let tls = Tls::of(&config.settings).map_err(|it| Failure::of("TLS setup failed", it))?;
    tls.notes().for_each(|note| tracing::warn!("{note}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|it| Failure::of("cannot start", it))?;
    let before = if options.reboot { Predecessor::suspend(&config, &inherited)? } else { None };
    // Before anybody can connect: whoever sees the port open may send a signal.
    let signals = {
        let _entered = runtime.enter();
        Signals::catch().map_err(|it| Failure::of("cannot catch signals", it))?
    };
    let workers = worker_count(&config);
    let openings = Arc::new(opener::Openings::default());
    let reloader = Arc::new(Reloader::new(options, log));
    let (process, control) = Process::new(config, tls, workers, Arc::clone(&openings))
        .map_err(|it| Failure::of("cannot start", it))?;
    let mut adoption = before.map(|it| it.follow(&process)).transpose()?.unwrap_or_default();
    let config = process.config.load_full();
    let doors = Doors::open(&config, std::mem::take(&mut adoption.doors), inherited)?;
    let pidfile = pidfile::PidFile::claim(config.settings.pidfile.as_deref()).map_err(Failure)?;
    let admin = process.admin();
    let threads =
        Workers::start(&process, &admin, &openings).map_err(|it| Failure::of("cannot start workers", it))?;
    runtime.block_on(adoption.distribute(&process, &openings));
    let serving =
        Serving { process: Arc::clone(&process), admin, reloader, threads: &threads, daemon: options.daemon };
    let result = LocalSet::new().block_on(&runtime, serving.run(doors, signals, control));
    if process.exports.has_given() {
        succession::end_without_goodbye(pidfile);
    }
    threads.stop();
    drop(pidfile);
    result
}

/// In the background: what must be so before anything is opened.
fn prepare_background(config: &Config) -> Result<(), Failure> {
    if config.settings.pidfile.as_deref().is_none_or(|it| it.as_os_str().is_empty()) {
        return Err(Failure("daemon needs pidfile configured".to_owned()));
    }
    if config.settings.logfile.as_deref().is_none_or(|it| it.as_os_str().is_empty())
        && !config.settings.syslog
    {
        eprintln!("neither logfile nor syslog is set: nothing will be logged");
    }
    daemon::leave_terminal().map_err(|it| Failure::of("cannot leave the terminal", it))
}

/// Where the process can be reached.
struct Doors {
    clients: Vec<Bound>,
    http: Option<Bound>,
}

impl Doors {
    /// Those of the process before, or that came with this one, else those that the settings ask for.
    fn open(config: &Config, adopted: Vec<Bound>, inherited: Inherited) -> Result<Self, Failure> {
        let settings = &config.settings;
        let http = match inherited.http {
            Some(bound) => Some(bound),
            None => bind_http(config)?,
        };
        if !adopted.is_empty() {
            return Ok(Self { clients: adopted, http });
        }
        if inherited.clients.is_empty() {
            let clients = listen::bind(settings).map_err(|error| match error.hint() {
                Some(hint) => Failure(format!("{error}\n  hint: {hint}")),
                None => Failure(error.to_string()),
            })?;
            return Ok(Self { clients, http });
        }
        if !settings.listen_addr.is_empty() {
            tracing::warn!("sockets passed from service manager, listen_addr ignored");
        }
        let default = &Config::default().settings.unix_socket_dir;
        if settings.unix_socket_dir.as_deref().is_some_and(|it| !it.as_os_str().is_empty())
            && settings.unix_socket_dir != *default
        {
            tracing::warn!("sockets passed from service manager, unix_socket_dir ignored");
        }
        Ok(Self { clients: inherited.clients, http })
    }
}

fn bind_http(config: &Config) -> Result<Option<Bound>, Failure> {
    let Some(address) = config.settings.http_listen.as_deref().filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    let failed = |it| Failure::of(&format!("cannot listen on http_listen {address}"), it);
    admin::http::bind(address).map(Some).map_err(failed)
}

fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, |it| it.get());
    match config.settings.workers {
        0 => cores(),
        count => count,
    }
}

/// The control thread while the process runs.
struct Serving<'a> {
    process: Arc<Process>,
    admin: Arc<Admin>,
    reloader: Arc<Reloader>,
    threads: &'a Workers,
    daemon: bool,
}

impl Serving<'_> {
    async fn run(self, doors: Doors, signals: Signals, control: Control) -> Result<(), Failure> {
        let process = &self.process;
        *process.doors.lock() = doors.clients.iter().filter_map(|it| Shared::of(it).ok()).collect();
        let mut open = Vec::new();
        for door in doors.clients {
            tracing::info!("listening on {}", address_of(door.place()));
            open.push(self.threads.open(door).await.map_err(|it| Failure::of("cannot listen", it))?);
        }
        if let Some(http) = doors.http {
            self.start_http(http)?;
        }
        tokio::task::spawn_local(orders::run(
            Arc::clone(process),
            Arc::clone(&self.reloader),
            control.orders,
        ));
        tokio::task::spawn_local(signals.run(Arc::clone(process), Arc::clone(&self.reloader)));
        let (staffing, threads) = (Arc::clone(&process.staffing), self.threads.ids().to_vec());
        tokio::task::spawn_local(async move { foreman::watch(&staffing, &threads).await });
        tokio::task::spawn_local(tend(Arc::clone(process), Arc::clone(&self.admin)));
        tokio::task::spawn_local(follow_names(Arc::clone(process), control.moves));
        tracing::info!("process up: {}, {} workers", admin::VERSION, process.workers);
        process.notifier.ready();
        if self.daemon {
            daemon::report_ready().map_err(|it| Failure::of("cannot leave the terminal", it))?;
        }
        tokio::select! {
            () = accept::until_ended(process, open) => {}
            () = self.threads.lost() => return Err(Failure("a worker has ended".to_owned())),
        }
        if process.exports.has_given() {
            handing::take_leave(process).await;
        }
        tracing::info!("server shutdown complete, exiting");
        Ok(())
    }

    fn start_http(&self, bound: Bound) -> Result<(), Failure> {
        let config = self.process.config.load();
        let listener = bound.serve().map_err(|it| Failure::of("cannot listen on http_listen", it))?;
        tracing::info!("metrics on http://{}/metrics", address_of(listener.place()));
        let options = TcpOptions::of(&config.settings);
        tokio::task::spawn_local(admin::http::run(Arc::clone(&self.admin), listener, options));
        Ok(())
    }
}

fn address_of(place: &Place) -> String {
    match place {
        Place::Tcp(address) => address.to_string(),
        Place::Unix(path) => format!("unix:{}", Path::display(path)),
    }
}

/// Looks after the names of servers for as long as the process runs: servers that a name does not lead to any more are
/// closed as soon as they are free.
async fn follow_names(process: Arc<Process>, mut moves: mpsc::UnboundedReceiver<AddressesGone>) {
    let names = process.connector.dialer.names().clone();
    let tending = names.tend();
    tokio::pin!(tending);
    loop {
        tokio::select! {
            () = &mut tending => {}
            Some(AddressesGone { name, gone }) = moves.recv() => {
                tracing::info!("{name} is not at {gone:?} any more");
                process.pools.suspension().over().await;
                process.pools.forsake(&name, &gone);
            }
        }
    }
}

/// Looks after pools, statistics and statements for as long as the process runs.
async fn tend(process: Arc<Process>, admin: Arc<Admin>) {
    let stats_period = || process.config.load().settings.stats_period.max(Duration::from_secs(1));
    let mut turns = tokio::time::interval(stats_period());
    let mut sweeps = tokio::time::interval(SWEEP_PERIOD);
    let mut tides = tokio::time::interval(TIDE_PERIOD);
    let mut tide = memory::Tide::default();
    turns.reset();
    sweeps.reset();
    let pools = process.pools.tend();
    tokio::pin!(pools);
    loop {
        tokio::select! {
            () = &mut pools => return,
            _ = turns.tick() => admin.turn_stats(std::time::Instant::now()),
            _ = sweeps.tick() => process.sweep(),
            _ = tides.tick() => {
                tide.observe(process.roster.client_count(), || process.shrink());
                if turns.period() != stats_period() {
                    turns = tokio::time::interval(stats_period());
                    turns.reset();
                }
            }
        }
    }
}
