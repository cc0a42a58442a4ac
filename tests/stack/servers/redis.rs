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
    program: PathBuf,
    /// What comes before where it listens on its command line.
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
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
        let mut redis = Self::unstarted(shell::program(program), password);
        // Redis rewrites its file in some situations; it has a copy.
        let copy = redis.directory.join("redis.conf");
        place::write(&copy, &std::fs::read_to_string(config).unwrap());
        redis.arguments.push(copy.display().to_string());
        redis.arguments.extend(words.iter().map(|it| (*it).to_owned()));
        redis.resume();
        redis
    }

    /// Starts what a script makes of its environment and of words for Redis.
    #[track_caller]
    pub fn by_script(script: &Path, password: &str, environment: &[(&str, &str)]) -> Self {
        let mut redis = Self::unstarted(script.to_owned(), password);
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        redis.environment = environment.chain([("PATH".to_owned(), shell::PATH.to_owned())]).collect();
        redis.resume();
        redis
    }

    fn unstarted(program: PathBuf, password: &str) -> Self {
        Self {
            directory: place::directory("redis"),
            port: place::free_port(),
            password: password.to_owned(),
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            server: None,
        }
    }

    #[track_caller]
    fn resume(&mut self) {
        let (port, data) = (self.port.to_string(), self.directory.display().to_string());
        let here = ["--port", &port, "--bind", "127.0.0.1", "--dir", &data, "--daemonize", "no"];
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).chain(here).collect();
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let server = start(&self.directory, &environment, &self.program, &arguments);
        wait_for("Redis listens", self.port, &server, &self.directory);
        self.server = Some(server);
        crate::support::eventually("Redis has read its files", || !self.ask(&["PING"]).contains("LOADING"));
    }

    /// Ends it without a warning, and starts it again with what lies in its directory.
    #[track_caller]
    pub fn crash(&mut self) {
        let server = self.server.take().expect("it runs");
        place::signal(server.pid, rustix::process::Signal::KILL);
        server.stop();
        self.resume();
    }

    /// Its directory, with its dumps.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `redis-cli`, connected to it with its password.
    pub fn client(&self) -> Command {
        let mut client = self.stranger();
        client.env("REDISCLI_AUTH", &self.password);
        client
    }

    fn stranger(&self) -> Command {
        let mut client = Command::new(shell::program("redis-cli"));
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).env_remove("REDISCLI_AUTH");
        client
    }

    /// What it answers to these words.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        shell::run(self.client().args(words)).succeeded().trim_end().to_owned()
    }

    /// What it answers to one who does not know the password.
    #[track_caller]
    pub fn ask_without_password(&self, words: &[&str]) -> String {
        let outcome = shell::run(self.stranger().args(words));
        format!("{}{}", outcome.stdout, outcome.stderr)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // It ignores the signal that ends the others.
            place::signal(server.pid, rustix::process::Signal::KILL);
            server.remove();
        }
    }
}
