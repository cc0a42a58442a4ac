//! How the program was asked to run.

use std::path::PathBuf;

use crate::config::Dialect;

/// The command line, once it has been understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// How the file is to be read.
    pub dialect: Dialect,
    /// `-v`: how much more to log.
    pub verbose: u8,
    /// `-q`: log to the file or the system's log only, not to the terminal.
    pub quiet: bool,
    /// `-d`: leave the terminal and go on in the background.
    pub daemon: bool,
    /// `-R`: take over from the process that runs already.
    pub reboot: bool,
    /// `-u`: the user of the system to run as.
    pub user: Option<String>,
}

impl RunOptions {
    /// Whether the terminal hears nothing but why the start failed.
    pub fn is_silent(&self) -> bool {
        self.quiet || self.daemon
    }
}
