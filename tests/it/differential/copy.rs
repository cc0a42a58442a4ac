//! Scripts of COPY in both directions, right and wrong.

use super::{Modes, Send, Step, Until, exchange, table};
use crate::support::prelude::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of scripts")]
fn copy_in_and_out_with_and_without_errors() {
    let mut modes = Modes::start();
    let table = table();
    let into = || query(&format!("COPY {table} FROM STDIN"));
    let cleared = || exchange(&[query(&format!("DELETE FROM {table}"))]);
    let cases: Vec<(&str, Vec<Step>)> = vec![
        (
            "in",
            vec![
                Send(into()),
                Until(b'G'),
                Send([copy_data(b"1\ta\n2\tb\n"), copy_done()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "in at one go",
            vec![
                Send([into(), copy_data(b"1\ta\n"), copy_data(b"2\tb\n"), copy_done()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "broken line",
            vec![
                Send(into()),
                Until(b'G'),
                Send([copy_data(b"x\n"), copy_data(b"1\ta\n"), copy_done()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "duplicate key",
            vec![
                Send(into()),
                Until(b'G'),
                Send([copy_data(b"1\ta\n1\tb\n"), copy_done()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "given up",
            vec![
                Send(into()),
                Until(b'G'),
                Send([copy_data(b"1\ta\n"), copy_fail("enough")].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "then a query",
            vec![
                Send([into(), copy_data(b"1\ta\n"), copy_done(), query("SELECT 'after'")].concat()),
                Until(b'Z'),
                Until(b'Z'),
            ],
        ),
        (
            "error, then a query",
            vec![
                Send([into(), copy_data(b"x\n"), copy_done(), query("SELECT 'after'")].concat()),
                Until(b'Z'),
                Until(b'Z'),
            ],
        ),
        (
            "a sync sent ahead",
            vec![
                Send([into(), sync(), copy_data(b"1\ta\n"), copy_done()].concat()),
                Until(b'Z'),
                Send(query("SELECT 'after'")),
                Until(b'Z'),
            ],
        ),
        (
            "a sync sent ahead of a broken line",
            vec![
                Send([into(), sync(), copy_data(b"x\n"), copy_done()].concat()),
                Until(b'Z'),
                Send(query("SELECT 'after'")),
                Until(b'Z'),
            ],
        ),
        (
            "flush and sync within",
            vec![
                Send(into()),
                Until(b'G'),
                Send([copy_data(b"1\ta\n"), flush(), sync(), copy_data(b"2\tb\n"), copy_done()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "extended",
            vec![
                Send([extended(&format!("COPY {table} FROM STDIN"), &[]), flush()].concat()),
                Until(b'G'),
                Send([copy_data(b"1\ta\n"), copy_done(), sync()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "extended with an error",
            vec![
                Send([extended(&format!("COPY {table} FROM STDIN"), &[]), flush()].concat()),
                Until(b'G'),
                Send([copy_data(b"x\n"), copy_done(), sync()].concat()),
                Until(b'Z'),
                Send(query("SELECT 'after'")),
                Until(b'Z'),
            ],
        ),
        (
            "extended, given up",
            vec![
                Send([extended(&format!("COPY {table} FROM STDIN"), &[]), flush()].concat()),
                Until(b'G'),
                Send([copy_fail("enough"), sync()].concat()),
                Until(b'Z'),
            ],
        ),
        (
            "in a transaction",
            [
                exchange(&[query("BEGIN")]),
                vec![Send([into(), copy_data(b"1\ta\n"), copy_done()].concat()), Until(b'Z')],
                exchange(&[query("ROLLBACK")]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "out",
            exchange(&[query(
                "COPY (SELECT n, repeat('c', 50) FROM generate_series(1, 2000) AS n) TO STDOUT",
            )]),
        ),
        (
            "out with an error",
            exchange(&[query("COPY (SELECT 1/(5 - n) FROM generate_series(1, 9) AS n) TO STDOUT")]),
        ),
        ("out, extended", exchange(&[extended("COPY (SELECT 1) TO STDOUT", &[]), sync()])),
        ("stray data", exchange(&[copy_data(b"1\n"), copy_done(), copy_fail("x"), query("SELECT 1")])),
        (
            "two in one query",
            vec![
                Send(query(&format!("COPY {table} FROM STDIN; COPY {table} FROM STDIN; SELECT 1"))),
                Until(b'G'),
                Send([copy_data(b"1\ta\n"), copy_done()].concat()),
                Until(b'G'),
                Send([copy_data(b"2\tb\n"), copy_done()].concat()),
                Until(b'Z'),
            ],
        ),
    ];
    for (name, mut script) in cases {
        script.extend(exchange(&[query(&format!("SELECT count(*) FROM {table}"))]));
        script.extend(cleared());
        modes.check(name, &script);
    }
    modes.finish();
}
