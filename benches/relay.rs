//! What the pooler itself spends on a transaction: relays over pipes in memory, no socket anywhere.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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
    compatibility: Compatibility::Postgres,
};

struct Bench {
    relay: Relay,
    spare: Spare,
    registry: Registry,
    stats: Cell,
    server: Option<Box<Server>>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
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
    fn transaction(&mut self, sent: &[u8], answer: &[u8]) {
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

fn messages(list: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (tag, body) in list {
        encode::message(&mut out, *tag, |out| out.extend_from_slice(body));
    }
    out.to_vec()
}

const ROW: (u8, &[u8]) = (b'D', b"\0\x01\0\0\0\x045000");
const COMPLETE: (u8, &[u8]) = (b'C', b"SELECT 1\0");
const IDLE: (u8, &[u8]) = (b'Z', b"I");
const SYNC: (u8, &[u8]) = (b'S', b"");
const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");

fn transactions(c: &mut Criterion) {
    let columns: (u8, &[u8]) =
        (b'T', b"\0\x01abalance\0\0\0\x40\x01\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    let select = b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;\0";
    let unnamed = b"\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0";
    let bind = b"\0\0\0\0\0\x01\0\0\0\x044711\0\0";
    let mut group = c.benchmark_group("transaction");
    let mut run = |name: &str, sent: &[(u8, &[u8])], answer: &[(u8, &[u8])], before: Option<&Prepared>| {
        let (sent, answer) = (messages(sent), messages(answer));
        let mut bench = Bench::new();
        if let Some((sent, answer)) = before {
            bench.transaction(&messages(sent), &messages(answer));
        }
        group.bench_function(name, |b| b.iter(|| bench.transaction(&sent, &answer)));
    };
    run("simple", &[(b'Q', select)], &[columns, ROW, COMPLETE, IDLE], None);
    run(
        "extended",
        &[(b'P', unnamed), (b'B', bind), (b'D', b"P\0"), EXECUTE, SYNC],
        &[(b'1', b""), (b'2', b""), columns, ROW, COMPLETE, IDLE],
        None,
    );
    let named = b"s\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0";
    run(
        "prepared",
        &[(b'B', b"\0s\0\0\0\0\x01\0\0\0\x044711\0\0"), (b'D', b"P\0"), EXECUTE, SYNC],
        &[(b'2', b""), columns, ROW, COMPLETE, IDLE],
        Some(&(vec![(b'P', named), SYNC], vec![(b'1', b""), IDLE])),
    );
    group.finish();
}

/// What is sent and answered before the measurement.
type Prepared<'a> = (Vec<(u8, &'a [u8])>, Vec<(u8, &'a [u8])>);

fn result(c: &mut Criterion) {
    let value = [&b"\0\x01\0\0\x03\xe8"[..], &[b'x'; 1000]].concat();
    let mut answer = vec![(b'T', &b"\0\0"[..])];
    answer.extend((0..1024).map(|_| (b'D', &value[..])));
    answer.extend([COMPLETE, IDLE]);
    let (sent, answer) = (messages(&[(b'Q', b"SELECT v FROM t\0")]), messages(&answer));
    let mut bench = Bench::new();
    let mut group = c.benchmark_group("result");
    group.throughput(Throughput::Bytes(answer.len() as u64));
    group.bench_function("1 MB in rows of 1 kB", |b| b.iter(|| bench.transaction(&sent, &answer)));
    group.finish();
}

criterion_group!(benches, transactions, result);
criterion_main!(benches);
