//! The process under a service manager and in the background: sockets that come with it, what it tells, `-d`, and
//! several processes on one port.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::support::place;
use crate::support::prelude::*;

/// Does what systemd does with the sockets of a socket unit: opens them as descriptors from 3 on and becomes the
/// program. The first argument is the port, the second the unix socket's path, the third the port for HTTP.
const SOCKET_UNIT: &str = r#"
import os, socket, sys
port, path, http = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tcp = socket.create_server(("127.0.0.1", port))
web = socket.create_server(("127.0.0.1", http))
unix = socket.socket(socket.AF_UNIX)
unix.bind(path)
unix.listen()
saved = [os.dup(it.fileno()) for it in (tcp, unix, web)]
for target, fd in enumerate([os.dup2(fd, 50 + n) for n, fd in enumerate(saved)], 3):
    os.dup2(fd, target)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="connection:connection:http")
os.execv(sys.argv[4], sys.argv[4:])
"#;

#[test]
fn sockets_of_the_service_manager_take_the_place_of_configured_ones() {
    let (port, http) = (place::free_port(), place::free_port());
    let directory = place::directory("unit");
    let socket = directory.join(".s.PGSQL.7777");
    let path = socket.display().to_string();
    let launcher = ["python3", "-c", SOCKET_UNIT, &port.to_string(), &path, &http.to_string()];
    let mut pooler = Setup::of(Cluster::shared()).within(&launcher).launch();
    eventually("metrics are served", || {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", http)) else { return false };
        let mut answer = String::new();
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    });
    assert_eq!(Raw::connect(("127.0.0.1", port), "app", "app").value("SELECT 1"), "1");
    let mut local = Raw::dial_unix(&directory, 7777);
    local.login(&[("user", "app"), ("database", "app")], "").expect("it is let in");
    assert_eq!(local.value("SELECT 2"), "2");
    local.goodbye();
    assert!(std::net::TcpStream::connect(pooler.address()).is_err(), "listen_addr is ignored");
    assert!(pooler.log().contains("sockets passed from service manager, listen_addr ignored"));
    pooler.signal(Signal::TERM);
    assert!(pooler.wait().success());
    assert!(socket.exists(), "the file belongs to the service manager");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    let setup = Setup::of(Cluster::shared()).environment("LISTEN_PID", "1").environment("LISTEN_FDS", "2");
    assert_eq!(setup.start().app().value("SELECT 1"), "1");
}

/// What was said to the service manager next.
fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let count = manager.recv(&mut buffer).expect("something is said in time");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn the_service_manager_hears_when_it_is_ready_reloads_and_stops() {
    let directory = place::directory("notify");
    let path = directory.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    place::give_away(&path);
    manager.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let setup = Setup::of(Cluster::shared()).environment("NOTIFY_SOCKET", &path.display().to_string());
    let mut pooler = setup.start();
    let ready = heard(&manager);
    assert!(ready.starts_with("READY=1\nMAINPID="), "{ready}");
    assert_eq!(pooler.app().value("SELECT 1"), "1");

    for broken in [false, true] {
        if broken {
            pooler.rewrite("nonsense");
        }
        pooler.signal(Signal::HUP);
        let reloading = heard(&manager);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let age = now.tv_sec * 1_000_000 - time.parse::<i64>().unwrap();
        assert!(age < 60_000_000, "{age}");
        let reloaded = heard(&manager);
        let status = reloaded.strip_prefix("READY=1\nSTATUS=").expect(&reloaded);
        assert_eq!(status.starts_with("reload refused: "), broken, "{status}");
        assert_eq!(status.is_empty(), !broken, "{status}");
    }

    pooler.signal(Signal::TERM);
    assert_eq!(heard(&manager), "STOPPING=1");
    assert!(pooler.wait().success());
    std::fs::remove_dir_all(directory).unwrap();
}

/// A process in the background, ended with the test.
struct Background(i32);

impl Drop for Background {
    fn drop(&mut self) {
        place::signal(self.0, Signal::KILL);
    }
}

fn pid_in(file: &Path) -> i32 {
    std::fs::read_to_string(file).expect("there is a pid file").trim().parse().expect("a number")
}

#[test]
fn in_the_background_it_serves_before_whoever_started_it_goes_on() {
    let directory = place::directory("daemon");
    let quoted = |name: &str| format!("{:?}", directory.join(name).display().to_string());
    let mut pooler = Setup::of(Cluster::shared())
        .set("pidfile", &quoted("pid"))
        .set("logfile", &quoted("daemon.log"))
        .within(&["/bin/sh", "-c", "exec \"$@\" -d", "sh"])
        .launch();
    assert!(pooler.wait().success());
    let daemon = Background(pid_in(&directory.join("pid")));
    assert_eq!(pooler.app().value("SELECT 1"), "1");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.0)).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), (daemon.0.to_string().as_str(), "0"), "its own session, no terminal");
    for fd in 0..3 {
        let target = std::fs::read_link(format!("/proc/{}/fd/{fd}", daemon.0)).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "descriptor {fd}");
    }
    assert_eq!(pooler.log(), "", "the terminal hears nothing");
    let log = std::fs::read_to_string(directory.join("daemon.log")).unwrap();
    assert!(log.contains("process up"), "{log}");
    place::signal(daemon.0, Signal::TERM);
    eventually("its pid file is gone", || !directory.join("pid").exists());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_fails_in_the_background_is_said_by_who_started_it() {
    let to_background = ["/bin/sh", "-c", "exec \"$@\" -d", "sh"];
    let mut pooler = Setup::of(Cluster::shared()).within(&to_background).launch();
    assert_eq!(pooler.wait().code(), Some(1));
    assert!(pooler.log().contains("daemon needs pidfile configured"), "{}", pooler.log());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = place::directory("daemon");
    let pidfile = directory.join("pid");
    let mut pooler = Setup::of(Cluster::shared())
        .set("listen_port", &port)
        .set("pidfile", &format!("{:?}", pidfile.display().to_string()))
        .within(&to_background)
        .launch();
    assert_eq!(pooler.wait().code(), Some(1));
    assert!(pooler.log().contains("already in use"), "{}", pooler.log());
    assert!(!pidfile.exists());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn several_processes_share_a_port_where_they_are_told_to() {
    let first = Setup::of(Cluster::shared()).set("so_reuseport", "true").start();
    let port = first.port.to_string();
    let second = Setup::of(Cluster::shared()).set("so_reuseport", "true").set("listen_port", &port).start();
    let serves = |pooler: &Pooler| pooler.log().contains("login attempt");
    eventually("both serve", || {
        assert_eq!(first.app().value("SELECT 1"), "1");
        serves(&first) && serves(&second)
    });
}

#[test]
fn the_example_units_name_what_the_program_has() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let (service, socket) = (read("pgweir.service"), read("pgweir.socket"));
    assert!(service.contains("Type=notify-reload\n"));
    assert!(service.contains("ExecStart=/usr/bin/pgweir /etc/pgweir/pgweir.toml\n"));
    assert!(socket.contains("FileDescriptorName=http\n") && socket.contains("ListenStream=6432\n"));
    // Where systemd is installed it judges them itself.
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd/pgweir.service");
    if let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(units).output() {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("Unknown key"), "{said}");
    }
}
