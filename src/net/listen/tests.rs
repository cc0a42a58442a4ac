//! Places that can be had, and places that can't.

use super::*;
use crate::net::{Address, Stream};

fn nowhere() -> Settings {
    Settings { listen_addr: Vec::new(), listen_port: 0, unix_socket_dir: None, ..Settings::default() }
}

fn tcp(name: &str, port: u16) -> Settings {
    Settings { listen_addr: vec![name.to_owned()], listen_port: port, ..nowhere() }
}

fn unix(dir: &Path) -> Settings {
    Settings { unix_socket_dir: Some(dir.into()), listen_port: 6432, ..nowhere() }
}

fn fails(settings: &Settings) -> ListenError {
    bind(settings).expect_err("this place can't be had")
}

#[tokio::test]
async fn a_client_over_tcp_is_accepted() {
    let mut bound = bind(&tcp("127.0.0.1", 0)).unwrap();
    let Place::Tcp(address) = *bound[0].place() else { panic!("not TCP") };
    assert_ne!(address.port(), 0);
    let listener = bound.remove(0).serve().unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    let stream = listener.accept(&TcpOptions::default()).await.unwrap().stream.attach().unwrap();
    assert_eq!(stream.peer_addr().unwrap(), Address::Tcp(client.local_addr().unwrap()));
    assert_eq!(stream.local_addr().unwrap(), Address::Tcp(address));
    assert!(stream.peer_credentials().is_none());
}

#[tokio::test]
async fn connections_have_the_options_in_force_when_they_are_accepted() {
    let kept = |seconds| TcpOptions {
        keepalive: true,
        keepidle: std::time::Duration::from_secs(seconds),
        ..TcpOptions::default()
    };
    let bound = bind(&tcp("127.0.0.1", 0)).unwrap().remove(0);
    let Place::Tcp(address) = *bound.place() else { panic!("not TCP") };
    let fd = bound.socket.try_clone().unwrap().into();
    let bounds = [("ours", bound), ("another's", Bound::from_fd(fd).unwrap())];
    for (whose, bound) in bounds {
        let listener = bound.serve().unwrap();
        let system = super::super::options::system_seconds("tcp_keepalive_time").unwrap();
        for (options, keepalive, idle) in [
            (kept(77), true, std::time::Duration::from_secs(77)),
            (kept(88), true, std::time::Duration::from_secs(88)),
            (kept(0), true, system),
            (TcpOptions::default(), false, system),
        ] {
            // It waits already when the options change.
            let _client = std::net::TcpStream::connect(address).unwrap();
            let stream = listener.accept(&options).await.unwrap().stream.attach().unwrap();
            let socket = stream.share().unwrap().unwrap().fd;
            let socket = socket2::SockRef::from(&socket);
            assert!(socket.tcp_nodelay().unwrap(), "{whose} {options:?}");
            if idle != system {
                assert_eq!(socket.keepalive().unwrap(), keepalive, "{whose} {options:?}");
                assert_eq!(socket.tcp_keepalive_time().unwrap(), idle, "{whose}");
            }
            // The next one inherits them.
            let _client = std::net::TcpStream::connect(address).unwrap();
            let stream = listener.accept(&options).await.unwrap().stream.attach().unwrap();
            let socket = stream.share().unwrap().unwrap().fd;
            let socket = socket2::SockRef::from(&socket);
            assert_eq!(socket.keepalive().unwrap(), keepalive, "{whose} {options:?}");
            assert_eq!(socket.tcp_keepalive_time().unwrap(), idle, "{whose} {options:?}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_with_the_address_and_a_hint() {
    let first = bind(&tcp("127.0.0.1", 0)).unwrap();
    let Place::Tcp(address) = *first[0].place() else { panic!("not TCP") };
    let error = fails(&tcp("127.0.0.1", address.port()));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.hint().is_some_and(|it| it.contains("listen_port")));
}

#[test]
fn several_processes_share_a_port_with_so_reuseport() {
    let shared = |port| Settings { so_reuseport: true, ..tcp("127.0.0.1", port) };
    let first = bind(&shared(0)).unwrap();
    let Place::Tcp(address) = *first[0].place() else { panic!("not TCP") };
    assert!(bind(&shared(address.port())).is_ok());
}

#[test]
fn a_star_listens_on_one_port_of_every_family() {
    let bound = bind(&tcp("*", 0)).unwrap();
    let ports: Vec<_> = bound.iter().map(|it| it.place().port()).collect();
    assert!(!ports.is_empty());
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

#[test]
fn places_that_do_not_exist_are_errors() {
    assert!(matches!(fails(&nowhere()), ListenError::Nowhere));
    assert!(matches!(fails(&tcp("name.invalid", 0)), ListenError::Lookup { .. }));
    assert!(fails(&tcp("192.0.2.1", 0)).hint().is_some());
    let long = "d".repeat(200);
    assert!(matches!(fails(&unix(Path::new(&long))), ListenError::TooLong { .. }));
    let error = fails(&unix(Path::new("/nonexistent-directory")));
    assert!(error.to_string().contains("No such file or directory"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_tells_who_connects() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { unix_socket_mode: 0o640, ..unix(dir.path()) };
    let listener = bind(&settings).unwrap().remove(0).serve().unwrap();
    let path = dir.path().join(".s.PGSQL.6432");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let stream: Stream = listener.accept(&TcpOptions::default()).await.unwrap().stream.attach().unwrap();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    assert_eq!(stream.peer_credentials().map(|it| it.pid), Some(own));
    assert!(matches!(stream.peer_addr(), Ok(Address::Unix { pid, .. }) if pid == own));
    listener.remove();
    assert!(!path.exists());
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".s.PGSQL.6432");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a closed socket leaves its file");
    let alive = bind(&unix(dir.path())).unwrap();
    let error = fails(&unix(dir.path()));
    assert!(error.to_string().contains("unix socket is in use, cannot continue"), "{error}");
    drop(alive);
    assert!(bind(&unix(dir.path())).is_ok());
}

#[test]
fn other_files_in_the_way_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".s.PGSQL.6432");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(fails(&unix(dir.path())), ListenError::Refused { step: "bind", .. }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_lock_file_of_a_postgresql_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".s.PGSQL.6432.lock"), "1").unwrap();
    assert!(matches!(fails(&unix(dir.path())), ListenError::Locked { .. }));
}

#[tokio::test]
async fn an_abstract_socket_needs_no_file() {
    let name = format!("@pgweir-test-{}", std::process::id());
    let bound = bind(&unix(Path::new(&name))).unwrap().remove(0);
    let Place::Unix(path) = bound.place().clone() else { panic!("not unix") };
    assert!(matches!(fails(&unix(Path::new(&name))), ListenError::InUse { .. }));
    let listener = bound.serve().unwrap();
    let dialer = crate::net::Dialer::default();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let host = crate::config::Host::Unix(name.into());
    let (_client, endpoint) = dialer.dial(&host, 6432, until).await.unwrap();
    assert_eq!(endpoint, crate::net::Endpoint::Unix(path));
    listener.accept(&TcpOptions::default()).await.unwrap();
}

#[test]
fn a_group_is_found_by_name_and_by_number() {
    assert_eq!(group("root").map(|it| it.as_raw()), Some(0));
    assert_eq!(group("4711").map(|it| it.as_raw()), Some(4711));
    assert_eq!(group("no-such-group"), None);
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { unix_socket_group: Some("no-such-group".into()), ..unix(dir.path()) };
    assert!(matches!(fails(&settings), ListenError::Group { .. }));
}

#[test]
fn an_address_that_is_elsewhere_just_now_is_left_out_as_long_as_one_is_left() {
    let elsewhere = "192.0.2.55".to_owned();
    let both = Settings {
        listen_addr: vec![elsewhere.clone(), "127.0.0.1".to_owned()],
        listen_port: 0,
        ..nowhere()
    };
    let bound = bind(&both).unwrap();
    assert!(matches!(*bound[0].place(), Place::Tcp(it) if it.ip().is_loopback()) && bound.len() == 1);
    let dir = tempfile::tempdir().unwrap();
    for (compatibility, serves) in [(Compatibility::Postgres, false), (Compatibility::PgBouncer, true)] {
        let one = Settings { listen_addr: vec![elsewhere.clone()], compatibility, ..unix(dir.path()) };
        let bound = bind(&one);
        assert_eq!(bound.is_ok(), serves, "{compatibility:?}: {bound:?}");
        bound.into_iter().flatten().for_each(|it| remove_file_of(it.place()));
        let text = fails(&Settings { unix_socket_dir: None, ..one }).to_string();
        let wanted = if serves { "nowhere to listen on" } else { "cannot listen on 192.0.2.55:6432" };
        assert!(text.contains(wanted), "{text}");
    }
}
