//! The life of the process: start, signals, end.

use crate::support::place;
use crate::support::prelude::*;

#[test]
fn term_waits_for_clients_and_lets_nobody_in() {
    let mut pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    pooler.signal(Signal::TERM);
    // Nothing is said on it: a port without a listener may be connected with itself.
    eventually("nobody gets in", || std::net::TcpStream::connect(pooler.address()).is_err());
    assert_eq!(client.value("SELECT 'still served'"), "still served");
    assert!(pooler.is_running());
    client.goodbye();
    assert!(pooler.wait().success());
}

#[test]
fn int_waits_for_transactions_only() {
    let mut pooler = Pooler::of(Cluster::shared());
    let (mut busy, mut idle) = (pooler.app(), pooler.app());
    idle.query("SELECT 1");
    busy.query("BEGIN");
    pooler.signal(Signal::INT);
    // Nothing is said on it: a port without a listener may be connected with itself.
    eventually("nobody gets in", || std::net::TcpStream::connect(pooler.address()).is_err());
    assert_eq!(busy.value("SELECT 'still served'"), "still served");
    busy.query("COMMIT");
    assert!(pooler.wait().success());
    assert!(idle.rest().iter().all(|message| message.tag == b'E'));
}

#[test]
fn shutdown_timeout_ends_the_wait() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut pooler = Setup::of(Cluster::shared()).set("shutdown_timeout", "\"200ms\"").start();
        let mut client = pooler.app();
        client.query("BEGIN");
        pooler.signal(signal);
        assert_eq!(error(&client.rest()).text(), "server shutting down");
        assert!(pooler.wait().success());
    }
}

#[test]
fn a_second_term_or_int_and_any_quit_end_at_once() {
    for signals in [&[Signal::TERM, Signal::TERM][..], &[Signal::INT, Signal::INT], &[Signal::QUIT]] {
        let mut pooler = Pooler::of(Cluster::shared());
        let mut client = pooler.app();
        client.query("BEGIN");
        for (number, signal) in signals.iter().enumerate() {
            if number > 0 {
                eventually("the first is heard", || pooler.log().contains("got SIG"));
            }
            pooler.signal(*signal);
        }
        pooler.wait();
        client.rest();
    }
}

#[test]
fn with_nobody_connected_term_ends_at_once() {
    let mut pooler = Pooler::of(Cluster::shared());
    pooler.signal(Signal::TERM);
    assert!(pooler.wait().success());
}

#[test]
fn usr1_pauses_and_usr2_resumes() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    pooler.signal(Signal::USR1);
    eventually("it is paused", || pooler.is("paused"));
    client.send(&query("SELECT 'after'"));
    assert!(client.is_silent_for(Duration::from_millis(300)));
    pooler.signal(Signal::USR2);
    assert_eq!(rows(&client.ready()), [[Some("after".to_owned())]]);
}

#[test]
fn the_console_shuts_down_in_both_ways() {
    let mut pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    let mut console = pooler.console();
    console.send(&query("SHUTDOWN WAIT_FOR_CLIENTS"));
    // Nothing is said on it: a port without a listener may be connected with itself.
    eventually("nobody gets in", || std::net::TcpStream::connect(pooler.address()).is_err());
    assert_eq!(client.value("SELECT 1"), "1");
    client.goodbye();
    // Whoever asked is a client, too.
    assert!(pooler.is_running());
    console.goodbye();
    assert!(pooler.wait().success());

    let mut pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("BEGIN");
    let mut console = pooler.console();
    console.send(&query("SHUTDOWN WAIT_FOR_SERVERS"));
    // Nothing is said on it: a port without a listener may be connected with itself.
    eventually("nobody gets in", || std::net::TcpStream::connect(pooler.address()).is_err());
    assert_eq!(client.value("SELECT 1"), "1");
    client.query("COMMIT");
    assert!(pooler.wait().success());

    let mut pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("BEGIN");
    let mut console = pooler.console();
    console.send(&query("SHUTDOWN"));
    pooler.wait();
    console.rest();
    client.rest();
}

#[test]
fn a_port_that_is_taken_is_said_clearly() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut pooler =
        Setup::of(Cluster::shared()).set("listen_port", &port).set("unix_socket_dir", "\"\"").launch();
    assert!(!pooler.wait().success());
    let log = pooler.log();
    assert!(log.contains(&port) && log.to_lowercase().contains("address already in use"), "{log}");
}

#[test]
fn a_reload_for_more_clients_raises_the_limit_of_descriptors() {
    let setup = Setup::of(Cluster::shared()).set("max_client_conn", "100").set("default_pool_size", "1");
    let mut pooler = setup.within(&["prlimit", "--nofile=400:4000"]).start();
    let pid = pooler.pid();
    let limit = || {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(limit(), 400);
    pooler.reload(|setup| setup.set("max_client_conn", "1000"));
    eventually("it is raised", || limit() > 1000);
}

#[test]
fn it_starts_without_postgresql_and_says_so() {
    let mut cluster = Cluster::private(&[]);
    cluster.stop();
    let setup = Setup::of(&cluster).set("server_login_retry", "1").set("min_pool_size", "1");
    let pooler =
        setup.database("forced", "dbname = \"app\"\nuser = \"app\"").set("query_wait_timeout", "30").start();
    eventually("the log says so", || pooler.log().contains("cannot connect to server"));
    assert!(!pooler.show("SHOW DATABASES").is_empty());
    cluster.start();
    eventually("it works when PostgreSQL is there", || {
        Raw::try_connect(pooler.address(), "app", "app")
            .is_ok_and(|mut client| client.value("SELECT 1") == "1")
    });
}

#[test]
fn as_root_it_refuses_to_run() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = place::directory("root");
    let file = directory.join("pgweir.toml");
    place::write(&file, "[pgweir]\nlisten_addr = \"127.0.0.1\"\nlisten_port = 0\nunix_socket_dir = \"\"\n");
    let output = std::process::Command::new(place::pgweir_program()).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("should not run as root"));
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn the_log_is_text_json_or_pgbouncers() {
    for (format, mark) in [("text", "login attempt"), ("json", "\"message\":\""), ("pgbouncer", "] LOG C-0x")]
    {
        let pooler = Setup::of(Cluster::shared()).set("log_format", &format!("{format:?}")).start();
        pooler.app().goodbye();
        eventually("the log has it", || pooler.log().contains(mark));
        if format == "json" {
            let log = pooler.log();
            let lines = log.lines().filter(|line| !line.is_empty());
            assert!(lines.clone().count() > 0);
            lines.for_each(|line| assert!(line.starts_with('{') && line.ends_with('}'), "{line}"));
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let mut pooler = Pooler::of(Cluster::shared());
    let socket = pooler.directory().join(format!(".s.PGSQL.{}", pooler.port));
    assert!(socket.exists());
    pooler.signal(Signal::TERM);
    pooler.wait();
    assert!(!socket.exists());
}
