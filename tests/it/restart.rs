//! `-R`: another process takes the place of the one that runs, and clients do not notice.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::certs::{Certificates, client_config};
use crate::support::place;
use crate::support::prelude::*;

/// With its pid file beside its configuration.
fn start(setup: Setup) -> Pooler {
    let directory = place::directory("restart");
    let pidfile = directory.join("pid").display().to_string();
    let quoted = format!("{:?}", directory.display().to_string());
    setup.set("pidfile", &format!("{pidfile:?}")).set("unix_socket_dir", &quoted).start()
}

/// A lock that queries wait for, so that they last as long as the test says.
struct Alarm {
    holder: Raw,
    mark: String,
    /// What waits for it, as an expression.
    sleep: String,
}

impl Alarm {
    fn set() -> Self {
        let mark = Cluster::shared().unique("alarm");
        let sleep = format!("pg_advisory_xact_lock(hashtext('{mark}'))");
        let mut holder = Cluster::shared().connect("app", "app");
        holder.rows(&format!("BEGIN; SELECT {sleep}"));
        Self { holder, mark, sleep }
    }

    /// Whether PostgreSQL runs a query that waits for it.
    fn is_awaited(&self) -> bool {
        let waiting = format!("wait_event_type = 'Lock' AND query LIKE '%{}%'", self.mark);
        Cluster::shared().connections(&waiting) == 1
    }

    fn rings(&mut self) {
        self.holder.query("COMMIT");
    }
}

#[test]
fn sessions_go_on_where_they_were() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    let mut idle = pooler.app();
    let mut busy = pooler.app();
    let mut sleeper = pooler.app();
    idle.query("SET TimeZone = 'Asia/Tokyo'");
    idle.send(&[parse("mine", "SELECT $1 || current_setting('TimeZone')", &[25]), sync()].concat());
    idle.ready();
    busy.query("BEGIN");
    busy.query("CREATE TEMPORARY TABLE t ON COMMIT DROP AS SELECT 'kept' AS word");
    let backend = busy.value("SELECT pg_backend_pid()");
    let mut alarm = Alarm::set();
    sleeper.send(&query(&format!("SELECT {}, 'woken'", alarm.sleep)));
    eventually("it sleeps", || alarm.is_awaited());

    let before = pooler.pid();
    assert!(pooler.reboot().success(), "{}", pooler.log());

    assert_eq!(busy.value("SELECT word || pg_backend_pid() FROM t"), format!("kept{backend}"));
    busy.query("COMMIT");
    alarm.rings();
    assert_eq!(rows(&sleeper.ready())[0][1].as_deref(), Some("woken"));
    let prepared = [bind("", "mine", &[Some("in ")]), execute("", 0), sync()].concat();
    idle.send(&prepared);
    assert_eq!(rows(&idle.ready()), [[Some("in Asia/Tokyo".to_owned())]]);
    assert_eq!(sleeper.value("SHOW TimeZone"), "UTC", "nobody has another's settings");
    assert_ne!(before, pooler.pid());
    let mut newcomer = pooler.app();
    assert_eq!(newcomer.value("SELECT 'new ones come in'"), "new ones come in");
    let clients = pooler.show("SHOW CLIENTS");
    assert_eq!(clients.iter().filter(|it| it["user"] == "app").count(), 4);
}

#[test]
fn the_pid_file_and_the_sockets_are_the_new_ones() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    for _ in 0..3 {
        let mut client = pooler.app();
        client.query("SELECT 1");
        assert!(pooler.reboot().success());
        eventually("the pid file is the new one's", || {
            let path = pooler.config();
            let line = path.lines().find(|line| line.starts_with("pidfile")).unwrap();
            let file = line.split('"').nth(1).unwrap();
            std::fs::read_to_string(file).is_ok_and(|text| text.trim() == pooler.pid().to_string())
        });
        assert_eq!(client.value("SELECT 2"), "2");
    }
    pooler.signal(Signal::TERM);
    assert!(pooler.wait().success());
}

#[test]
fn one_who_waits_for_a_server_gets_it_from_the_new_process() {
    let mut pooler = start(Setup::of(Cluster::shared()).set("default_pool_size", "1"));
    let (mut holder, mut first, mut second) = (pooler.app(), pooler.app(), pooler.app());
    holder.query("BEGIN");
    first.send(&query("SELECT 'first'"));
    second.send(&[parse("", "SELECT 'second'", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
    eventually("both wait", || pooler.pool("app", "app", "cl_waiting") == 2);
    for _ in 0..5 {
        assert!(pooler.reboot().success());
        eventually("both wait again", || pooler.pool("app", "app", "cl_waiting") == 2);
    }
    holder.query("COMMIT");
    assert_eq!(rows(&first.ready()), [[Some("first".to_owned())]]);
    assert_eq!(rows(&second.ready()), [[Some("second".to_owned())]]);
}

#[test]
fn a_pipeline_whose_answers_are_still_to_come_is_answered_in_order() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    let mut client = pooler.app();
    client.send(&[parse("s", "SELECT 's' || $1", &[25]), sync()].concat());
    client.ready();
    let one = |value| [bind("", "s", &[Some(value)]), execute("", 0), sync()].concat();
    let mut alarm = Alarm::set();
    let text = format!("SELECT {}", alarm.sleep);
    let slow = [parse("", &text, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    // Parse of a statement that the server has is answered by the pooler itself, in its turn.
    let again = [parse("t", "SELECT 's' || $1", &[25]), bind("", "t", &[Some("2")]), execute("", 0), sync()];
    client.send(&[one("1"), slow, again.concat(), query("SELECT 'end'")].concat());
    eventually("it runs", || alarm.is_awaited());
    // What the pooler has taken in and not passed on yet goes along.
    assert!(pooler.reboot().success());
    alarm.rings();
    let mut answers: Vec<String> = Vec::new();
    for _ in 0..4 {
        answers.extend(rows(&client.ready()).into_iter().flatten().flatten());
    }
    assert_eq!(answers, ["s1", "", "s2", "end"]);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_cancel_with_the_old_key_hits_the_query() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    let mut client = pooler.app();
    client.query("SELECT 1");
    assert!(pooler.reboot().success());
    let mark = Cluster::shared().unique("canceled");
    client.send(&query(&format!("SELECT pg_sleep(60), '{mark}'")));
    let runs = format!("wait_event = 'PgSleep' AND query LIKE '%{mark}%'");
    eventually("it runs", || Cluster::shared().connections(&runs) == 1);
    pooler.dial().send(&cancel_request(client.pid, &client.key));
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
}

/// A process that begins to take over, as far as it is told to.
struct Usurper {
    child: Child,
    orders: ChildStdin,
    words: BufReader<std::process::ChildStdout>,
}

const USURPER: &str = r#"
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
body = struct.pack("!i", 196608) + b"user\0pgbouncer\0database\0pgbouncer\0\0"
s.sendall(struct.pack("!i", len(body) + 4) + body)
data, sockets = b"", []
def until_ready():
    global data
    while True:
        while len(data) >= 5:
            size = 1 + struct.unpack("!i", data[1:5])[0]
            if len(data) < size:
                break
            tag, data = data[:1], data[size:]
            if tag == b"Z":
                return
        more, descriptors, _, _ = socket.recv_fds(s, 65536, 16)
        sockets.extend(descriptors)
        assert more
        data += more
until_ready()
for command in sys.stdin:
    body = command.strip().encode() + b"\0"
    s.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
    until_ready()
    print(len(sockets), flush=True)
"#;

impl Usurper {
    fn of(pooler: &Pooler) -> Self {
        let directory =
            pooler.config().lines().find(|line| line.starts_with("unix_socket_dir")).map(str::to_owned);
        let directory = directory.unwrap().split('"').nth(1).unwrap().to_owned();
        let mut command = place::command("python3");
        command.arg("-c").arg(USURPER).arg(format!("{directory}/.s.PGSQL.{}", pooler.port));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, words) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, orders, words }
    }

    /// Gives a command, and says how many sockets have come so far.
    fn says(&mut self, command: &str) -> usize {
        writeln!(self.orders, "{command}").unwrap();
        let mut line = String::new();
        self.words.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("{command}: {line:?}"))
    }

    fn dies(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn where_the_new_process_dies_midway_the_old_one_goes_on() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    let (mut busy, mut idle) = (pooler.app(), pooler.app());
    idle.query("SELECT 1");
    busy.query("BEGIN");
    for commands in [&["SUSPEND"][..], &["SUSPEND", "SHOW HANDOVER"], &["SUSPEND", "SHOW FDS"]] {
        let mut usurper = Usurper::of(&pooler);
        let sockets: Vec<usize> = commands.iter().map(|it| usurper.says(it)).collect();
        if commands.len() > 1 {
            // Two that listen, two clients, two servers.
            assert_eq!(sockets[1], 6, "{commands:?}");
        }
        busy.send(&query("SELECT 'busy'"));
        assert!(busy.is_silent_for(Duration::from_millis(100)));
        let second = pooler.another(&[]).wait().unwrap();
        assert_eq!(second.code(), Some(1));
        assert!(pooler.log().contains("in use"), "a second one cannot start beside it");
        usurper.dies();
        assert_eq!(rows(&busy.ready()), [[Some("busy".to_owned())]]);
        assert_eq!(idle.value("SELECT 'idle'"), "idle");
    }
    assert!(pooler.is_running());
    assert!(pooler.reboot().success(), "and is followed by the next");
    assert_eq!(busy.value("SELECT 'still'"), "still");
}

#[test]
fn of_two_at_once_the_second_is_refused_or_follows_the_first() {
    for _ in 0..3 {
        let mut pooler = start(Setup::of(Cluster::shared()));
        let mut client = pooler.app();
        client.query("BEGIN");
        let (mut one, mut other) = (pooler.another(&["-R"]), pooler.another(&["-R"]));
        assert!(pooler.wait().success());
        let mut ended = [None; 2];
        eventually("one of them has ended, too", || {
            ended = [&mut one, &mut other].map(|it| it.try_wait().unwrap());
            ended.iter().flatten().count() == 1
        });
        let last = if ended[0].is_none() { one } else { other };
        pooler.replace(last);
        assert_eq!(client.value("SELECT 'in the same transaction'"), "in the same transaction");
        assert_eq!(client.query("COMMIT").last().unwrap().to_string(), "Z I");
    }
}

#[test]
fn nobody_resumes_what_another_process_has_been_given() {
    let pooler = start(Setup::of(Cluster::shared()));
    let (mut client, mut unwanted, mut console) = (pooler.app(), pooler.dial(), pooler.console());
    client.query("BEGIN");
    unwanted.login(&[("user", "app"), ("database", "app"), ("application_name", "unwanted")], "").unwrap();
    let listed = pooler.show("SHOW CLIENTS");
    let id = &listed.iter().find(|row| row["application_name"] == "unwanted").unwrap()["id"];
    let mut usurper = Usurper::of(&pooler);
    usurper.says("SUSPEND");
    usurper.says("SHOW HANDOVER");
    assert_eq!(error(&console.query("RESUME")).text(), "pooler is not paused/suspended");
    assert_eq!(error(&console.query("SHOW HANDOVER")).text(), "admin access needed");
    pooler.signal(Signal::USR2);
    client.send(&query("SELECT 'heard'"));
    console.query(&format!("KILL_CLIENT {id}"));
    assert!(client.is_silent_for(Duration::from_millis(200)));
    assert!(unwanted.is_silent_for(Duration::from_millis(1)), "the other process may be talking to it");
    usurper.dies();
    assert_eq!(rows(&client.ready()), [[Some("heard".to_owned())]]);
    assert_eq!(error(&unwanted.rest()).text(), "admin forced disconnect");
}

#[test]
fn show_fds_lists_sockets_without_giving_them_away() {
    let pooler = start(Setup::of(Cluster::shared()));
    let (mut busy, mut idle) = (pooler.app(), pooler.app());
    idle.query("SELECT 1");
    busy.query("BEGIN");
    let listed = pooler.show("SHOW FDS");
    let of = |task: &str| listed.iter().filter(|row| row["task"] == task).collect::<Vec<_>>();
    assert_eq!((of("pooler").len(), of("client").len(), of("server").len()), (2, 2, 1));
    let linked = of("client").into_iter().find(|row| row["link"] != "0").unwrap();
    assert_eq!(of("server")[0]["fd"], linked["link"]);
    assert_eq!(of("server")[0]["link"], linked["fd"]);
    let key = u64::from(busy.pid) << 32 | busy.key.iter().fold(0, |key, byte| key << 8 | u64::from(*byte));
    assert_eq!((linked["user"].as_str(), linked["cancel"].as_str()), ("app", key.to_string().as_str()));
    assert_eq!(linked["timezone"], "UTC");
    assert_eq!(busy.query("COMMIT").last().unwrap().to_string(), "Z I");
}

#[test]
fn whom_nobody_can_take_over_is_told_so() {
    let certificates = Certificates::get();
    let mut pooler = start(
        Setup::of(Cluster::shared())
            .file("server.crt", &certificates.server.certificate)
            .file("server.key", &certificates.server.key)
            .set("client_tls_sslmode", "\"allow\"")
            .set("client_tls_cert_file", "\"server.crt\"")
            .set("client_tls_key_file", "\"server.key\""),
    );
    let mut plain = pooler.app();
    let mut client = pooler.dial();
    client.send(&ssl_request());
    assert_eq!(client.byte(), Some(b'S'));
    let mut client = client.into_tls(client_config(None), "localhost").unwrap();
    client.login(&[("user", "app"), ("database", "app")], "").unwrap();
    client.query("SELECT 1");
    plain.query("BEGIN");
    assert!(pooler.reboot().success());
    assert_eq!(error(&client.rest()).sqlstate(), "57P01");
    assert_eq!(plain.value("SELECT 'goes on'"), "goes on");
}

#[test]
fn large_answers_and_copies_under_way_survive() {
    let mut pooler = start(Setup::of(Cluster::shared()).set("pool_mode", "\"session\""));
    let (mut reader, mut writer) = (pooler.app(), pooler.app());
    writer.query("CREATE TEMPORARY TABLE w (n int)");
    for round in 0..3 {
        reader.send(&query("SELECT repeat('x', 300) FROM generate_series(1, 20000)"));
        writer.send(&query("COPY w FROM STDIN"));
        assert_eq!(writer.until(b'G').last().unwrap().tag, b'G');
        writer.send(&copy_data(b"1\n2\n"));
        let rows_read = std::thread::spawn(move || (rows(&reader.ready()).len(), reader));
        assert!(pooler.reboot().success(), "round {round}");
        let (count, back) = rows_read.join().unwrap();
        reader = back;
        assert_eq!(count, 20_000);
        writer.send(&[copy_data(b"3\n"), copy_done()].concat());
        assert!(tags(&writer.ready()).ends_with("CZ"));
    }
    assert_eq!(writer.value("SELECT count(*) FROM w"), "9");
}

#[test]
fn keys_shown_at_a_login_still_open_servers() {
    let cluster = Cluster::shared();
    let verifier = cluster.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_user'");
    let mut pooler = start(
        Setup::of(cluster)
            .set("auth_type", "\"scram-sha-256\"")
            .set("server_lifetime", "\"100ms\"")
            .without_user("scram_user")
            .user("scram_user", &format!("password = {verifier:?}")),
    );
    let mut client = pooler.dial();
    client.login(&[("user", "scram_user"), ("database", "app")], "scram-secret").unwrap();
    client.query("SELECT 1");
    for _ in 0..2 {
        let before = client.value("SELECT pg_backend_pid()");
        assert!(pooler.reboot().success());
        eventually("another server was opened", || client.value("SELECT pg_backend_pid()") != before);
    }
}

/// Tells others that it is over, also by a failure: they would go on for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nobody_who_logs_in_at_that_moment_is_cut_off() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    let (address, over) = (pooler.address(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let ends = Ends(&over);
        let clients = (0..8).map(|_| {
            scope.spawn(|| {
                let mut logins = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    let mut client = Raw::dial(address);
                    client.login(&[("user", "app"), ("database", "app")], "").map_err(|_| logins)?;
                    client.query("SELECT 1");
                    client.goodbye();
                    logins += 1;
                }
                Ok(logins)
            })
        });
        let clients: Vec<_> = clients.collect();
        for _ in 0..20 {
            assert!(pooler.reboot().success(), "{}", pooler.log());
        }
        drop(ends);
        for client in clients {
            let logins: Result<u32, u32> = client.join().unwrap();
            assert!(logins.is_ok_and(|it| it > 0), "after so many logins: {logins:?}");
        }
    });
}

#[test]
fn who_has_just_been_taken_over_is_taken_over_again() {
    let mut pooler = start(Setup::of(Cluster::shared()));
    let mut clients: Vec<Raw> = (0..100).map(|_| pooler.app()).collect();
    for _ in 0..10 {
        assert!(pooler.reboot().success(), "{}", pooler.log());
    }
    for client in &mut clients {
        assert_eq!(client.value("SELECT 'still here'"), "still here");
    }
}

#[test]
fn another_user_on_the_socket_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (directory, port) = (place::directory("stranger"), place::free_port());
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let _stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let quoted = format!("{:?}", directory.display().to_string());
    let setup = Setup::of(Cluster::shared()).set("unix_socket_dir", &quoted);
    let setup = setup.set("listen_port", &port.to_string());
    let mut pooler = setup.within(&["/bin/sh", "-c", "exec \"$@\" -R", "sh"]).launch();
    assert!(!pooler.wait().success());
    assert!(pooler.log().contains("is run by another user (0)"), "{}", pooler.log());
}

#[test]
fn without_an_old_process_it_starts_as_ever() {
    let directory = place::directory("alone");
    let quoted = format!("{:?}", directory.display().to_string());
    let setup = Setup::of(Cluster::shared()).set("unix_socket_dir", &quoted);
    let pooler = setup.within(&["/bin/sh", "-c", "exec \"$@\" -R", "sh"]).start();
    assert_eq!(pooler.app().value("SELECT 1"), "1");
    assert!(pooler.log().contains("old process not found, try to continue normally"));
}
