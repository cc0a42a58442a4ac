//! Wiring, workers, signals, reload and the phases of the process's life.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;

use crate::admin::{self, Admin};
use crate::config::{self, Config};
use crate::net::listen::{self, Bound, Listener, Place};
use crate::net::{TcpOptions, Tls};

mod accept;
mod log;
mod opener;
mod options;
mod orders;
mod pidfile;
mod process;
mod reload;
mod session;
mod signals;
mod source;
mod workers;

pub use options::RunOptions;

use log::Log;
use process::{Control, Process};
use reload::Reloader;
use signals::Signals;
use workers::Workers;

/// How often statements that nobody knows any longer are forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);
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
    let config = match config::load(&options.config, options.dialect) {
        Ok(loaded) => {
            loaded.notes.iter().for_each(|note| eprintln!("{note}"));
            loaded.config
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
            eprintln!("FATAL cannot load config file {}", options.config.display());
            return ExitCode::FAILURE;
        }
    };
    match live(&options, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            tracing::error!(fatal = true, "{text}");
            if !tracing::dispatcher::has_been_set() || options.quiet {
                eprintln!("FATAL {text}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The whole life of the process.
fn live(options: &RunOptions, mut config: Config) -> Result<(), Failure> {
    config.settings.verbose = config.settings.verbose.max(options.verbose);
    let user = options.user.clone().or_else(|| config.settings.user.clone());
    pidfile::become_user(user.as_deref()).map_err(Failure)?;
    let console = if options.quiet { log::Console::Silent } else { log::Console::StandardError };
    let log = Log::start(&config.settings, console).map_err(|it| Failure::of("log", it))?;
    let tls = Tls::of(&config.settings).map_err(|it| Failure::of("TLS setup failed", it))?;
    tls.notes().for_each(|note| tracing::warn!("{note}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|it| Failure::of("cannot start", it))?;
    // Before anybody can connect: whoever sees the port open may send a signal.
    let signals = {
        let _entered = runtime.enter();
        Signals::catch().map_err(|it| Failure::of("cannot catch signals", it))?
    };
    let bound = listen::bind(&config.settings).map_err(|error| match error.hint() {
        Some(hint) => Failure(format!("{error}\n  hint: {hint}")),
        None => Failure(error.to_string()),
    })?;
    let pidfile = pidfile::PidFile::claim(config.settings.pidfile.as_deref()).map_err(Failure)?;
    let workers = worker_count(&config);
    let openings = Arc::new(opener::Openings::default());
    let reloader = Arc::new(Reloader::new(options.config.clone(), options.dialect, log));
    let (process, control) = Process::new(config, tls, workers, Arc::clone(&openings))
        .map_err(|it| Failure::of("cannot start", it))?;
    let admin = process.admin();
    let threads =
        Workers::start(&process, &admin, &openings).map_err(|it| Failure::of("cannot start workers", it))?;
    let serving = Serving { process, admin, reloader, threads: &threads };
    let result = LocalSet::new().block_on(&runtime, serving.run(bound, signals, control));
    threads.stop();
    drop(pidfile);
    result
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
}

impl Serving<'_> {
    async fn run(self, bound: Vec<Bound>, signals: Signals, control: Control) -> Result<(), Failure> {
        let listeners = serve_all(bound).map_err(|it| Failure::of("cannot listen", it))?;
        self.start_http()?;
        let process = &self.process;
        tokio::task::spawn_local(orders::run(
            Arc::clone(process),
            Arc::clone(&self.reloader),
            control.orders,
        ));
        tokio::task::spawn_local(signals.run(Arc::clone(process), Arc::clone(&self.reloader)));
        tokio::task::spawn_local(tend(Arc::clone(process), Arc::clone(&self.admin)));
        tracing::info!("process up: {}, {} workers", admin::VERSION, process.workers);
        accept::until_ended(process, self.threads, listeners).await;
        tracing::info!("server shutdown complete, exiting");
        Ok(())
    }

    fn start_http(&self) -> Result<(), Failure> {
        let config = self.process.config.load();
        let Some(address) = config.settings.http_listen.as_deref().filter(|it| !it.is_empty()) else {
            return Ok(());
        };
        let failed = |it| Failure::of(&format!("cannot listen on http_listen {address}"), it);
        let listener = admin::http::bind(address).and_then(Bound::serve).map_err(failed)?;
        tracing::info!("metrics on http://{}/metrics", address_of(listener.place()));
        let options = TcpOptions::of(&config.settings);
        tokio::task::spawn_local(admin::http::run(Arc::clone(&self.admin), listener, options));
        Ok(())
    }
}

fn serve_all(bound: Vec<Bound>) -> std::io::Result<Vec<Listener>> {
    bound
        .into_iter()
        .map(|it| {
            tracing::info!("listening on {}", address_of(it.place()));
            it.serve()
        })
        .collect()
}

fn address_of(place: &Place) -> String {
    match place {
        Place::Tcp(address) => address.to_string(),
        Place::Unix(path) => format!("unix:{}", Path::display(path)),
    }
}

/// Looks after pools, statistics and statements for as long as the process runs.
async fn tend(process: Arc<Process>, admin: Arc<Admin>) {
    let period = process.config.load().settings.stats_period;
    let mut turns = tokio::time::interval(period.max(Duration::from_secs(1)));
    let mut sweeps = tokio::time::interval(SWEEP_PERIOD);
    turns.reset();
    let pools = process.pools.tend();
    tokio::pin!(pools);
    loop {
        tokio::select! {
            () = &mut pools => return,
            _ = turns.tick() => admin.turn_stats(std::time::Instant::now()),
            _ = sweeps.tick() => process.registry.sweep(),
        }
    }
}
