//! Prometheus and the exporters that it asks.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{start, wait_for};
use crate::shell::{self, Outcome};
use crate::support::place::{self, Guarded};

/// A running Prometheus or exporter; it ends when it is dropped.
pub struct Watcher {
    /// Where it answers HTTP on 127.0.0.1.
    pub port: u16,
    server: Option<Guarded>,
}

impl Watcher {
    /// Starts one of Debian's exporters with these further words and variables.
    #[track_caller]
    pub fn exporter(name: &str, words: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start(place::directory("exporter"), name, words, environment)
    }

    /// Starts Prometheus with the configuration in this directory, in which it also keeps what it learns.
    #[track_caller]
    pub fn prometheus(directory: PathBuf) -> Self {
        let config = format!("--config.file={}", directory.join("prometheus.yml").display());
        let data = format!("--storage.tsdb.path={}", directory.join("data").display());
        let prometheus = Self::start(directory, "prometheus", &[&config, &data], &[]);
        // It listens before it answers.
        crate::support::eventually("Prometheus is ready", || prometheus.ask("/-/ready").code == Some(0));
        prometheus
    }

    fn start(directory: PathBuf, name: &str, words: &[&str], environment: &[(&str, &str)]) -> Self {
        let port = place::free_port();
        let listen = format!("--web.listen-address=127.0.0.1:{port}");
        let words: Vec<&str> = [listen.as_str()].into_iter().chain(words.iter().copied()).collect();
        let server = start(&directory, environment, &shell::program(name), &words);
        wait_for(name, port, &server, &directory);
        Self { port, server: Some(server) }
    }

    /// What it answers to a GET of this path.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        self.ask(path).succeeded()
    }

    fn ask(&self, path: &str) -> Outcome {
        let mut curl = Command::new(shell::program("curl"));
        shell::run(curl.args(["-sSf", &format!("http://127.0.0.1:{}{path}", self.port)]))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.remove();
        }
    }
}

/// Copies a configuration to where Prometheus may read it, with other targets and a scrape every other second.
pub fn configuration(from: &Path, targets: &[(&str, u16)]) -> PathBuf {
    let directory = place::directory("prometheus");
    let text = |name: &str| std::fs::read_to_string(from.join(name)).unwrap();
    let mut config = text("prometheus.yml").replace(": 15s", ": 2s");
    for (target, port) in targets {
        assert!(config.contains(target), "{target} is not in prometheus.yml");
        config = config.replace(&format!("\"{target}\""), &format!("\"127.0.0.1:{port}\""));
    }
    place::write(&directory.join("prometheus.yml"), &config);
    place::write(&directory.join("alerts.yml"), &text("alerts.yml"));
    directory
}
