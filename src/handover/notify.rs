//! Tells the service manager how the process is doing: sd_notify(3).
//!
//! One datagram per piece of news, to the socket that `NOTIFY_SOCKET` names. Where there is none nothing is sent, and
//! a manager that does not listen is no reason to stop serving.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// The way to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    stopping: AtomicBool,
}

impl Notifier {
    /// To the manager that the environment names, if it does.
    pub fn from_env() -> Self {
        std::env::var_os("NOTIFY_SOCKET").map_or_else(Self::default, |it| Self::to(&it))
    }

    /// To this socket: a path, or `@name` for an abstract one.
    fn to(name: &OsStr) -> Self {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            [] => return Self::default(),
            path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
        };
        match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(manager) => Self { manager: Some(manager), stopping: AtomicBool::new(false) },
            Err(error) => {
                tracing::warn!("cannot reach the service manager at {}: {error}", name.display());
                Self::default()
            }
        }
    }

    /// Clients can connect from now on. Names the process, which need not be the one that the manager started.
    pub fn ready(&self) {
        self.send(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// The configuration is being read again; [`Self::reloaded`] follows, whatever comes of it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The end of [`Self::reloading`]. `refused`: why everything is as it was, for `systemctl status`.
    pub fn reloaded(&self, refused: Option<&str>) {
        let status = match refused {
            Some(why) => format!("reload refused: {}", why.replace('\n', " ")),
            None => String::new(),
        };
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The process has begun to end. Says so once.
    pub fn stopping(&self) {
        if !self.stopping.swap(true, Ordering::Relaxed) {
            self.send("STOPPING=1");
        }
    }

    fn send(&self, news: &str) {
        let Some((socket, address)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(news.as_bytes(), address) {
            tracing::warn!("cannot tell the service manager {news:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_socket_is_reached_too() {
        let name = format!("pgweir-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::to(OsStr::new(&format!("@{name}")));
        notifier.reloading();
        notifier.stopping();
        notifier.stopping();
        notifier.ready();
        let mut buffer = [0; 256];
        let mut next = || {
            let count = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(next(), "STOPPING=1");
        assert_eq!(next(), format!("READY=1\nMAINPID={}", std::process::id()));
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        for name in ["", "/nonexistent/notify"] {
            Notifier::to(OsStr::new(name)).ready();
        }
        assert!(Notifier::to(OsStr::new(&"x".repeat(200))).manager.is_none());
    }
}
