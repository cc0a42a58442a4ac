//! Redis with a stack's `redis.conf`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{start, wait_for};
use crate::shell;
use crate::support::place::{self, Guarded};

/// A running Redis; it ends when it is dropped.
pub struct Redis {
    directory: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    password: String,
    server: Option<Guarded>,
}

impl Redis {
    /// Starts one with this configuration file and these further words on its command line, as a compose file's
    /// `command` has them.
    #[track_caller]
    pub fn start(config: &Path, password: &str, words: &[&str]) -> Self {
        Self::start_as("redis-server", config, password, words)
    }

    /// The same of another of its programs: `redis-sentinel`.
    #[track_caller]
    pub fn start_as(program: &str, config: &Path, password: &str, words: &[&str]) -> Self {
        let directory = place::directory("redis");
        // Redis rewrites its file in some situations; it has a copy.
        let copy = directory.join("redis.conf");
        place::write(&copy, &std::fs::read_to_string(config).unwrap());
        let port = place::free_port();
        let (text, data) = (port.to_string(), directory.display().to_string());
        let copy = copy.display().to_string();
        let mut arguments = vec![copy.as_str()];
        arguments.extend(words);
        arguments.extend(["--port", &text, "--bind", "127.0.0.1", "--dir", &data, "--daemonize", "no"]);
        let server = start(&directory, &[], &shell::program(program), &arguments);
        wait_for("Redis listens", port, &server, &directory);
        Self { directory, port, password: password.to_owned(), server: Some(server) }
    }

    /// Its directory, with its dumps.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What `redis-cli` answers to these words.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        let mut client = Command::new(shell::program("redis-cli"));
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).env("REDISCLI_AUTH", &self.password);
        shell::run(client.args(words)).succeeded().trim_end().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.remove();
        }
    }
}
