//! SHOW beside PgBouncer's: the same file, the same clients, the same rows.

use std::path::Path;

use crate::support::pgbouncer;
use crate::support::place::{self, Guarded};
use crate::support::prelude::*;

/// One of the two, started with the same configuration.
struct Side {
    address: (&'static str, u16),
    guarded: Guarded,
}

impl Side {
    fn start(program: &Path) -> Self {
        let (directory, port) = (place::directory("shows"), place::free_port());
        let ini = format!(
            "[databases]\napp = host=127.0.0.1 port={pg} pool_size=7\n\
             both = host=127.0.0.1,localhost port={pg} dbname=app user=app pool_mode=session max_db_connections=9\n\
             named = host=localhost port={pg} dbname=app\n\
             [users]\napp = max_user_connections=50\n\
             [peers]\n2 = host=/nowhere\n3 = host=127.0.0.1 port=1 pool_size=3\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {directory}\n\
             auth_type = trust\nauth_file = {directory}/users\nadmin_users = admin\npool_mode = transaction\n\
             peer_id = 1\nserver_check_delay = 0.1\nserver_tls_sslmode = disable\n",
            pg = Cluster::shared().port,
            directory = directory.display(),
        );
        place::write(&directory.join("shows.ini"), &ini);
        place::write(&directory.join("users"), "\"app\" \"app-secret\"\n\"admin\" \"admin-secret\"\n");
        let ini = directory.join("shows.ini").display().to_string();
        let guarded = Guarded::start(&directory, program, &["-q", &ini]);
        let address = ("127.0.0.1", port);
        eventually("it listens", || std::net::TcpStream::connect(address).is_ok());
        Self { address, guarded }
    }

    fn client(&self, database: &str, user: &str, name: &str) -> Raw {
        let mut client = Raw::dial(self.address);
        let parameters = [("user", user), ("database", database), ("application_name", name)];
        client.login(&parameters, "").expect("all are trusted");
        client
    }
}

/// What a SHOW says: the columns with their types, and the rows of those that do not differ from moment to moment.
#[derive(Debug, PartialEq)]
struct Shown {
    columns: Vec<(String, u32)>,
    rows: Vec<Vec<String>>,
}

/// Times, numbers of sockets and addresses in memory.
const PASSING: &[&str] = &[
    "connect_time",
    "request_time",
    "wait",
    "wait_us",
    "ptr",
    "link",
    "id",
    "maxwait",
    "maxwait_us",
    "remote_pid",
    "local_port",
    "ttl",
    "recv_pos",
    "pkt_pos",
    "pkt_remain",
    "send_pos",
    "pkt_avail",
];

fn show(console: &mut Raw, own_port: u16, what: &str) -> Shown {
    let answer = console.query(&format!("SHOW {what}"));
    let description =
        answer.iter().find(|it| it.tag == b'T').unwrap_or_else(|| panic!("SHOW {what}: {answer:?}"));
    let (names, types) = (description.names(), description.types());
    let is_client = |row: &[Option<String>]| row.first().is_some_and(|it| it.as_deref() == Some("C"));
    let mut rows: Vec<Vec<String>> = rows(&answer)
        .iter()
        .map(|row| {
            let cells = names.iter().zip(row).filter(|(name, _)| !PASSING.contains(&name.as_str()));
            let cells = cells.filter(|(name, _)| !(*name == "port" && is_client(row)));
            let text = |cell: &Option<String>| match cell.as_deref() {
                Some(port) if port == own_port.to_string() => "its own port".to_owned(),
                text => format!("{text:?}"),
            };
            cells.map(|(_, cell)| text(cell)).collect()
        })
        .collect();
    rows.sort();
    Shown { columns: names.into_iter().zip(types).collect(), rows }
}

#[test]
fn each_show_has_pgbouncers_columns_types_and_rows() {
    let theirs = match pgbouncer::installed(25..26) {
        Ok(program) => program,
        Err(why) => return println!("skipped: {why}"),
    };
    let sides = [Side::start(&theirs), Side::start(place::pgweir_program())];
    let mut clients = Vec::new();
    let mut consoles = Vec::new();
    for side in &sides {
        let mut in_transaction = side.client("app", "app", "trans");
        in_transaction.query("BEGIN");
        let mut idle = side.client("app", "app", "idle");
        idle.query("SELECT 1");
        let mut session = side.client("both", "app", "session");
        session.query("SELECT 1");
        let mut named = side.client("named", "app", "named");
        named.query("SELECT 1");
        clients.extend([in_transaction, idle, session, named]);
        consoles.push(side.client("pgbouncer", "admin", "console"));
    }
    for console in &mut consoles {
        eventually("servers are to be checked", || {
            console.rows("SHOW POOLS").iter().filter(|row| row[10].as_deref() == Some("1")).count() == 2
        });
    }
    let [first, second] = &mut consoles[..] else { panic!("there are two") };
    let mut compare = |what: &str, with_rows: fn(&mut Vec<Vec<String>>)| {
        let mut expected = show(first, sides[0].address.1, what);
        let mut found = show(second, sides[1].address.1, what);
        with_rows(&mut expected.rows);
        with_rows(&mut found.rows);
        assert_eq!(found, expected, "SHOW {what}");
    };
    for what in
        ["CLIENTS", "SERVERS", "SOCKETS", "POOLS", "DATABASES", "STATE", "PEERS", "PEER_POOLS", "DNS_ZONES"]
    {
        compare(what, |_| {});
    }
    // Its sizes of a user run over into the next ones' rows.
    compare("USERS", |rows| rows.iter_mut().for_each(|row| drop(row.drain(1..3))));
    // What it keeps of what is closed, and a count of queries that goes below zero.
    compare("LISTS", |rows| rows.retain(|row| !row[0].contains("free_") && !row[0].contains("dns_queries")));
    // Which of localhost's addresses come is the resolver's choice.
    compare("DNS_HOSTS", |rows| rows.iter_mut().for_each(|row| row.truncate(1)));
    for what in [
        "ACTIVE_SOCKETS",
        "STATS",
        "STATS_TOTALS",
        "STATS_AVERAGES",
        "TOTALS",
        "MEM",
        "FDS",
        "CONFIG",
        "VERSION",
    ] {
        compare(what, Vec::clear);
    }
    drop(clients);
    for side in sides {
        side.guarded.remove();
    }
}
