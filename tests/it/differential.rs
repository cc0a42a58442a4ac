//! The same messages to PostgreSQL directly and through pgweir: the answers must be the same, message by message.
//!
//! Compared as [`Message`] renders itself: everything, but process ids and keys.

use std::fmt::Write;

use crate::support::prelude::*;

mod copy;
mod extended;
mod pipelines;

/// One step of a script.
enum Step {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Take messages up to and with one of this kind.
    Until(u8),
    /// Take all messages until the other side hangs up.
    End,
}

use Step::{End, Send, Until};

/// Sends messages and takes everything up to ReadyForQuery.
fn exchange(messages: &[Vec<u8>]) -> Vec<Step> {
    vec![Send(messages.concat()), Until(b'Z')]
}

/// A session of simple queries.
fn simple(queries: &[&str]) -> Vec<Step> {
    queries.iter().flat_map(|sql| exchange(&[query(sql)])).collect()
}

/// A message without what no client asks for: which of PostgreSQL's routines found that the transaction has failed. It
/// may have been the Parse that the pooler put before the client's Bind.
fn seen(message: &Message) -> String {
    let whole = message.to_string();
    match whole.find(" F=") {
        Some(place) if message.tag == b'E' && message.sqlstate() == "25P02" => whole[..place].to_owned(),
        _ => whole,
    }
}

/// What a script is answered with, a line a message.
fn play(mut client: Raw, script: &[Step]) -> String {
    let mut heard = String::new();
    for step in script {
        let messages = match step {
            Send(bytes) => {
                client.try_send(bytes);
                continue;
            }
            Until(tag) => {
                let mut messages = Vec::new();
                while let Some(message) = client.next() {
                    let last = message.tag == *tag;
                    messages.push(message);
                    if last {
                        break;
                    }
                }
                messages
            }
            End => client.rest(),
        };
        messages.iter().for_each(|message| writeln!(heard, "{}", seen(message)).unwrap());
        heard.push('\n');
    }
    heard
}

/// Poolers in front of the shared cluster, by what they are to be compared in.
struct Modes {
    transaction: Pooler,
    /// Transaction mode where two servers take turns, so that state must follow the client.
    turns: Pooler,
    session: Pooler,
    differences: Vec<String>,
}

impl Modes {
    fn start() -> Self {
        let setup = || Setup::of(Cluster::shared());
        let turns = setup().set("default_pool_size", "2").set("server_round_robin", "true").start();
        // Two servers exist from here on.
        let (mut one, mut two) = (turns.app(), turns.app());
        one.query("BEGIN");
        two.query("SELECT 1");
        one.query("COMMIT");
        Self {
            transaction: setup().set("default_pool_size", "1").start(),
            turns,
            session: setup().set("pool_mode", "\"session\"").start(),
            differences: Vec::new(),
        }
    }

    /// Plays a script directly and through each pooler, and keeps in mind where the answers differ.
    fn check(&mut self, name: &str, script: &[Step]) {
        let direct = play(Cluster::shared().connect("app", "app"), script);
        for (mode, pooler) in
            [("transaction", &self.transaction), ("turns", &self.turns), ("session", &self.session)]
        {
            if let Some(difference) = difference(&play(pooler.app(), script), &direct) {
                self.differences
                    .push(format!("{name}, {mode} mode: {difference}\n  script:\n{}", describe(script)));
            }
        }
    }

    /// Plays scripts made of seeds, as many as usual or as the environment says, up to the tenth difference; fails if
    /// there was any.
    #[track_caller]
    fn check_random(mut self, usual: u64, script: impl Fn(&mut Random) -> Vec<Step>) {
        for seed in seeds(usual) {
            self.check(&format!("PGWEIR_SEED={seed}"), &script(&mut Random::new(seed)));
            if self.differences.len() > 9 {
                break;
            }
        }
        self.finish();
    }

    /// Fails if anything differed.
    #[track_caller]
    fn finish(self) {
        let count = self.differences.len();
        assert!(count == 0, "{count} differences\n{}", self.differences.join("\n"));
    }
}

/// A script as text, a line a message.
fn describe(script: &[Step]) -> String {
    let mut text = String::new();
    for step in script {
        match step {
            Send(bytes) => {
                let mut rest = &bytes[..];
                while let [tag, a, b, c, d, ..] = *rest {
                    let length = u32::from_be_bytes([a, b, c, d]) as usize;
                    let body = rest.get(5..=length).unwrap_or_default();
                    let body: String = body.escape_ascii().to_string().chars().take(100).collect();
                    writeln!(text, "    {} {body}", char::from(tag)).unwrap();
                    rest = rest.get(1 + length..).unwrap_or_default();
                }
            }
            Until(tag) => writeln!(text, "    (until {})", char::from(*tag)).unwrap(),
            End => writeln!(text, "    (until the end)").unwrap(),
        }
    }
    text
}

/// The first line in which two answers differ, with the lines before it.
fn difference(through: &str, direct: &str) -> Option<String> {
    let (mut left, mut right) = (through.lines(), direct.lines());
    let mut before = Vec::new();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return None,
            (one, two) if one == two => before.extend(one),
            (one, two) => {
                let end = |line: Option<&str>| line.unwrap_or("(the end)").to_owned();
                let before = before[before.len().saturating_sub(4)..].join("\n    ");
                return Some(format!(
                    "after\n    {before}\n  pgweir:     {}\n  PostgreSQL: {}",
                    end(one),
                    end(two)
                ));
            }
        }
    }
}

/// A table that the scripts fill and empty again.
fn table() -> String {
    let cluster = Cluster::shared();
    let table = cluster.unique("differential");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int PRIMARY KEY, t text)"));
    table
}

#[test]
fn simple_queries() {
    let mut modes = Modes::start();
    let (wide, many) =
        ("SELECT repeat('w', 3000000)", "SELECT n, repeat('r', 100) FROM generate_series(1, 5000) AS n");
    for (name, queries) in [
        ("one", &["SELECT 1 AS one, 'two' AS two, NULL AS none"][..]),
        ("empty", &["", ";", "  -- nothing\n", ";;"]),
        ("several statements", &["SELECT 1; SELECT 2, 3; SELECT", "SELECT 1; SELECT 1/0; SELECT 2"]),
        ("errors", &["SELEC 1", "SELECT nothing", "SELECT 1/0", "SELECT 'alive'", "SELECT 'a\0b"]),
        (
            "transaction",
            &["BEGIN", "SELECT 1", "COMMIT", "BEGIN; SELECT 1", "SELECT 2", "ROLLBACK", "COMMIT"],
        ),
        (
            "failed transaction",
            &["BEGIN", "SELECT 1/0", "SELECT 1", "COMMIT", "BEGIN", "SELECT x", "ROLLBACK"],
        ),
        ("savepoints", &["BEGIN", "SAVEPOINT s", "SELECT 1/0", "ROLLBACK TO s", "SELECT 1", "COMMIT"]),
        (
            "implicit transaction",
            &["SELECT 1; BEGIN; SELECT 2", "COMMIT; SELECT 3", "SELECT 1; COMMIT; SELECT 2"],
        ),
        (
            "notices",
            &[
                "DO $$ BEGIN RAISE NOTICE 'n'; RAISE WARNING 'w' USING HINT = 'h'; END $$",
                "DROP TABLE IF EXISTS nowhere",
            ],
        ),
        ("wide row", &[wide, "SELECT 1"]),
        ("many rows", &[many, "SELECT 1"]),
        (
            "types",
            &["SELECT 1::int2, 2::int8, 3.5::float8, '\\x00ff'::bytea, now() > '2000-01-01', '{1,2}'::int[]"],
        ),
        (
            "no rows",
            &[
                "SELECT 1 WHERE false",
                "CREATE TEMP TABLE ON_THE_FLY (n int); DROP TABLE ON_THE_FLY",
                "SHOW server_version",
            ],
        ),
        (
            "settings",
            &[
                "SET TimeZone = 'Asia/Tokyo'",
                "SET application_name = 'dif'",
                "SET client_encoding = 'LATIN1'",
                "SHOW TimeZone",
                "RESET TimeZone",
            ],
        ),
        ("nonsense settings", &["SET nonsense = 1", "SET TimeZone = 'Nowhere/Land'", "SHOW TimeZone"]),
        (
            "cursors",
            &[
                "BEGIN",
                "DECLARE c CURSOR FOR SELECT generate_series(1, 9)",
                "FETCH 2 FROM c",
                "MOVE 3 FROM c",
                "FETCH ALL FROM c",
                "CLOSE c",
                "COMMIT",
            ],
        ),
    ] {
        modes.check(name, &simple(queries));
    }
    modes.finish();
}

#[test]
fn flush_gives_answers_before_the_sync() {
    let mut modes = Modes::start();
    modes.check(
        "parse",
        &[Send([parse("s", "SELECT 1", &[]), flush()].concat()), Until(b'1'), Send(sync()), Until(b'Z')],
    );
    modes.check(
        "steps",
        &[
            Send([parse("", "SELECT generate_series(1, 4)", &[]), describe_statement(""), flush()].concat()),
            Until(b'T'),
            Send([bind("", "", &[]), flush()].concat()),
            Until(b'2'),
            Send([execute("", 2), flush()].concat()),
            Until(b's'),
            Send([execute("", 0), flush()].concat()),
            Until(b'C'),
            Send(sync()),
            Until(b'Z'),
        ],
    );
    modes.check(
        "error",
        &[
            Send([parse("", "SELEC", &[]), flush()].concat()),
            Until(b'E'),
            Send([extended("SELECT 1", &[]), flush()].concat()),
            Send([extended("SELECT 2", &[]), sync()].concat()),
            Until(b'Z'),
        ],
    );
    modes.check(
        "a name that is known",
        &[
            Send([parse("s", "SELECT 1", &[]), sync()].concat()),
            Until(b'Z'),
            Send([parse("s", "SELECT 1", &[]), flush()].concat()),
            Until(b'E'),
            Send(sync()),
            Until(b'Z'),
            Send([close_statement("s"), flush()].concat()),
            Until(b'3'),
            Send(sync()),
            Until(b'Z'),
        ],
    );
    modes.finish();
}

#[test]
fn function_calls() {
    let mut modes = Modes::start();
    // int4pl, a function that does not exist, one that fails.
    modes.check("sum", &exchange(&[function_call(177, &["40", "2"])]));
    modes.check("unknown", &exchange(&[function_call(1, &["1"])]));
    modes.check("division by zero", &exchange(&[function_call(154, &["1", "0"])]));
    let several =
        [function_call(177, &["1", "1"]), function_call(1, &[]), function_call(177, &["2", "2"])].concat();
    modes.check("several", &[Send(several), Until(b'Z'), Until(b'Z'), Until(b'Z')]);
    modes.check(
        "in a transaction",
        &[
            Send(
                [
                    query("BEGIN"),
                    function_call(154, &["1", "0"]),
                    function_call(177, &["1", "1"]),
                    query("ROLLBACK"),
                ]
                .concat(),
            ),
            Until(b'Z'),
            Until(b'Z'),
            Until(b'Z'),
            Until(b'Z'),
        ],
    );
    modes.finish();
}

#[test]
fn what_ends_a_session() {
    let mut modes = Modes::start();
    modes.check("terminate", &[Send(terminate()), End]);
    modes.check(
        "terminate after a query",
        &[Send([query("SELECT 1"), terminate()].concat()), Until(b'Z'), End],
    );
    modes.check(
        "terminate in a transaction",
        &[Send([query("BEGIN"), terminate()].concat()), Until(b'Z'), End],
    );
    modes.check("nothing after terminate", &[Send([terminate(), query("SELECT 1")].concat()), End]);
    modes.finish();
}

#[test]
fn many_queries_at_one_go() {
    let mut modes = Modes::start();
    let queries: Vec<u8> = (0..50).flat_map(|n| query(&format!("SELECT {n}, repeat('q', {n}00)"))).collect();
    let mut script = vec![Send(queries)];
    script.extend((0..50).map(|_| Until(b'Z')));
    modes.check("simple", &script);
    let one = |n: usize| match n % 7 {
        3 => [extended("SELECT 1/0", &[]), extended("SELECT 'skipped'", &[]), sync()].concat(),
        5 => query(&format!("SELECT {n}")),
        _ => [extended("SELECT $1::int", &[Some(&n.to_string())]), sync()].concat(),
    };
    let mut script = vec![Send((0..50).flat_map(one).collect())];
    script.extend((0..50).map(|_| Until(b'Z')));
    modes.check("mixed", &script);
    modes.finish();
}

/// A random conversation from a small vocabulary, so that names collide and errors meet everything.
fn random_script(random: &mut Random, table: &str) -> Vec<Step> {
    let names = ["", "a", "b", "c"];
    let texts = [
        "SELECT 1",
        "SELECT $1::int + 1",
        "SELECT 1/0",
        "SELEC",
        "SELECT generate_series(1, 3)",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "",
        "SELECT repeat('r', 20000)",
        "SET LOCAL work_mem = '7MB'",
        "DEALLOCATE ALL",
    ];
    let insert = format!("INSERT INTO {table} VALUES (1, 'one') ON CONFLICT DO NOTHING");
    let mut script = Vec::new();
    for _ in 0..1 + random.below(5) {
        let mut messages = Vec::new();
        for _ in 0..random.below(9) {
            let (name, portal) = (*random.pick(&names), *random.pick(&["", "p"]));
            let text = if random.below(12) == 0 { insert.as_str() } else { random.pick(&texts) };
            let values: &[Option<&str>] =
                if text.contains("$1") || random.below(3) == 0 { &[Some("5")] } else { &[] };
            messages.push(match random.below(10) {
                0 | 1 => parse(name, text, &[]),
                2 | 3 => bind(portal, name, values),
                4 => describe_statement(name),
                5 => describe_portal(portal),
                6 | 7 => execute(portal, u32::try_from(random.below(3)).unwrap()),
                8 => close_statement(name),
                _ => close_portal(portal),
            });
        }
        messages.push(if random.below(4) == 0 {
            [sync(), query(texts[random.below(texts.len())])].concat()
        } else {
            sync()
        });
        let ends = if messages.last().unwrap().len() > 5 { 2 } else { 1 };
        script.push(Send(messages.concat()));
        script.extend((0..ends).map(|_| Until(b'Z')));
    }
    script
}

/// The seeds of the conversations to have: `PGWEIR_SEED` replays one, `PGWEIR_SEEDS` runs more than usual.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match variable("PGWEIR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("PGWEIR_SEEDS").unwrap_or(usual),
    }
}

#[test]
fn random_conversations() {
    let modes = Modes::start();
    let table = table();
    modes.check_random(400, |random| random_script(random, &table));
}

#[test]
fn in_statement_mode_single_statements_are_answered_alike() {
    let pooler = Setup::of(Cluster::shared()).set("pool_mode", "\"statement\"").start();
    let scripts = [
        simple(&["SELECT 1", "SELECT 1/0", "", "SELECT 1; SELECT 2", "SELECT repeat('s', 100000)"]),
        exchange(&[extended("SELECT $1::int", &[Some("3")]), sync()]),
        exchange(&[parse("s", "SELECT 1", &[]), bind("", "s", &[]), execute("", 0), sync()]),
        exchange(&[extended("SELECT 1/0", &[]), sync()]),
        exchange(&[function_call(177, &["1", "2"])]),
        exchange(&[query("COPY (SELECT 1) TO STDOUT")]),
    ];
    for script in &scripts {
        let direct = play(Cluster::shared().connect("app", "app"), script);
        assert_eq!(play(pooler.app(), script), direct);
    }
}

#[test]
fn the_answer_does_not_depend_on_how_the_bytes_are_cut() {
    let pooler = Pooler::of(Cluster::shared());
    let bytes = [
        parse("s", "SELECT $1::text", &[]),
        bind("", "s", &[Some("value")]),
        describe_portal(""),
        execute("", 0),
        parse("s", "SELECT 2", &[]),
        sync(),
        query("SELECT repeat('c', 10000)"),
        close_statement("s"),
        sync(),
    ]
    .concat();
    let answer = |client: &mut Raw| -> Vec<Message> { (0..3).flat_map(|_| client.ready()).collect() };
    let mut direct = Cluster::shared().connect("app", "app");
    direct.send(&bytes);
    let expected = answer(&mut direct);
    let mut random = Random::new(1);
    for _ in 0..40 {
        let mut client = pooler.app();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + random.below(rest.len().min(40)));
            client.send(piece);
            rest = tail;
        }
        assert_eq!(answer(&mut client), expected);
    }
}
