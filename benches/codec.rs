//! How long it takes to understand bytes: headers, heads of messages, and the words of a statement.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgweir::session::residue;
use pgweir::wire::frontend::{BindHead, Parse};
use pgweir::wire::{Backend, Header, Report, SqlState, encode};

/// What one `recv` may bring of a result.
const RUN_BYTES: usize = 16 * 1024;

fn headers(c: &mut Criterion) {
    let mut rows = BytesMut::new();
    while rows.len() < RUN_BYTES {
        encode::data_row(&mut rows, [Some(&b"12345"[..]), Some(&[b'x'; 84])].into_iter());
    }
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Bytes(rows.len() as u64));
    group.bench_function("headers of a run of rows", |b| {
        b.iter(|| {
            let (mut rest, mut count) = (black_box(&rows[..]), 0usize);
            while let Ok(Some(header)) = Header::peek(rest) {
                count += 1;
                rest = &rest[header.total()..];
            }
            count
        });
    });
    group.finish();
}

fn messages(c: &mut Criterion) {
    let parse = b"statement_1\0select abalance from pgbench_accounts where aid = $1\0\0\x01\0\0\0\x17";
    c.bench_function("decode/Parse", |b| b.iter(|| Parse::decode(black_box(parse))));
    let bind = b"\0statement_1\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x2a\0\x01\0\x01";
    c.bench_function("decode/head of a Bind", |b| b.iter(|| BindHead::peek(black_box(bind))));
    c.bench_function("decode/ReadyForQuery", |b| b.iter(|| Backend::decode(b'Z', black_box(b"I"))));
    let mut out = BytesMut::new();
    Report::error(SqlState::QUERY_CANCELED, "canceling statement due to user request").encode(&mut out);
    c.bench_function("decode/ErrorResponse", |b| b.iter(|| Report::parse(black_box(&out[5..]))));
}

fn statements(c: &mut Criterion) {
    let mut group = c.benchmark_group("residue");
    let long = format!("select a, b from t where c in ({})", vec!["12345"; 2000].join(", "));
    for (name, text) in [
        ("of a short select", "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;"),
        ("of a long select", long.as_str()),
        ("of a SET", "SET statement_timeout TO '5s'"),
        ("of two statements", "BEGIN; UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1;"),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| residue::of_statement(black_box(text.as_bytes()), |name| name == "timezone"));
        });
    }
    group.finish();
}

criterion_group!(benches, headers, messages, statements);
criterion_main!(benches);
