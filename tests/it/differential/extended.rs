//! Scripts of the extended protocol: statements, portals, pipelines that fail.

use super::{Modes, Send, Step, Until, exchange};
use crate::support::prelude::*;

/// Makes a message, or a few.
type Make = fn() -> Vec<u8>;

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of scripts")]
fn extended_queries() {
    let mut modes = Modes::start();
    let named = || {
        [parse("s", "SELECT $1::int + 1 AS sum", &[]), describe_statement("s"), bind("p", "s", &[Some("1")])]
            .concat()
    };
    let cases: Vec<(&str, Vec<Step>)> = vec![
        ("unnamed", exchange(&[extended("SELECT $1::text, $2::int", &[Some("x"), None]), sync()])),
        ("named", exchange(&[named(), describe_portal("p"), execute("p", 0), sync()])),
        (
            "suspended portal",
            exchange(&[
                parse("", "SELECT generate_series(1, 5)", &[]),
                bind("p", "", &[]),
                execute("p", 2),
                execute("p", 2),
                execute("p", 2),
                execute("p", 0),
                close_portal("p"),
                sync(),
            ]),
        ),
        (
            "portal of another transaction",
            [
                exchange(&[parse("", "SELECT 1", &[]), bind("p", "", &[]), sync()]),
                exchange(&[execute("p", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "portal in a transaction",
            [
                exchange(&[query("BEGIN")]),
                exchange(&[
                    parse("", "SELECT generate_series(1, 3)", &[]),
                    bind("p", "", &[]),
                    execute("p", 1),
                    sync(),
                ]),
                exchange(&[execute("p", 0), sync()]),
                exchange(&[bind("p", "", &[]), sync()]),
                exchange(&[query("ROLLBACK")]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        ("empty query", exchange(&[extended("", &[]), sync()])),
        ("nothing but a Sync", exchange(&[sync()])),
        (
            "statement over transactions",
            [
                exchange(&[parse("s", "SELECT $1::int * 2", &[]), sync()]),
                exchange(&[bind("", "s", &[Some("21")]), execute("", 0), sync()]),
                exchange(&[describe_statement("s"), sync()]),
                exchange(&[bind("", "s", &[Some("x")]), execute("", 0), sync()]),
                exchange(&[bind("", "s", &[Some("4")]), execute("", 0), sync()]),
                exchange(&[close_statement("s"), sync()]),
                exchange(&[bind("", "s", &[Some("4")]), execute("", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "duplicate name",
            [
                exchange(&[parse("s", "SELECT 1", &[]), parse("s", "SELECT 2", &[]), sync()]),
                exchange(&[parse("s", "SELECT 3", &[]), sync()]),
                exchange(&[bind("", "s", &[]), execute("", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "unknown names",
            [
                exchange(&[bind("", "never", &[]), sync()]),
                exchange(&[describe_statement("never"), sync()]),
                exchange(&[describe_portal("never"), sync()]),
                exchange(&[execute("never", 0), sync()]),
                exchange(&[close_statement("never"), close_portal("never"), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "close and prepare in one go",
            exchange(&[
                parse("s", "SELECT 1", &[]),
                close_statement("s"),
                parse("s", "SELECT 2", &[]),
                bind("", "s", &[]),
                execute("", 0),
                close_statement("s"),
                close_statement("s"),
                sync(),
            ]),
        ),
        (
            "wrong number of parameters",
            [
                exchange(&[parse("s", "SELECT $1::int", &[]), bind("", "s", &[]), execute("", 0), sync()]),
                exchange(&[bind("", "s", &[Some("1"), Some("2")]), execute("", 0), sync()]),
                exchange(&[bind("", "s", &[Some("1")]), execute("", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "unnamed statement over a Sync",
            [
                exchange(&[parse("", "SELECT 'kept'", &[]), sync()]),
                exchange(&[bind("", "", &[]), execute("", 0), sync()]),
                exchange(&[parse("", "SELECT nonsense", &[]), sync()]),
                exchange(&[bind("", "", &[]), execute("", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "simple query between",
            [
                exchange(&[parse("s", "SELECT 1", &[]), parse("", "SELECT 2", &[]), sync()]),
                exchange(&[query("SELECT 3")]),
                exchange(&[bind("", "s", &[]), execute("", 0), sync()]),
                exchange(&[bind("", "", &[]), execute("", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "statements are forgotten",
            [
                exchange(&[parse("s", "SELECT 1", &[]), parse("t", "SELECT 2", &[]), sync()]),
                exchange(&[query("DEALLOCATE ALL")]),
                exchange(&[bind("", "s", &[]), execute("", 0), sync()]),
                exchange(&[parse("s", "SELECT 'again'", &[]), bind("", "s", &[]), execute("", 0), sync()]),
                exchange(&[query("DISCARD ALL")]),
                exchange(&[describe_statement("s"), sync()]),
                exchange(&[extended("DEALLOCATE ALL", &[]), sync()]),
                exchange(&[parse("s", "SELECT 'third'", &[]), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "prepared in a transaction that fails",
            [
                exchange(&[query("BEGIN")]),
                exchange(&[parse("s", "SELECT 'survives'", &[]), sync()]),
                exchange(&[query("SELECT 1/0")]),
                exchange(&[parse("t", "SELECT 'refused'", &[]), sync()]),
                exchange(&[bind("", "s", &[]), sync()]),
                exchange(&[query("ROLLBACK")]),
                exchange(&[bind("", "s", &[]), execute("", 0), sync()]),
                exchange(&[bind("", "t", &[]), execute("", 0), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
        (
            "transactions by extended queries",
            [
                exchange(&[extended("BEGIN", &[]), extended("SELECT 1", &[]), sync()]),
                exchange(&[extended("SELECT 1/0", &[]), sync()]),
                exchange(&[extended("SELECT 1", &[]), sync()]),
                exchange(&[extended("ROLLBACK", &[]), sync()]),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
    ];
    for (name, script) in &cases {
        modes.check(name, script);
    }
    modes.finish();
}

#[test]
fn pipelines_with_an_error_in_every_position() {
    let mut modes = Modes::start();
    let good: &[Make] = &[
        || parse("s", "SELECT $1::int", &[]),
        || describe_statement("s"),
        || bind("", "s", &[Some("7")]),
        || execute("", 0),
        || extended("SELECT 'inner'", &[]),
        || close_statement("s"),
        || parse("s", "SELECT 'second'", &[]),
        || bind("p", "s", &[]),
        || execute("p", 0),
    ];
    let bad: &[(&str, Make)] = &[
        ("parse", || parse("x", "SELEC", &[])),
        ("duplicate", || [parse("y", "SELECT 1", &[]), parse("y", "SELECT 1", &[])].concat()),
        ("bind", || bind("", "never", &[])),
        ("describe", || describe_statement("never")),
        ("execute", || extended("SELECT 1/0", &[])),
        ("portal", || execute("never", 0)),
    ];
    for (name, wrong) in bad {
        for position in 0..=good.len() {
            let mut pipeline: Vec<Vec<u8>> = good.iter().map(|message| message()).collect();
            pipeline.insert(position, wrong());
            pipeline.push(sync());
            // What comes after the Sync in the same write, too.
            let after =
                [bind("", "s", &[Some("8")]), execute("", 0), sync(), query("SELECT 'last'")].concat();
            let script = [Send([pipeline.concat(), after].concat()), Until(b'Z'), Until(b'Z'), Until(b'Z')];
            modes.check(&format!("{name} at {position}"), &script);
        }
    }
    modes.finish();
}
