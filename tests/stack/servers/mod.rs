//! The servers of a stack, each started as its image starts it: with the repository's own configuration and initial
//! files, on a free port of 127.0.0.1, as a user that is not root. All end with the test process.

pub mod postgres;
pub mod redis;
pub mod s3;
pub mod watcher;
pub mod weir;

use std::path::Path;

use crate::support::place::Guarded;

/// Starts a program with these environment variables; its output goes to `directory/log`.
fn start(directory: &Path, environment: &[(&str, &str)], program: &Path, arguments: &[&str]) -> Guarded {
    let assignments = environment.iter().map(|(name, value)| format!("{name}={value}"));
    let program = program.display().to_string();
    // A shell's background processes ignore QUIT, by which the guard ends them.
    let signals = "--default-signal=QUIT,INT,TERM,HUP".to_owned();
    let words: Vec<String> = std::iter::once(signals)
        .chain(assignments)
        .chain([program])
        .chain(arguments.iter().map(|it| (*it).to_owned()))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Guarded::start(directory, Path::new("/usr/bin/env"), &words)
}

/// What is in `directory/log`, for the message of a failed test.
fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// Waits until somebody listens on this port.
#[track_caller]
fn wait_for(what: &str, port: u16, server: &Guarded, directory: &Path) {
    crate::support::eventually(what, || {
        assert!(server.is_alive(), "{what}: it ended:\n{}", log(directory));
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}
