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

    /// Sets the buffer sizes. On a listening socket, so that accepted ones inherit them before their window is told.
    pub(super) fn apply_buffers(&self, socket: &socket2::Socket) -> io::Result<()> {
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
