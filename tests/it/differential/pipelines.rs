//! Random pipelines in which errors meet what changes names, the unnamed statement and COPY.

use super::{Modes, Send, Step, Until};
use crate::support::prelude::*;

/// Texts whose statements know nothing of names.
const PLAIN: [&str; 8] = [
    "SELECT 1",
    "SELECT 'two', 2",
    "SELECT 1/0",
    "SELEC",
    "BEGIN",
    "ROLLBACK",
    "SAVEPOINT s",
    "SELECT generate_series(1, 3)",
];
/// Texts about names that the client has given through the protocol.
const ABOUT_NAMES: [&str; 6] = [
    "DEALLOCATE a",
    "DEALLOCATE PREPARE \"b\";",
    "deallocate A",
    "DEALLOCATE \"A\"",
    "DEALLOCATE ALL",
    "DEALLOCATE none",
];

/// One thing that a client may do next, in one message or a few.
fn random_part(random: &mut Random, table: &str) -> Vec<u8> {
    let (name, portal) = (*random.pick(&["", "", "a", "b"]), *random.pick(&["", "p"]));
    let text = match random.below(4) {
        0 => *random.pick(&ABOUT_NAMES),
        _ => *random.pick(&PLAIN),
    };
    match random.below(24) {
        0..=3 => parse("", text, &[]),
        4 | 5 => parse(name, text, &[]),
        6..=8 => bind(portal, name, &[]),
        9 => describe_statement(name),
        10 | 11 => execute(portal, 0),
        12..=14 => [bind(portal, name, &[]), execute(portal, 0)].concat(),
        15 => close_statement(name),
        16 => sync(),
        17 => flush(),
        18 => query(text),
        19 => [extended(text, &[]), sync()].concat(),
        20 => {
            let prepared = format!("PREPARE {} AS SELECT 'by SQL'", if name.is_empty() { "a" } else { name });
            let taken = parse(if name.is_empty() { "a" } else { name }, "SELECT 'by protocol'", &[]);
            let by_sql = if random.below(2) == 0 { query(&prepared) } else { extended(&prepared, &[]) };
            [sync(), taken, sync(), by_sql].concat()
        }
        21 | 22 => copy(random, table),
        _ => random.pick(&[copy_data(b"stray\n"), copy_done(), copy_fail("stray")]).clone(),
    }
}

/// A COPY with its data and its end, good or bad, and with a Sync in more places than there should be.
fn copy(random: &mut Random, table: &str) -> Vec<u8> {
    // Into a table, or one that refuses before it has read anything, or none.
    let suffix = *random.pick(&["", "", "_closed", "_missing"]);
    let text = format!("COPY {table}{suffix} FROM STDIN");
    // Under a name that nothing else executes: COPY mode must meet nothing but its data.
    let by_name =
        || [close_statement("c"), parse("c", &text, &[]), bind("", "c", &[]), execute("", 0)].concat();
    let by_query = random.below(4) == 0;
    let mut messages = vec![if by_query { query(&text) } else { by_name() }];
    for _ in 0..random.below(5) {
        messages.push(match random.below(6) {
            0 | 1 => sync(),
            2 => flush(),
            3 => copy_data(b"x\n"),
            _ => copy_data(b"1\ta\n"),
        });
    }
    messages.push(if random.below(3) == 0 { copy_fail("no more") } else { copy_done() });
    messages.extend((0..random.below(3)).map(|_| sync()));
    messages.concat()
}

fn random_script(random: &mut Random, table: &str) -> Vec<Step> {
    let mut script = Vec::new();
    for _ in 0..1 + random.below(4) {
        let mut messages: Vec<_> = (0..random.below(9)).map(|_| random_part(random, table)).collect();
        // Whatever is open is over with this, and an empty query is answered even in a failed transaction.
        messages.extend([copy_fail("over"), sync(), query("")]);
        script.extend([Send(messages.concat()), Until(b'I'), Until(b'Z')]);
    }
    script.extend([Send([query("ROLLBACK"), query("")].concat()), Until(b'I'), Until(b'Z')]);
    script
}

/// A table that takes any number, and one beside it that takes none: its trigger fails before the first row.
fn tables() -> String {
    let cluster = Cluster::shared();
    let table = cluster.unique("pipelines");
    cluster.connect("app", "app").rows(&format!(
        "CREATE TABLE {table} (n int, t text); CREATE TABLE {table}_closed (n int, t text);
         CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'closed'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON {table}_closed EXECUTE FUNCTION {table}_refuse()"
    ));
    table
}

#[test]
fn random_pipelines() {
    let modes = Modes::start();
    let table = tables();
    modes.check_random(400, |random| random_script(random, &table));
}
