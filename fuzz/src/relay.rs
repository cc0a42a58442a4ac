//! A relay between a client and a server that both send anything at all, cut anywhere.
//!
//! The bytes are a script: each step is one byte that says what happens and one that says how much.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use pgweir::config::{Compatibility, PoolMode};
use pgweir::prepared::Registry;
use pgweir::session::Relay;
use pgweir::session::params::{Parameters, Values};
use pgweir::session::pipe::{Pipe, SLICES_MAX, Spare};
use pgweir::session::relay::{Rules, Turn};
use pgweir::session::server::Server;
use pgweir::session::verdict::{CloseReason, Verdict};
use pgweir::stats::Cell;
use pgweir::wire::frame::Header;
use pgweir::wire::{Report, SqlState};

/// A pipe never holds more than this that is ready to be sent.
const READY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a client may get.
const TAGS: &[u8] = b"DdNAZCESGHWTn123sItVc";

const FROM_CLIENT: [&[u8]; 24] = [
    b"Q\0\0\0\x0dselect 1\0",
    b"Q\0\0\0\x0abegin\0",
    b"Q\0\0\0\x15set work_mem = 1\0",
    b"Q\0\0\0\x13deallocate all\0",
    b"Q\0\0\0\x11deallocate s\0",
    b"P\0\0\0\x08\0\0\0\0",
    b"P\0\0\0\x10s\0select\0\0\0",
    b"P\0\0\0\x10t\0select\0\0\0",
    b"B\0\0\0\x0c\0\0\0\0\0\0\0\0",
    b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0",
    b"B\0\0\0\x0d\0t\0\0\0\0\0\0\0",
    b"D\0\0\0\x07Ss\0",
    b"D\0\0\0\x06P\0",
    b"D\0\0\0\x06S\0",
    b"C\0\0\0\x07Ss\0",
    b"C\0\0\0\x06S\0",
    b"E\0\0\0\x09\0\0\0\0\0",
    b"S\0\0\0\x04",
    b"H\0\0\0\x04",
    b"d\0\0\0\x07abc",
    b"c\0\0\0\x04",
    b"f\0\0\0\x05\0",
    b"F\0\0\0\x06\0\0",
    b"X\0\0\0\x04",
];

const FROM_SERVER: [&[u8]; 24] = [
    b"Z\0\0\0\x05I",
    b"Z\0\0\0\x05T",
    b"Z\0\0\0\x05E",
    b"1\0\0\0\x04",
    b"2\0\0\0\x04",
    b"3\0\0\0\x04",
    b"n\0\0\0\x04",
    b"I\0\0\0\x04",
    b"s\0\0\0\x04",
    b"t\0\0\0\x06\0\0",
    b"T\0\0\0\x06\0\0",
    b"D\0\0\0\x06\0\0",
    b"C\0\0\0\x0dSELECT 1\0",
    b"C\0\0\0\x08SET\0",
    b"C\0\0\0\x13DEALLOCATE ALL\0",
    b"E\0\0\0\x18SERROR\0C42601\0Mno\0\0",
    b"E\0\0\0\x3eSERROR\0C0A000\0Mcached plan must not\0RRevalidateCachedQuery\0\0",
    b"N\0\0\0\x05\0",
    b"A\0\0\0\x0a\0\0\0\x01\0\0",
    b"S\0\0\0\x11TimeZone\0CET\0",
    b"G\0\0\0\x07\0\0\0",
    b"H\0\0\0\x07\0\0\0",
    b"c\0\0\0\x04",
    b"V\0\0\0\x08\0\0\0\0",
];

struct Bench {
    relay: Relay,
    rules: Rules,
    spare: Spare,
    registry: Registry,
    stats: Cell,
    values: Arc<Values>,
    /// What the client got and is not looked at yet.
    got: Vec<u8>,
}

pub fn relay(data: &[u8]) {
    let Some((first, mut script)) = data.split_first() else { return };
    let mode = [PoolMode::Transaction, PoolMode::Statement, PoolMode::Session][usize::from(first % 3)];
    let compatibility = if first & 16 == 0 { Compatibility::Postgres } else { Compatibility::PgBouncer };
    let prepared_max = u32::from(first / 64);
    let rules = Rules {
        mode,
        prepared_max,
        simple_queries: first & 4 == 0,
        compatibility,
        reset_query_always: false,
    };
    let values: Arc<Values> = Arc::new([("TimeZone", "UTC"), ("application_name", "")].into_iter().collect());
    let wanted = if first & 8 == 0 { None } else { Some(("application_name", "me")) };
    let parameters = Parameters::of_client(&values, wanted);
    let mut bench = Bench {
        relay: Relay::new(rules, parameters, Instant::now()),
        rules,
        spare: Spare::default(),
        registry: Registry::default(),
        stats: Cell::default(),
        values,
        got: Vec::new(),
    };
    while let Some((step, rest)) = script.split_first() {
        script = bench.step(*step, rest);
        bench.check();
    }
    bench.end();
}

impl Bench {
    fn tell<T>(&mut self, event: impl FnOnce(&mut Relay, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now: Instant::now(),
            spare: &mut self.spare,
            registry: &self.registry,
            stats: &self.stats,
        };
        event(&mut self.relay, &mut turn)
    }

    /// Takes one step; returns the rest of the script.
    fn step<'a>(&mut self, step: u8, rest: &'a [u8]) -> &'a [u8] {
        let (amount, rest) = rest.split_first().map_or((0, rest), |(amount, rest)| (*amount, rest));
        let index = usize::from(amount);
        match step % 16 {
            0 => {
                let (bytes, rest) = rest.split_at(index.min(rest.len()));
                self.client(bytes);
                return rest;
            }
            1 => {
                let (bytes, rest) = rest.split_at(index.min(rest.len()));
                self.server(bytes);
                return rest;
            }
            2..=4 => self.client(FROM_CLIENT[index % FROM_CLIENT.len()]),
            5..=7 => self.server(FROM_SERVER[index % FROM_SERVER.len()]),
            8 => self.send_to_server(index + 1),
            9 => self.send_to_client(index + 1),
            10 | 11 => self.grant(),
            12 if amount < 16 => self.tell(|relay, turn| relay.on_server_gone(turn)),
            12 if amount < 32 => self.tell(|relay, turn| relay.on_client_gone(turn)),
            13 if amount < 8 => self.tell(|relay, _| relay.abandon()),
            13 if amount < 64 => {
                let report = Report::error(SqlState::QUERY_CANCELED, "too late");
                self.tell(|relay, turn| relay.refuse(&report, turn));
            }
            14 if amount < 64 => {
                let notice = Report::notice("wait");
                self.tell(|relay, turn| relay.notify(&notice, turn));
            }
            15 if amount < 8 => {
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, "go");
                self.tell(|relay, turn| relay.end(report, CloseReason::Timeout, turn));
            }
            _ => {
                self.send_to_server(usize::MAX);
                self.grant();
            }
        }
        rest
    }

    fn client(&mut self, bytes: &[u8]) {
        if self.relay.closing().is_some() {
            return;
        }
        self.tell(|relay, turn| {
            relay.from_client().fill_from(bytes, turn.spare);
            relay.on_client_bytes(turn);
        });
    }

    fn server(&mut self, bytes: &[u8]) {
        if !self.relay.has_server() {
            return;
        }
        self.tell(|relay, turn| {
            relay.from_server().fill_from(bytes, turn.spare);
            relay.on_server_bytes(turn);
        });
    }

    fn grant(&mut self) {
        if self.relay.wants_server() {
            let server = Box::new(Server::new(Arc::clone(&self.values)));
            let rules = self.rules;
            self.tell(|relay, turn| relay.on_granted(server, rules, turn));
        }
    }

    fn send_to_server(&mut self, most: usize) {
        if self.relay.has_server() {
            let count = front(self.relay.to_server(), most).len();
            self.tell(|relay, turn| relay.on_sent_to_server(count, turn));
        }
    }

    fn send_to_client(&mut self, most: usize) {
        let bytes = front(self.relay.to_client(), most);
        self.tell(|relay, turn| relay.on_sent_to_client(bytes.len(), turn));
        self.got.extend_from_slice(&bytes);
        while let Some(header) = Header::peek(&self.got).expect("the client gets messages") {
            assert!(TAGS.contains(&header.tag), "{} is no message for a client", header.tag as char);
            if self.got.len() < header.total() {
                break;
            }
            self.got.drain(..header.total());
        }
    }

    fn check(&mut self) {
        let (up, down) = (self.relay.to_server(), self.relay.to_client());
        assert!(up.ready().max(down.ready()) <= READY_BYTES_MAX, "{} and {}", up.ready(), down.ready());
        if let Some((_, verdict)) = self.relay.take_released()
            && !matches!(verdict, Verdict::Close(_))
        {
            assert_eq!(self.relay.to_server().ready(), 0, "a server is given back with all it was to get");
        }
    }

    /// The client goes: whatever state it is in, the relay must let go of its server in the end.
    fn end(&mut self) {
        while self.relay.to_client().ready() > 0 {
            self.send_to_client(usize::MAX);
        }
        self.tell(|relay, turn| relay.on_client_gone(turn));
        self.tell(|relay, _| relay.abandon());
        assert!(!self.relay.has_server());
        assert_eq!(self.relay.to_client().ready(), 0, "nobody is there to be told anything");
    }
}

/// The first bytes that are ready, as one write would take them.
fn front(pipe: &Pipe, most: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let used = pipe.slices(&mut slices);
    let mut bytes: Vec<u8> = slices[..used].iter().flat_map(|it| it.iter().copied()).collect();
    assert!(bytes.len() <= pipe.ready());
    assert!(bytes.is_empty() == (pipe.ready() == 0), "what is ready can be sent");
    bytes.truncate(most);
    bytes
}
