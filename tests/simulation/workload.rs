//! What clients do: units of work, each planned as a whole, with what is in it left to chance.

use super::message::{self, Message, query};
use super::rng::Rng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Session,
    Transaction,
    Statement,
}

/// A step of a client's program.
#[derive(Clone, Debug)]
pub enum Item {
    Send(Message),
    /// Until all that was sent is answered.
    Await,
    /// The same; where COPY did not begin then, these items are left out.
    AwaitCopy {
        otherwise_skip: usize,
    },
    /// Where something of this unit was refused, these items are left out.
    UnlessRefused {
        skip: usize,
    },
    /// Where no transaction block is open, these items are left out.
    InBlock {
        otherwise_skip: usize,
    },
}

/// How much of what a client does.
pub struct Workload {
    pub mode: Mode,
    pub start: Vec<(String, String)>,
    /// Units that are left.
    pub units: usize,
    /// Statement names are kept apart by the pooler, or are the server's own.
    pub tracks_names: bool,
    pub listened: Vec<String>,
    /// Something was left on a server, and it may not have been cleaned yet.
    dirty: bool,
    in_block: bool,
    /// Its transactions and batches follow each other without waiting for answers.
    hurries: bool,
    sequence: usize,
    plan: Vec<Item>,
}

/// Texts that clients share, so that they share prepared statements.
const SHARED: [(&str, bool); 8] = [
    ("SELECT echo($1, 1, 20)", true),
    ("SELECT echo($1, 3, 200)", true),
    ("SELECT echo($1, 0, 0)", true),
    ("SHOW timezone", false),
    ("SHOW application_name", false),
    ("SET work_mem TO '6MB'", false),
    ("SET ROLE third", false),
    ("", false),
];

impl Workload {
    pub fn new(mode: Mode, tracks_names: bool, rng: &mut Rng) -> Self {
        let mut start: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: &str| start.push((name.to_owned(), value.to_owned()));
        if rng.one_in(3) {
            add("application_name", rng.word(&["psql", "it's \\ a 'name'", "größe\n2", "a;b--c/*"]));
        }
        if rng.one_in(4) {
            add("TimeZone", rng.word(&["CET", "UTC", "EST"]));
        }
        if rng.one_in(5) {
            add("work_mem", rng.word(&["1MB", "64kB"]));
        }
        if rng.one_in(12) {
            add("role", "app");
        }
        let hurries = rng.one_in(3);
        Self {
            mode,
            start,
            units: rng.range(3, 14),
            tracks_names,
            listened: Vec::new(),
            dirty: false,
            in_block: false,
            hurries,
            sequence: 0,
            plan: Vec::new(),
        }
    }

    /// The next unit, or `None` where there is nothing left to do.
    pub fn next_unit(&mut self, client: usize, rng: &mut Rng) -> Option<Vec<Item>> {
        if self.units == 0 {
            return None;
        }
        self.units -= 1;
        let mut draft = Draft { workload: self, client, rng };
        draft.unit();
        // The last one may be followed by Terminate at once.
        if !self.hurries || rng.one_in(4) {
            self.settle();
        }
        Some(std::mem::take(&mut self.plan))
    }

    fn settle(&mut self) {
        self.plan.push(Item::Await);
        self.dirty = false;
    }
}

/// A unit while it is being written.
struct Draft<'a> {
    workload: &'a mut Workload,
    client: usize,
    rng: &'a mut Rng,
}

impl Draft<'_> {
    fn send(&mut self, message: Message) {
        self.workload.plan.push(Item::Send(message));
    }

    fn sync(&mut self) {
        self.send(message::sync());
    }

    fn token(&mut self) -> String {
        self.workload.sequence += 1;
        format!("c{}.{}", self.client, self.workload.sequence)
    }

    /// What follows must find nothing left by what went before.
    fn on_clean_ground(&mut self) {
        if self.workload.dirty && !self.workload.in_block {
            self.workload.settle();
        }
    }

    fn unit(&mut self) {
        let blocks = self.workload.mode != Mode::Statement;
        match self.rng.below(20) {
            0..=5 => self.plain(),
            6..=8 => self.named(),
            9 => self.copy_in(),
            10 => self.copy_out(),
            11..=14 if blocks => self.block(),
            15 => self.setting(),
            16 => self.leave_something(),
            17 => self.look_around(),
            18 => self.unnamed_across_batches(),
            _ => self.deallocate(),
        }
    }

    /// A statement by itself, in one of the two protocols.
    fn plain(&mut self) {
        let sql = self.some_sql();
        self.run(&sql);
        if self.rng.one_in(12) {
            let token = self.token();
            let suffix = if self.rng.one_in(3) { "bad" } else { "" };
            // `loread`, or `pg_advisory_lock`.
            let oid: u32 = if self.workload.dirty && self.rng.one_in(2) { 2880 } else { 954 };
            let mut body = oid.to_be_bytes().to_vec();
            body.extend(format!("{token}{suffix}\0").bytes());
            self.send(Message::new(b'F', body));
        }
    }

    fn some_sql(&mut self) -> String {
        let token = self.token();
        match self.rng.below(16) {
            0 => format!("SELECT fail('{token}')"),
            1 => format!("SELECT slow('{token}')"),
            2 => format!("SELEKT '{token}'"),
            3 => String::new(),
            4 => {
                let (rows, bytes) = (self.rng.range(1, 40), self.rng.range(1, 9000));
                format!("SELECT echo('{token}', {rows}, {bytes})")
            }
            5 if self.rng.one_in(3) => {
                let padding = "x".repeat(self.rng.range(100, 200_000));
                format!("SELECT echo('{token}', 1, 10) /* {padding} */")
            }
            _ => format!("SELECT echo('{token}', {}, {})", self.rng.below(4), self.rng.range(0, 100)),
        }
    }

    /// Runs one statement in one of the two protocols.
    fn run(&mut self, sql: &str) {
        match self.rng.below(6) {
            0..=2 => self.send(query(sql)),
            3 => {
                self.parse_bind(sql);
                self.send(message::execute("", 0));
                if self.rng.one_in(3) {
                    let token = self.token();
                    self.parse_bind(&format!("SELECT echo('{token}', 1, 1)"));
                    self.send(message::execute("", 0));
                }
                self.sync();
            }
            4 => {
                self.parse_bind(sql);
                self.send(message::execute("", 0));
                self.send(Message::new(b'H', []));
                self.workload.plan.push(Item::Await);
                self.sync();
            }
            _ => {
                self.parse_bind(sql);
                self.send(message::target(b'D', b'P', ""));
                self.send(message::execute("", 0));
                self.sync();
            }
        }
    }

    fn parse_bind(&mut self, sql: &str) {
        self.send(message::parse("", sql));
        if self.rng.one_in(4) {
            self.send(message::target(b'D', b'S', ""));
        }
        self.send(message::bind("", "", None));
    }

    fn name(&mut self) -> &'static str {
        self.rng.word(&["s0", "s1", "s2", "s3"])
    }

    /// What follows is about named statements, which may not outlive a transaction.
    fn on_named_ground(&mut self) {
        if !self.workload.tracks_names && self.workload.mode != Mode::Session {
            self.on_clean_ground();
        }
        // Some named statements leave something, too.
        self.workload.dirty = true;
    }

    /// A batch of messages about named statements. Nothing sees to it that it makes sense.
    fn named(&mut self) {
        self.on_named_ground();
        for _ in 0..self.rng.range(1, 4) {
            let name = self.name();
            let (text, parameter) = *self.rng.pick(&SHARED);
            if self.rng.one_in(60) {
                let padding = "x".repeat(70_000);
                self.send(message::parse(name, &format!("/* {padding} */ SET work_mem TO '8MB'")));
            }
            match self.rng.below(8) {
                0..=2 => self.send(message::parse(name, text)),
                3 => self.send(message::target(b'C', b'S', name)),
                // In a failed transaction a server can't be given what it is to describe.
                4 if !self.workload.in_block => self.send(message::target(b'D', b'S', name)),
                5 => {
                    let token = self.token();
                    self.send(message::parse(name, &format!("SELECT echo('{token}', 1, 5)")));
                }
                _ => {
                    self.send(message::target(b'C', b'S', name));
                    self.send(message::parse(name, text));
                    let token = parameter.then(|| self.token());
                    self.send(message::bind("", name, token.as_deref()));
                    self.send(message::execute("", 0));
                }
            }
        }
        if self.rng.one_in(2) {
            let (name, token) = (self.name(), self.token());
            let token = if self.rng.one_in(5) { None } else { Some(token) };
            self.send(message::bind("", name, token.as_deref()));
            self.send(message::execute("", 0));
        }
        self.sync();
    }

    fn unnamed_across_batches(&mut self) {
        let token = self.token();
        let sql = match self.rng.below(4) {
            0 => "SET work_mem TO '5MB'".to_owned(),
            1 => "SET ROLE fourth".to_owned(),
            _ => format!("SELECT echo('{token}', 1, 1)"),
        };
        self.workload.dirty = true;
        self.send(message::parse("", &sql));
        self.send(message::target(b'D', b'S', ""));
        self.sync();
        self.workload.settle();
        if self.rng.one_in(4) {
            // A simple query ends the unnamed statement.
            self.send(query("SELECT echo('x', 0, 0)"));
            self.workload.settle();
        }
        self.workload.plan.push(Item::UnlessRefused { skip: 3 });
        self.send(message::bind("", "", None));
        self.send(message::execute("", 0));
        self.sync();
        self.workload.dirty = true;
    }

    fn copy_in(&mut self) {
        let token = self.token();
        let rows = self.rng.below(5);
        let mut data: Vec<Message> =
            (0..rows).map(|row| Message::new(b'd', format!("{token} row {row}\n"))).collect();
        if self.rng.one_in(3) {
            data.push(Message::new(b'd', format!("{token} bad\n")));
        }
        if self.rng.one_in(6) {
            data.insert(0, Message::new(b'd', vec![b'c'; self.rng.range(1, 100_000)]));
            data[0].body.splice(0..0, format!("{token} ").into_bytes());
        }
        let fails = self.rng.one_in(6);
        data.push(if fails { Message::new(b'f', *b"changed my mind\0") } else { Message::new(b'c', []) });
        let mut skip = data.len();
        let way = self.rng.below(4);
        match way {
            0 => self.send(query("COPY t FROM STDIN")),
            _ => {
                self.parse_bind("COPY t FROM STDIN");
                self.send(message::execute("", 0));
                data.push(message::sync());
                if way == 1 {
                    // As libpq does: this Sync is ignored once COPY has begun.
                    self.sync();
                    skip += 1;
                } else {
                    self.send(Message::new(b'H', []));
                }
            }
        }
        // Some send their data before they know that it is wanted.
        if !matches!(way, 0 | 3) || self.rng.one_in(2) {
            self.workload.plan.push(Item::AwaitCopy { otherwise_skip: skip });
        }
        data.into_iter().for_each(|it| self.send(it));
        self.workload.settle();
    }

    fn copy_out(&mut self) {
        let token = self.token();
        let (rows, bytes) = (self.rng.below(6), self.rng.range(1, 3000));
        let sql = format!("COPY echo('{token}', {rows}, {bytes}) TO STDOUT");
        self.run(&sql);
    }

    fn block(&mut self) {
        self.on_clean_ground();
        self.run("BEGIN");
        self.workload.in_block = true;
        let (start, mut delicate) = (self.workload.plan.len(), false);
        for _ in 0..self.rng.range(0, 4) {
            let kind = self.rng.below(10);
            delicate |= matches!(kind, 5 | 6) || (kind == 4 && !self.workload.tracks_names);
            match kind {
                0..=3 => self.plain(),
                4 => self.named(),
                5 => self.leave_something(),
                6 => self.look_around(),
                7 => self.portal(),
                8 => self.run("SAVEPOINT one"),
                _ => self.run("ROLLBACK TO one"),
            }
            if self.rng.one_in(2) {
                self.workload.plan.push(Item::Await);
            }
        }
        self.workload.in_block = false;
        let end = if self.rng.one_in(3) { "ROLLBACK" } else { "COMMIT" };
        self.run(end);
        if self.rng.one_in(3) {
            // For those whose COMMIT was skipped.
            self.send(query("ROLLBACK"));
        }
        if delicate {
            // Where the BEGIN was refused, what follows would see what other transactions left.
            let otherwise_skip = self.workload.plan.len() - start;
            self.workload.plan.splice(start..start, [Item::Await, Item::InBlock { otherwise_skip }]);
        }
    }

    fn portal(&mut self) {
        let token = self.token();
        self.send(message::parse("", &format!("SELECT echo('{token}', 5, 30)")));
        self.send(message::bind("p", "", None));
        self.send(message::execute("p", 2));
        self.sync();
        self.send(message::execute("p", 2));
        if self.rng.one_in(2) {
            self.send(message::target(b'C', b'P', "p"));
        }
        self.sync();
    }

    /// Settings that follow the client.
    fn setting(&mut self) {
        let sql = match self.rng.below(6) {
            0 => "SET timezone TO 'CET'".to_owned(),
            1 => "SET timezone TO 'EST'".to_owned(),
            2 => "SET application_name TO 'other'".to_owned(),
            3 => "SET timezone TO 'invalid'".to_owned(),
            4 => "SHOW application_name".to_owned(),
            _ => "SHOW timezone".to_owned(),
        };
        self.run(&sql);
    }

    /// State of a session that the next client must not find.
    fn leave_something(&mut self) {
        self.on_clean_ground();
        let number = self.rng.below(3);
        let token = self.token();
        let sql = match self.rng.below(14) {
            0 => "SET work_mem TO '7MB'".to_owned(),
            1 => "SET ROLE other".to_owned(),
            2 => format!("CREATE TEMP TABLE t{number} (a int)"),
            3 => format!("SELECT pg_advisory_lock({number})"),
            4 => {
                let channel = format!("channel{number}");
                self.workload.listened.push(channel.clone());
                format!("LISTEN {channel}")
            }
            5 => format!("DECLARE cursor{number} CURSOR WITH HOLD FOR SELECT 1"),
            6 => format!("PREPARE q{number} AS SELECT echo('{token}', 1, 1)"),
            7 => "SET LOCAL statement_timeout TO '1'".to_owned(),
            8 => format!("DISCARD TEMP;CREATE TEMP TABLE t{number} (a int)"),
            9 => format!("CLOSE ALL;DECLARE cursor{number} CURSOR WITH HOLD FOR SELECT 1"),
            10 => format!("DEALLOCATE ALL;PREPARE q{number} AS SELECT echo('{token}', 1, 1)"),
            11 => {
                let padding = "x".repeat(70_000);
                format!("SELECT echo('{token}', 1, 1) /* {padding} */;SET work_mem TO '7MB'")
            }
            12 => "DISCARD TEMP".to_owned(),
            // Within its session a RESET leads to the server's default, not to the client's start-up value.
            _ if self.workload.in_block || self.workload.mode == Mode::Session => {
                "SELECT pg_advisory_lock(9)".to_owned()
            }
            _ => "RESET work_mem".to_owned(),
        };
        self.run(&sql);
        self.workload.dirty = true;
    }

    /// Looks for what others have left.
    fn look_around(&mut self) {
        self.on_clean_ground();
        let name = *self.rng.pick(&["work_mem", "role", "temporary", "locks", "geqo", "search_path"]);
        self.run(&format!("SHOW {name}"));
    }

    fn deallocate(&mut self) {
        self.on_named_ground();
        let name = self.name();
        let sql = match self.rng.below(4) {
            0 => format!("DEALLOCATE {name}"),
            1 if self.workload.start.is_empty() => "DISCARD ALL".to_owned(),
            2 => "DISCARD TEMP".to_owned(),
            _ => "DEALLOCATE ALL".to_owned(),
        };
        self.run(&sql);
    }
}
