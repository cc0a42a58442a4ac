//! What the bench itself puts beside and behind the poolers: bare forwarders and a PostgreSQL that does nothing.
//!
//! Each is the bench's own program, started once more as a process of its own, so that its processor time can be told
//! from that of all others.

use std::net::TcpListener;
use std::process::ExitCode;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

mod by_ring;
mod by_tokio;
mod mock;
mod ring;

/// The first word on the command line of such a process.
pub const ORDER: &str = "serve";

/// Bytes that are received at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Serves until it is killed. `words` come after [`ORDER`]: who it is, where it listens, and where PostgreSQL does.
pub fn serve(words: &[String]) -> ExitCode {
    let port = |place: usize| words.get(place).and_then(|it| it.parse::<u16>().ok());
    let (Some(who), Some(here)) = (words.first(), port(1)) else { return ExitCode::FAILURE };
    let listener = match TcpListener::bind(("127.0.0.1", here)) {
        Ok(listener) => listener,
        Err(error) => return failed(&error),
    };
    thread::spawn(end_when_told);
    let ended = match (who.as_str(), port(2)) {
        ("tokio", Some(there)) => by_tokio::forward(listener, there),
        ("io_uring", Some(there)) => by_ring::forward(&listener, there),
        ("mock", _) => mock::answer(listener),
        _ => return ExitCode::FAILURE,
    };
    ended.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// SIGQUIT, which a shell has its background processes ignore, ends it.
fn end_when_told() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        signal(SignalKind::quit())?.recv().await;
        std::process::exit(0)
    })
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}
