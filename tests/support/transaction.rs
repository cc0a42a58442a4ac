//! A relay over pipes in memory, with no socket anywhere: what the benches and the tests of cost measure.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use pgweir::config::{Compatibility, PoolMode};
use pgweir::prepared::Registry;
use pgweir::session::Relay;
use pgweir::session::params::{Parameters, Values};
use pgweir::session::pipe::{Pipe, SLICES_MAX, Spare};
use pgweir::session::relay::{Rules, Turn};
use pgweir::session::server::Server;
use pgweir::stats::Cell;
use pgweir::wire::encode;

const RULES: Rules = Rules {
    mode: PoolMode::Transaction,
    prepared_max: 200,
    simple_queries: true,
    reset_query_always: false,
    compatibility: Compatibility::Postgres,
};

/// One client's relay, with everything around it but sockets.
pub struct Bench {
    relay: Relay,
    spare: Spare,
    registry: Registry,
    stats: Cell,
    server: Option<Box<Server>>,
    now: Instant,
}

impl Bench {
    /// A relay and a server that agree.
    pub fn new() -> Self {
        let names = [("TimeZone", "UTC"), ("client_encoding", "UTF8"), ("application_name", "")];
        let values: Arc<Values> = Arc::new(names.into_iter().collect());
        let now = Instant::now();
        let parameters = Parameters { reported: Arc::clone(&values), extra: Arc::default() };
        Self {
            relay: Relay::new(RULES, parameters, now),
            spare: Spare::default(),
            registry: Registry::default(),
            stats: Cell::default(),
            server: Some(Box::new(Server::new(values))),
            now,
        }
    }

    fn tell<T>(&mut self, event: impl FnOnce(&mut Relay, &mut Turn<'_>) -> T) -> T {
        let mut turn =
            Turn { now: self.now, spare: &mut self.spare, registry: &self.registry, stats: &self.stats };
        event(&mut self.relay, &mut turn)
    }

    /// A whole transaction: what the client sends, the grant, what the server answers, and the release.
    pub fn transaction(&mut self, sent: &[u8], answer: &[u8]) {
        self.tell(|relay, turn| {
            relay.from_client().fill_from(sent, turn.spare);
            relay.on_client_bytes(turn);
        });
        let server = self.server.take().expect("the server is back");
        self.tell(|relay, turn| relay.on_granted(server, RULES, turn));
        while self.relay.to_server().ready() > 0 {
            let count = write(self.relay.to_server());
            self.tell(|relay, turn| relay.on_sent_to_server(count, turn));
        }
        let mut rest = answer;
        while !rest.is_empty() {
            let taken = self.tell(|relay, turn| {
                let taken = relay.from_server().fill_from(rest, turn.spare);
                relay.on_server_bytes(turn);
                taken
            });
            rest = &rest[taken..];
            while self.relay.to_client().ready() > 0 {
                let count = write(self.relay.to_client());
                self.tell(|relay, turn| relay.on_sent_to_client(count, turn));
            }
        }
        let (server, _) = self.relay.take_released().expect("the transaction is over");
        self.server = Some(server);
    }
}

/// What one vectored write would take.
fn write(pipe: &Pipe) -> usize {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let used = pipe.slices(&mut slices);
    black_box(&slices[..used]).iter().map(|it| it.len()).sum()
}

/// These messages, encoded.
pub fn messages(list: &[Message<'_>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (tag, body) in list {
        encode::message(&mut out, *tag, |out| out.extend_from_slice(body));
    }
    out.to_vec()
}

/// A message: its tag and its body.
pub type Message<'a> = (u8, &'a [u8]);

pub const ROW: Message<'static> = (b'D', b"\0\x01\0\0\0\x045000");
pub const COMPLETE: Message<'static> = (b'C', b"SELECT 1\0");
pub const IDLE: Message<'static> = (b'Z', b"I");
pub const SYNC: Message<'static> = (b'S', b"");
pub const EXECUTE: Message<'static> = (b'E', b"\0\0\0\0\0");

const COLUMNS: Message<'static> =
    (b'T', b"\0\x01abalance\0\0\0\x40\x01\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");

/// One of pgbench's select-only transactions, in one of its three protocols.
pub struct Scenario {
    pub name: &'static str,
    /// What is sent and answered once, before all else.
    before: Option<(Vec<u8>, Vec<u8>)>,
    sent: Vec<u8>,
    answer: Vec<u8>,
}

impl Scenario {
    /// A client that is about to run it.
    pub fn client(&self) -> Bench {
        let mut bench = Bench::new();
        if let Some((sent, answer)) = &self.before {
            bench.transaction(sent, answer);
        }
        bench
    }

    /// Runs it once.
    pub fn run(&self, client: &mut Bench) {
        client.transaction(&self.sent, &self.answer);
    }
}

/// All three.
pub fn scenarios() -> [Scenario; 3] {
    let select = b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;\0";
    let unnamed = b"\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0";
    let named = b"s\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0";
    let bind = b"\0\0\0\0\0\x01\0\0\0\x044711\0\0";
    let bind_named = b"\0s\0\0\0\0\x01\0\0\0\x044711\0\0";
    let describe: Message<'_> = (b'D', b"P\0");
    [
        Scenario {
            name: "simple",
            before: None,
            sent: messages(&[(b'Q', select)]),
            answer: messages(&[COLUMNS, ROW, COMPLETE, IDLE]),
        },
        Scenario {
            name: "extended",
            before: None,
            sent: messages(&[(b'P', unnamed), (b'B', bind), describe, EXECUTE, SYNC]),
            answer: messages(&[(b'1', b""), (b'2', b""), COLUMNS, ROW, COMPLETE, IDLE]),
        },
        Scenario {
            name: "prepared",
            before: Some((messages(&[(b'P', named), SYNC]), messages(&[(b'1', b""), IDLE]))),
            sent: messages(&[(b'B', bind_named), describe, EXECUTE, SYNC]),
            answer: messages(&[(b'2', b""), COLUMNS, ROW, COMPLETE, IDLE]),
        },
    ]
}
