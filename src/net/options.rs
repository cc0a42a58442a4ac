//! Socket options from the settings `tcp_*`.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::Settings;

/// What is set on every TCP connection, to clients and to servers. Zero: the kernel's own value stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// `tcp_keepalive`.
    pub keepalive: bool,
    /// `tcp_keepidle`.
    pub keepidle: Duration,
    /// `tcp_keepintvl`.
    pub keepintvl: Duration,
    /// `tcp_keepcnt`.
    pub keepcnt: u32,
    /// `tcp_user_timeout`.
    pub user_timeout: Duration,
    /// `tcp_socket_buffer`, for each direction.
    pub socket_buffer: usize,
}

impl TcpOptions {
    /// The options that these settings ask for.
    pub fn of(settings: &Settings) -> Self {
        Self {
            keepalive: settings.tcp_keepalive,
            keepidle: settings.tcp_keepidle,
            keepintvl: settings.tcp_keepintvl,
            keepcnt: settings.tcp_keepcnt,
            user_timeout: settings.tcp_user_timeout,
            socket_buffer: usize::try_from(settings.tcp_socket_buffer).unwrap_or(usize::MAX),
        }
    }

    /// Sets them on a TCP socket, and TCP_NODELAY: an answer must not wait for the next one.
    pub(super) fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            socket.set_tcp_keepalive(&self.probes())?;
        }
        if !self.user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        }
        self.apply_buffers(&socket)
    }

    /// Sets them on a listening socket, from which every connection inherits them: it may have had others before.
    pub(super) fn apply_to_listener(&self, socket: &socket2::Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let as_system = |of: Duration, name| if of.is_zero() { system_seconds(name) } else { Some(of) };
            let idle = as_system(self.keepidle, "tcp_keepalive_time");
            let interval = as_system(self.keepintvl, "tcp_keepalive_intvl");
            let count =
                if self.keepcnt == 0 { system_number("tcp_keepalive_probes") } else { Some(self.keepcnt) };
            let probes = TcpKeepalive::new();
            let probes = idle.into_iter().fold(probes, TcpKeepalive::with_time);
            let probes = interval.into_iter().fold(probes, TcpKeepalive::with_interval);
            let probes = count.into_iter().fold(probes, TcpKeepalive::with_retries);
            socket.set_tcp_keepalive(&probes)?;
        } else {
            socket.set_keepalive(false)?;
        }
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        self.apply_buffers(socket)
    }

    /// Sets the buffer sizes. On a listening socket, so that accepted ones inherit them before their window is told.
    fn apply_buffers(&self, socket: &socket2::Socket) -> io::Result<()> {
        if self.socket_buffer > 0 {
            socket.set_recv_buffer_size(self.socket_buffer)?;
            socket.set_send_buffer_size(self.socket_buffer)?;
        }
        Ok(())
    }

    /// `set_tcp_keepalive` switches keepalive on, whatever else it is given.
    fn probes(&self) -> TcpKeepalive {
        let mut probes = TcpKeepalive::new();
        if !self.keepidle.is_zero() {
            probes = probes.with_time(self.keepidle);
        }
        if !self.keepintvl.is_zero() {
            probes = probes.with_interval(self.keepintvl);
        }
        if self.keepcnt > 0 {
            probes = probes.with_retries(self.keepcnt);
        }
        probes
    }
}

/// What the system does where nothing is set: tcp(7).
fn system_number(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?.trim().parse().ok()
}

pub(super) fn system_seconds(name: &str) -> Option<Duration> {
    system_number(name).map(|it| Duration::from_secs(it.into()))
}
