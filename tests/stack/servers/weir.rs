//! pgweir with a stack's own `pgweir.toml`.

use std::path::{Path, PathBuf};

use super::{log, postgres, start, wait_for};
use crate::support::place::{self, Guarded};
use crate::support::raw::Raw;

/// A running pgweir; it ends when it is dropped.
pub struct Weir {
    directory: PathBuf,
    /// Where it listens on 127.0.0.1: `LISTEN_PORT` of its environment.
    pub port: u16,
    /// Where it answers HTTP: in `HTTP_LISTEN` of its environment.
    pub http_port: u16,
    server: Option<Guarded>,
}

impl Weir {
    /// Starts one with this file, and with `LISTEN_PORT` and `HTTP_LISTEN` beside these environment variables.
    #[track_caller]
    pub fn start(config: &Path, environment: &[(&str, &str)]) -> Self {
        let directory = place::directory("weir");
        let copy = directory.join("pgweir.toml");
        place::write(&copy, &std::fs::read_to_string(config).unwrap());
        let (port, http_port) = (place::free_port(), place::free_port());
        let (listen, http) = (port.to_string(), format!("127.0.0.1:{http_port}"));
        let mut all = vec![("LISTEN_PORT", listen.as_str()), ("HTTP_LISTEN", http.as_str())];
        all.extend(environment);
        let config = copy.display().to_string();
        let server = start(&directory, &all, place::pgweir_program(), &[&config]);
        wait_for("pgweir listens", port, &server, &directory);
        Self { directory, port, http_port, server: Some(server) }
    }

    /// A session, with a password.
    #[track_caller]
    pub fn login(&self, database: &str, user: &str, password: &str) -> Raw {
        postgres::login(self.port, database, user, password)
    }

    /// Has it read its configuration again.
    pub fn reload(&self) {
        place::signal(self.server.as_ref().expect("it runs").pid, rustix::process::Signal::HUP);
    }

    /// All it has logged so far.
    pub fn log(&self) -> String {
        log(&self.directory)
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- the end of pgweir's log:");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if let Some(server) = self.server.take() {
            server.remove();
        }
        let panicked = log.contains("panicked at");
        assert!(!panicked || std::thread::panicking(), "pgweir panicked:\n{log}");
    }
}
