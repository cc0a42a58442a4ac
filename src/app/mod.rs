//! Wiring, workers, signals, reload and the phases of the process's life.

use std::process::ExitCode;

use crate::config;

pub mod log;
mod options;

pub use options::RunOptions;

/// Runs the pooler until it is told to stop.
pub fn run(options: RunOptions) -> ExitCode {
    match config::load(&options.config, options.dialect) {
        Ok(_) => ExitCode::SUCCESS,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{mistake}");
            }
            ExitCode::FAILURE
        }
    }
}
