//! What the pooler itself spends on a transaction: relays over pipes in memory, no socket anywhere.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/support/transaction.rs"]
mod transaction;

use transaction::{Bench, COMPLETE, IDLE, messages, scenarios};

fn transactions(c: &mut Criterion) {
    let mut group = c.benchmark_group("transaction");
    for scenario in scenarios() {
        let mut client = scenario.client();
        group.bench_function(scenario.name, |b| b.iter(|| scenario.run(&mut client)));
    }
    group.finish();
}

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
