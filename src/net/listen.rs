//! Where clients knock: TCP addresses and a unix socket.
//!
//! Sockets are bound first ([`bind`], no runtime needed) and listened on later. What is accepted comes as
//! [`Detached`]: it is registered once, at the worker that will serve it. Socket options are set on the listening
//! socket, from which connections inherit them. `tcp_defer_accept` has no effect: a client that connects and stays
//! silent costs no more than its place among logins.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Access, Gid};
use rustix::net::{SocketAddrAny, SocketFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ring::RingListener;
use super::socket::LooseSocket;
use super::{Address, Detached, TcpOptions, socket_path};
use crate::config::{Compatibility, Settings};

/// `UNIXSOCK_PATH_BUFLEN` in src/include/libpq/pqcomm.h, without the final zero byte.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where a socket listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system, or `@name` for an abstract one.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    /// As PgBouncer logs it: `127.0.0.1:6432`, `unix:/tmp/.s.PGSQL.6432`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Neither `listen_addr` nor `unix_socket_dir` says anything.
    #[error("nowhere to listen on")]
    Nowhere,
    /// A name in `listen_addr` that no resolver knows.
    #[error("cannot listen on \"{name}\": {source}")]
    Lookup {
        /// The name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The system refuses the place.
    #[error("cannot listen on {place}: {step}: {source}")]
    Refused {
        /// Where.
        place: Place,
        /// The system call.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Another process answers on our unix socket.
    #[error("unix socket is in use, cannot continue ({})", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A PostgreSQL server has, or had, this socket.
    #[error("unix port is in use: there is a lock file {}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("unix socket path \"{}\" is too long (at most {UNIX_PATH_BYTES_MAX} bytes)", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// `unix_socket_group` is no group of this machine.
    #[error("unix_socket_group: no such group: {name}")]
    Group {
        /// The name.
        name: String,
    },
}

impl ListenError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Nowhere => "Set listen_addr, or unix_socket_dir, or both.".to_owned(),
            Self::Lookup { .. } => "Give listen_addr addresses of this machine, or * for all.".to_owned(),
            Self::Refused { source, place, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "Another process listens there (ss -ltnp shows which). Stop it, or set another listen_port than {}.",
                    place.port()
                ),
                io::ErrorKind::AddrNotAvailable => {
                    "listen_addr must be an address of this machine, or * for all.".to_owned()
                }
                io::ErrorKind::PermissionDenied => match place {
                    Place::Tcp(_) => {
                        "Ports below 1024 need privileges; choose a higher listen_port.".to_owned()
                    }
                    Place::Unix(_) => {
                        "Set unix_socket_dir to a directory that this user may write to.".to_owned()
                    }
                },
                io::ErrorKind::NotFound => "Create the directory, or set another unix_socket_dir.".to_owned(),
                _ => return None,
            },
            Self::InUse { .. } => {
                "Another pooler or a PostgreSQL answers there. Stop it, or set another listen_port."
                    .to_owned()
            }
            Self::Locked { .. } => {
                "Remove the lock file if its PostgreSQL is gone, or set another listen_port.".to_owned()
            }
            Self::TooLong { .. } => "Set a shorter unix_socket_dir.".to_owned(),
            Self::Group { .. } => "Only groups in /etc/group, and numbers, are known here.".to_owned(),
        })
    }
}

impl Place {
    fn port(&self) -> String {
        match self {
            Self::Tcp(address) => address.port().to_string(),
            Self::Unix(path) => path.extension().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// A socket that listens but is not served yet.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    place: Place,
    keeper: Keeper,
    /// Those that it has; `None` where somebody else has made it.
    options: Option<TcpOptions>,
}

/// Who looks after a unix socket's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keeper {
    /// We do.
    Us,
    /// Whoever opened it, the service manager: it stays when we go.
    Another,
}

/// Binds all that the settings ask for. Blocks on the resolver where `listen_addr` has names. Addresses that this machine
/// does not have just now are left out, with a warning: one of IPv4 and IPv6, or one that moves between machines. But one
/// must be left, or in PgBouncer's way a unix socket.
///
/// Errors: the first place that can't be had; the others are then free again.
pub fn bind(settings: &Settings) -> Result<Vec<Bound>, ListenError> {
    let mut bound = Vec::new();
    let mut absent = None;
    let mut port = settings.listen_port;
    for name in &settings.listen_addr {
        for mut address in addresses(name, port)? {
            address.set_port(port);
            match bind_tcp(address, settings) {
                Ok(it) => {
                    // A port of the kernel's choice is the same for all places.
                    if let (0, Place::Tcp(address)) = (port, &it.place) {
                        port = address.port();
                    }
                    bound.push(it);
                }
                // `*` means what there is.
                Err(error) if name == "*" && is_absent(&error) => {}
                Err(error) if is_absent(&error) => {
                    tracing::warn!("{error}");
                    absent.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
    if let Some(error) = absent.filter(|_| bound.is_empty())
        && settings.compatibility == Compatibility::Postgres
    {
        return Err(error);
    }
    if let Some(dir) = socket_directory(settings) {
        bound.push(bind_unix(&socket_path(dir, port), settings)?);
    }
    if bound.is_empty() {
        return Err(ListenError::Nowhere);
    }
    // TCP last: whoever finds a port open finds everything else there too.
    if let Err(error) = bound.iter().try_for_each(|it| it.listen_if_tcp(settings)) {
        bound.iter().for_each(|it| remove_file_of(&it.place));
        return Err(error);
    }
    Ok(bound)
}

/// Why [`bind`] could not make the unix socket: its place is not there, or its group is not known. Opens and changes
/// nothing; TCP, and who else is there, is for [`bind`] to find.
pub fn foresee(settings: &Settings) -> Vec<ListenError> {
    let Some(directory) = socket_directory(settings).filter(|it| !is_abstract(it)) else { return Vec::new() };
    let place = takes_socket(directory, settings.listen_port);
    place.err().into_iter().chain(known_group(settings).err()).collect()
}

/// `unix_socket_dir`, where it is not switched off.
fn socket_directory(settings: &Settings) -> Option<&Path> {
    settings.unix_socket_dir.as_deref().filter(|it| !it.as_os_str().is_empty())
}

/// Whether a path leads to Linux's abstract sockets, which need no file.
fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().first() == Some(&b'@')
}

fn fits(path: &Path) -> Result<(), ListenError> {
    let is_too_long = path.as_os_str().len() > UNIX_PATH_BYTES_MAX;
    if is_too_long { Err(ListenError::TooLong { path: path.into() }) } else { Ok(()) }
}

fn takes_socket(directory: &Path, port: u16) -> Result<(), ListenError> {
    let path = socket_path(directory, port);
    fits(&path)?;
    let refused = |source: rustix::io::Errno| ListenError::Refused {
        place: Place::Unix(path.clone()),
        step: "bind",
        source: source.into(),
    };
    if !directory.is_dir() && directory.exists() {
        return Err(refused(rustix::io::Errno::NOTDIR));
    }
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(refused)
}

fn addresses(name: &str, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    if name == "*" {
        return Ok(vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]);
    }
    let failed = |source| ListenError::Lookup { name: name.to_owned(), source };
    Ok((name, port).to_socket_addrs().map_err(failed)?.collect())
}

fn is_absent(error: &ListenError) -> bool {
    let ListenError::Refused { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::AddrNotAvailable
        || source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind_tcp(address: SocketAddr, settings: &Settings) -> Result<Bound, ListenError> {
    let at = |step| move |source| ListenError::Refused { place: Place::Tcp(address), step, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(at("socket"))?;
    socket.set_reuse_address(true).map_err(at("SO_REUSEADDR"))?;
    if address.is_ipv6() {
        // Else `*` would take the IPv4 port twice.
        socket.set_only_v6(true).map_err(at("IPV6_V6ONLY"))?;
    }
    if settings.so_reuseport {
        socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
    }
    let options = TcpOptions::of(settings);
    // What cannot be set is not told, as with any other connection.
    let _ = options.apply_to_listener(&socket);
    socket.bind(&address.into()).map_err(at("bind"))?;
    let given = socket.local_addr().ok().and_then(|it| it.as_socket()).unwrap_or(address);
    Ok(Bound { socket, place: Place::Tcp(given), keeper: Keeper::Us, options: Some(options) })
}

fn backlog(settings: &Settings) -> i32 {
    i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX)
}

fn bind_unix(path: &Path, settings: &Settings) -> Result<Bound, ListenError> {
    let at = |step| move |source| ListenError::Refused { place: Place::Unix(path.into()), step, source };
    fits(path)?;
    let is_abstract = is_abstract(path);
    if !is_abstract {
        remove_stale(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(at("socket"))?;
    let address = unix_address(path).map_err(at("address"))?;
    socket.bind(&address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse if is_abstract => ListenError::InUse { path: path.into() },
        _ => at("bind")(source),
    })?;
    if !is_abstract {
        let mode = std::fs::Permissions::from_mode(settings.unix_socket_mode);
        std::fs::set_permissions(path, mode).map_err(at("chmod"))?;
        if let Some(group) = known_group(settings)? {
            rustix::fs::chown(path, None, Some(group)).map_err(io::Error::from).map_err(at("chown"))?;
        }
    }
    socket.listen(backlog(settings)).map_err(at("listen"))?;
    Ok(Bound { socket, place: Place::Unix(path.into()), keeper: Keeper::Us, options: None })
}

/// A path with `@` in front means an abstract socket, whose address begins with a zero byte.
pub(super) fn unix_address(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(unix_path(path))
}

/// Connects to a unix socket, waiting for the connection.
///
/// Errors: nobody listens there, or not to us.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&unix_address(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// The path as the kernel wants it.
pub(super) fn unix_path(path: &Path) -> PathBuf {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    match path.as_os_str().as_bytes() {
        [b'@', rest @ ..] => OsStr::from_bytes(&[&[0], rest].concat()).into(),
        _ => path.into(),
    }
}

/// Removes a socket that a process left behind. One that still answers is left alone, and so is any other file:
/// `bind` will then say that the place is taken.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let lock = PathBuf::from(format!("{}.lock", path.display()));
    if lock.symlink_metadata().is_ok() {
        return Err(ListenError::Locked { path: lock });
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ListenError::Refused {
                place: Place::Unix(path.into()),
                step: "unlink",
                source,
            })
        }
        // Also if it answers with an error other than that nobody is there: its queue may be full.
        _ => Err(ListenError::InUse { path: path.into() }),
    }
}

/// The number of `unix_socket_group`, where one is asked for.
fn known_group(settings: &Settings) -> Result<Option<Gid>, ListenError> {
    let Some(name) = settings.unix_socket_group.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    group(name).map(Some).ok_or_else(|| ListenError::Group { name: name.to_owned() })
}

/// A group's number, from its name in /etc/group.
fn group(name: &str) -> Option<Gid> {
    let number = name.parse().ok().or_else(|| {
        let groups = std::fs::read_to_string("/etc/group").ok()?;
        let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(2)?.parse().ok()
    });
    number.map(Gid::from_raw)
}

impl Bound {
    fn listen_if_tcp(&self, settings: &Settings) -> Result<(), ListenError> {
        if !matches!(self.place, Place::Tcp(_)) {
            return Ok(());
        }
        let refused = |source| ListenError::Refused { place: self.place.clone(), step: "listen", source };
        self.socket.listen(backlog(settings)).map_err(refused)
    }

    /// Takes a socket that listens already and that somebody else keeps: the service manager.
    ///
    /// Errors: it is no such socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let address = socket.local_addr()?;
        let place = if let Some(address) = address.as_socket() {
            Place::Tcp(address)
        } else if let Some(path) = address.as_pathname() {
            Place::Unix(path.into())
        } else if let Some(name) = address.as_abstract_namespace() {
            Place::Unix(format!("@{}", String::from_utf8_lossy(name)).into())
        } else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        Ok(Self { socket, place, keeper: Keeper::Another, options: None })
    }

    /// Takes over a socket from the process before: from now on it is ours alone.
    ///
    /// Errors: it is no such socket.
    pub fn inherit(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { keeper: Keeper::Us, ..Self::from_fd(fd)? })
    }

    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Begins to serve it on the calling thread's ring, if it has one, else on the current runtime.
    ///
    /// Errors: the reactor refuses.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the socket is owned here, so its descriptor stays open"
    )]
    pub fn serve(self) -> io::Result<Listener> {
        self.socket.set_nonblocking(true)?;
        let socket = match RingListener::new(self.socket) {
            Ok(socket) => Listening::OnRing(socket),
            Err(socket) => Listening::OnRuntime(AsyncFd::with_interest(socket, Interest::READABLE)?),
        };
        let own = match self.place {
            Place::Tcp(address) if !address.ip().is_unspecified() => Some(Address::Tcp(address)),
            Place::Tcp(_) | Place::Unix(_) => None,
        };
        Ok(Listener {
            socket,
            place: self.place,
            keeper: self.keeper,
            own,
            options: Mutex::new(self.options),
            has_older: AtomicBool::new(false),
        })
    }
}

/// A socket whose connections are accepted. Dropping it closes it, but leaves a unix socket's file in place.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    place: Place,
    keeper: Keeper,
    /// Our end of all its connections, where that is the same.
    own: Option<Address>,
    /// The options that connections inherit.
    options: Mutex<Option<TcpOptions>>,
    /// Connections may wait that came before it had these options.
    has_older: AtomicBool,
}

/// Who tells that somebody has come.
#[derive(Debug)]
enum Listening {
    OnRuntime(AsyncFd<Socket>),
    OnRing(RingListener),
}

impl Listening {
    fn socket(&self) -> &Socket {
        match self {
            Self::OnRuntime(socket) => socket.get_ref(),
            Self::OnRing(socket) => socket.socket(),
        }
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub stream: Detached,
    /// Who is at the other end.
    pub peer: Address,
    /// Which of our addresses it came to.
    pub local: Address,
}

impl Listener {
    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The next connection, with these options. Cancel safe.
    ///
    /// Errors: no file descriptor or memory is left. The connection waits; accept again after a while.
    pub async fn accept(&self, options: &TcpOptions) -> io::Result<Accepted> {
        self.hand_down(options);
        loop {
            let accept = |socket: &Socket| {
                let accepted = accept(socket);
                if accepted.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock) {
                    self.has_older.store(false, Ordering::Relaxed);
                }
                accepted
            };
            let accepted = match &self.socket {
                Listening::OnRuntime(socket) => socket.async_io(Interest::READABLE, accept).await,
                Listening::OnRing(socket) => socket.accept(accept).await,
            };
            match accepted {
                Ok((fd, peer)) => {
                    // A client that has gone already has no address any more.
                    if let Ok(accepted) = self.welcome(fd, peer, options) {
                        return Ok(accepted);
                    }
                }
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to it that connections inherit these options.
    fn hand_down(&self, options: &TcpOptions) {
        if matches!(self.place, Place::Unix(_)) {
            return;
        }
        let mut inherited = self.options.lock();
        if inherited.as_ref() == Some(options) {
            return;
        }
        // What cannot be set is not told, as with any other connection.
        let _ = options.apply_to_listener(self.socket.socket());
        *inherited = Some(options.clone());
        self.has_older.store(true, Ordering::Relaxed);
    }

    fn welcome(
        &self,
        fd: OwnedFd,
        peer: Option<SocketAddrAny>,
        options: &TcpOptions,
    ) -> io::Result<Accepted> {
        let socket = match self.place {
            Place::Unix(_) => LooseSocket::Unix(fd.into()),
            Place::Tcp(_) => LooseSocket::Tcp(fd.into()),
        };
        if self.has_older.load(Ordering::Relaxed) && matches!(self.place, Place::Tcp(_)) {
            // It fails only for a client that has gone already, which its first read will tell.
            let _ = options.apply(&socket);
        }
        let peer = match peer.map(SocketAddr::try_from) {
            Some(Ok(address)) => Address::Tcp(address),
            Some(Err(_)) | None => socket.peer_address()?,
        };
        let local = self.own.map_or_else(|| socket.local_address(), Ok)?;
        Ok(Accepted { stream: Detached::plain(socket), peer, local })
    }

    /// Removes a unix socket's file, if it is ours: at the end of a process that nobody follows. It is to be dropped
    /// next.
    pub fn remove(&self) {
        if self.keeper == Keeper::Us {
            remove_file_of(&self.place);
        }
    }
}

/// Removes the file of a unix socket, if there is one.
fn remove_file_of(place: &Place) {
    if let Place::Unix(path) = place
        && !is_abstract(path)
    {
        let _ = std::fs::remove_file(path);
    }
}

fn accept(socket: &Socket) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    Ok(rustix::net::acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// Errors of a connection that died in the queue: "Error handling" in accept(2).
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::Interrupted
            | Kind::ConnectionReset
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    )
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.socket().as_fd()
    }
}

#[cfg(test)]
mod tests;
