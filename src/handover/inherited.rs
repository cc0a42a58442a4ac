//! Sockets that the service manager has opened and that come with the process: sd_listen_fds(3).
//!
//! `LISTEN_FDS` says how many there are, from descriptor 3 on, `LISTEN_PID` for which process, and `LISTEN_FDNAMES`
//! what they are called in the socket unit (`FileDescriptorName=`).

use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use crate::net::listen::Bound;

/// The `FileDescriptorName=` of a socket for metrics and health; all others are for clients.
const HTTP_NAME: &str = "http";

/// Why sockets that came with the process can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// It is no stream socket, or does not listen.
    #[error("failed to set up socket passed from service manager (number {number}): {source}")]
    Unfit {
        /// Its place among those passed, from 1.
        number: usize,
        /// Why not.
        source: io::Error,
    },
}

/// What came with the process.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For clients: in place of `listen_addr` and `unix_socket_dir`.
    pub clients: Vec<Bound>,
    /// For metrics and health: in place of `http_listen`.
    pub http: Option<Bound>,
}

/// Takes the sockets that the environment speaks of; none where it speaks of none or of another process. They can be
/// taken once. To be called before any thread is started, because it changes the environment.
///
/// Errors: one of them can't be used.
pub fn inherited() -> Result<Inherited, InheritError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    // Without a process named they may be meant for whoever started us.
    let meant = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let mut sockets = if meant { ListenFd::from_env() } else { ListenFd::empty() };
    let mut names = names.split(':');
    let mut inherited = Inherited::default();
    for index in 0..sockets.len() {
        let name = names.next().unwrap_or_default();
        let unfit = |source| InheritError::Unfit { number: index + 1, source };
        let Some(fd) = take(&mut sockets, index).map_err(unfit)? else { continue };
        let bound = Bound::from_fd(fd).map_err(unfit)?;
        tracing::info!("socket passed from service manager (number {}, {})", index + 1, bound.place());
        if name == HTTP_NAME {
            inherited.http = Some(bound);
        } else {
            inherited.clients.push(bound);
        }
    }
    Ok(inherited)
}

fn take(sockets: &mut ListenFd, index: usize) -> io::Result<Option<OwnedFd>> {
    if let Ok(found) = sockets.take_unix_listener(index) {
        return Ok(found.map(OwnedFd::from));
    }
    Ok(sockets.take_tcp_listener(index)?.map(OwnedFd::from))
}
