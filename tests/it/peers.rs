//! Several processes behind one port: a cancel request finds its client in whichever process it is.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::support::pgbouncer;
use crate::support::place::{self, Guarded};
use crate::support::prelude::*;

/// A group of processes on one port, numbered from 1. Each also has a unix socket of its own.
struct Group {
    members: Vec<Pooler>,
}

impl Group {
    /// `change` is told a member's number.
    fn of(count: u16, change: impl Fn(u16, Setup) -> Setup) -> Self {
        let port = place::free_port();
        let directories: Vec<PathBuf> = (0..count).map(|_| place::directory("peer")).collect();
        let member = |(number, own): (u16, &PathBuf)| {
            let mut setup = Setup::of(Cluster::shared())
                .set("listen_port", &port.to_string())
                .set("so_reuseport", "true")
                .set("peer_id", &number.to_string())
                .set("unix_socket_dir", &format!("{own:?}"));
            for (peer, directory) in (1..).zip(&directories) {
                setup = setup.peer(peer, &format!("host = {directory:?}\nport = {port}"));
            }
            change(number, setup).launch()
        };
        let group = Self { members: (1..).zip(&directories).map(member).collect() };
        for (number, directory) in (1..).zip(&directories) {
            let socket = directory.join(format!(".s.PGSQL.{port}"));
            eventually("all listen", || UnixStream::connect(&socket).is_ok());
            // Whoever is served listens on the port, too.
            group.show(number, "SHOW VERSION");
        }
        group
    }

    fn member(&self, number: usize) -> &Pooler {
        &self.members[number - 1]
    }

    fn dial(&self, number: usize) -> Raw {
        let pooler = self.member(number);
        let directory = pooler.config();
        let directory = directory.lines().find_map(|line| line.strip_prefix("unix_socket_dir = "));
        let directory = directory.expect("it is set").trim_matches('"');
        Raw::dial_unix(directory.as_ref(), pooler.port)
    }

    /// A session in that very process.
    fn app(&self, number: usize) -> Raw {
        let mut client = self.dial(number);
        client.login(&[("user", "app"), ("database", "app")], "").expect("a trusted user gets in");
        client
    }

    fn show(&self, number: usize, what: &str) -> Vec<Vec<Option<String>>> {
        let mut console = self.dial(number);
        console.login(&[("user", "admin"), ("database", "pgbouncer")], "").expect("an admin gets in");
        console.rows(what)
    }
}

/// Starts a query that does not end by itself, and waits until PostgreSQL runs it.
fn sleep(client: &mut Raw) {
    let mark = Cluster::shared().unique("peer");
    client.send(&query(&format!("SELECT pg_sleep(600) AS {mark}")));
    let running = format!("state = 'active' AND query LIKE '%pg_sleep(600) AS {mark}'");
    eventually("the query runs", || Cluster::shared().connections(&running) == 1);
}

/// Sends a request and waits until its connection is closed.
fn cancel(mut through: Raw, pid: u32, key: &[u8]) {
    through.send(&cancel_request(pid, key));
    assert_eq!(through.byte(), None);
}

fn texts(rows: Vec<Vec<Option<String>>>) -> Vec<Vec<String>> {
    rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect()
}

#[test]
fn a_cancel_request_is_passed_on_to_the_process_that_knows_the_client() {
    let group = Group::of(3, |_, setup| setup);
    for number in 1..=3 {
        let mut client = group.app(number);
        assert_eq!(client.pid.to_be_bytes()[1..3], [u8::try_from(number).unwrap(), 0]);
        assert_eq!(client.key[3] & 3, 3, "all hops are left");
        for through in 1..=3 {
            sleep(&mut client);
            cancel(group.dial(through), client.pid, &client.key);
            assert_eq!(error(&client.ready()).sqlstate(), "57014");
            assert_eq!(client.value("SELECT 'alive'"), "alive");
        }
    }
    assert_eq!(
        texts(group.show(1, "SHOW PEER_POOLS")),
        [["2", "0", "0", "0", "0"], ["3", "0", "0", "0", "0"]]
    );
    let peers = texts(group.show(2, "SHOW PEERS"));
    assert_eq!(peers.iter().map(|peer| peer[0].as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert!(
        peers.iter().all(|peer| peer[2] == group.member(1).port.to_string() && peer[3] == "20"),
        "{peers:?}"
    );
}

#[test]
fn behind_one_port_every_cancel_arrives() {
    let group = Group::of(2, |_, setup| setup);
    let mut client = group.member(1).app();
    for _ in 0..8 {
        sleep(&mut client);
        cancel(group.member(2).dial(), client.pid, &client.key);
        assert_eq!(error(&client.ready()).sqlstate(), "57014");
    }
}

#[test]
fn protocol_3_2_has_short_keys_among_peers_for_a_pgbouncer_passes_on_no_others() {
    let group = Group::of(2, |_, setup| setup);
    let mut client = group.dial(1);
    client.send(&startup(PROTOCOL_3_2, &[("user", "app"), ("database", "app")]));
    client.ready();
    assert_eq!(client.key.len(), 4);
    sleep(&mut client);
    cancel(group.dial(2), client.pid, &client.key);
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
}

#[test]
fn a_request_is_passed_on_three_times_at_most() {
    // Each takes the other for process 9: the request goes to and fro.
    let group = Group::of(2, |number, setup| {
        let other = format!("host = \"127.0.0.1\"\nport = {}", place::free_port());
        if number == 1 { setup } else { setup.peer(7, &other) }
    });
    let client = group.app(1);
    let nobodys = u32::from_be_bytes([1, 9, 0, 1]);
    cancel(group.dial(1), nobodys, &[0, 0, 0, 3]);
    assert!(group.member(1).log().contains("could not find peer to forward request to"));
    cancel(group.dial(2), client.pid, &[1, 2, 3, 4 << 2]);
    assert!(group.member(2).log().contains("failed to forward cancel request because its TTL was exhausted"));
    // A peer that does not answer: the request is given up.
    cancel(group.dial(2), u32::from_be_bytes([1, 7, 0, 1]), &[0, 0, 0, 3]);
    assert!(group.member(2).log().contains("cannot pass a cancel request on to peer 7"));
}

#[test]
fn requests_to_a_peer_queue_where_it_has_no_place_and_show_where_they_are() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let group = Group::of(1, |_, setup| {
        setup.peer(5, &format!("host = \"127.0.0.1\"\nport = {port}\npool_size = 1"))
    });
    let request = || {
        let mut through = group.dial(1);
        through.send(&cancel_request(u32::from_be_bytes([1, 5, 0, 1]), &[0, 0, 0, 3]));
        through
    };
    let mut requests = [request(), request()];
    eventually("one is on its way, one waits", || {
        texts(group.show(1, "SHOW PEER_POOLS")) == [["5", "1", "1", "1", "0"]]
    });
    let clients = texts(group.show(1, "SHOW CLIENTS"));
    let mut requesting: Vec<_> = clients.iter().filter(|row| row[4].ends_with("_cancel_req")).collect();
    requesting.sort_by_key(|row| row[4].clone());
    let what: Vec<_> = requesting.iter().map(|row| [&row[1], &row[2], &row[4]]).collect();
    assert_eq!(
        what,
        [["(nouser)", "(nodb)", "active_cancel_req"], ["(nouser)", "(nodb)", "waiting_cancel_req"]]
    );
    let servers = texts(group.show(1, "SHOW SERVERS"));
    let carrier = servers.iter().find(|row| row[4] == "active_cancel").expect("a connection carries it");
    assert_eq!(
        (carrier[6].as_str(), &carrier[14], &carrier[15]),
        (&*port.to_string(), &requesting[0][15], &requesting[0][14])
    );
    let lists = texts(group.show(1, "SHOW LISTS"));
    assert!(lists.contains(&vec!["peers".to_owned(), "2".to_owned()]), "{lists:?}");
    assert!(lists.contains(&vec!["peer_pools".to_owned(), "1".to_owned()]), "{lists:?}");

    // The peer leaves the configuration, and those on their way to it are given up.
    let text = group.member(1).config();
    let without = text.split("\n[peers.\"5\"]").next().unwrap().to_owned();
    group.members[0].rewrite(&without);
    group.members[0].signal(Signal::HUP);
    assert!(requests.iter_mut().all(|request| request.byte().is_none()));
    assert!(group.member(1).log().contains("dropping peer 5 as it does not exist anymore"));
    assert!(group.show(1, "SHOW PEER_POOLS").is_empty());
}

#[test]
fn an_id_and_peers_may_come_with_a_reload() {
    let mut group = Group::of(2, |_, setup| setup.set("peer_id", "0"));
    let mut client = group.app(1);
    sleep(&mut client);
    for number in [1, 2] {
        group.members[number - 1].reload(|setup| setup.set("peer_id", &number.to_string()));
        let set = || {
            texts(group.show(number, "SHOW CONFIG"))
                .iter()
                .any(|row| row[..2] == ["peer_id".to_owned(), number.to_string()])
        };
        eventually("it is in force", set);
    }
    // A key from before is still good where its client is.
    cancel(group.dial(1), client.pid, &client.key);
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
    let mut client = group.app(1);
    sleep(&mut client);
    cancel(group.dial(2), client.pid, &client.key);
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
}

#[test]
fn pgweir_and_pgbouncer_are_each_others_peers() {
    // Peers came with 1.19.
    let program = match pgbouncer::installed(19..) {
        Ok(program) => program,
        Err(why) => return println!("skipped: {why}"),
    };
    let (directory, theirs) = (place::directory("pgbouncer"), place::free_port());
    let group = Group::of(1, |_, setup| setup.peer(2, &format!("host = {directory:?}\nport = {theirs}")));
    let (ours, cluster) = (group.member(1), Cluster::shared().port);
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={cluster}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {theirs}\n\
         unix_socket_dir = {}\nauth_type = trust\nauth_file = {}\npool_mode = transaction\npeer_id = 2\n\
         [peers]\n1 = host=127.0.0.1 port={}\n",
        directory.display(),
        directory.join("users").display(),
        ours.port,
    );
    place::write(&directory.join("pgbouncer.ini"), &ini);
    place::write(&directory.join("users"), "\"app\" \"app-secret\"\n");
    let guarded =
        Guarded::start(&directory, &program, &["-q", &directory.join("pgbouncer.ini").display().to_string()]);
    let address = ("127.0.0.1", theirs);
    eventually("PgBouncer listens", || std::net::TcpStream::connect(address).is_ok());

    let mut through_pgweir = group.app(1);
    sleep(&mut through_pgweir);
    cancel(Raw::dial(address), through_pgweir.pid, &through_pgweir.key);
    assert_eq!(error(&through_pgweir.ready()).sqlstate(), "57014");
    let mut through_pgbouncer = Raw::connect(address, "app", "app");
    sleep(&mut through_pgbouncer);
    cancel(group.dial(1), through_pgbouncer.pid, &through_pgbouncer.key);
    assert_eq!(error(&through_pgbouncer.ready()).sqlstate(), "57014");
    guarded.remove();
}
