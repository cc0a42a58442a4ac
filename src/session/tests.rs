//! Pieces of the session against models that are too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::owed::{Fate, Queue, Reply, Undo};
use super::params::{Parameters, Values};
use super::pipe::{Pipe, SLICES_MAX, Spare};
use crate::prepared::{Names, Registry, Renamed, Shelf, Statement};

/// What can be done to a pipe; amounts are parts of 256 of what there is.
#[derive(Clone, Debug)]
enum Act {
    Fill(usize),
    Pass(u8),
    Discard(u8),
    Insert(usize),
    Send(u8),
    Mark,
    Rewind,
    Unmark,
    Tidy,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..40_000usize).prop_map(Act::Fill),
        4 => any::<u8>().prop_map(Act::Pass),
        3 => any::<u8>().prop_map(Act::Discard),
        3 => (1..200usize).prop_map(Act::Insert),
        6 => any::<u8>().prop_map(Act::Send),
        1 => Just(Act::Mark),
        1 => Just(Act::Rewind),
        1 => Just(Act::Unmark),
        2 => Just(Act::Tidy),
    ]
}

/// A pipe as two queues.
#[derive(Default)]
struct Simple {
    undecided: VecDeque<u8>,
    ready: VecDeque<u8>,
    /// Decided since the mark.
    marked: Option<Vec<u8>>,
}

impl Simple {
    fn decide(&mut self, count: usize, passes: bool) {
        let bytes: Vec<u8> = self.undecided.drain(..count).collect();
        if let Some(marked) = &mut self.marked {
            marked.extend_from_slice(&bytes);
        }
        if passes {
            self.ready.extend(bytes);
        }
    }
}

fn part(of: usize, amount: u8) -> usize {
    of * usize::from(amount) / 255
}

fn sent(pipe: &Pipe, most: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let used = pipe.slices(&mut slices);
    let mut bytes: Vec<u8> = slices[..used].iter().flat_map(|it| it.iter().copied()).collect();
    bytes.truncate(most);
    bytes
}

proptest! {
    #[test]
    fn a_pipe_is_two_queues(acts in vec(act(), 1..60)) {
        let (mut pipe, mut spare, mut simple) = (Pipe::default(), Spare::default(), Simple::default());
        let mut next = 0u8;
        let mut bytes = |count: usize| -> Vec<u8> {
            (0..count).map(|_| { next = next.wrapping_add(1); next }).collect()
        };
        for act in acts {
            match act {
                Act::Fill(count) => {
                    let new = bytes(count);
                    let taken = pipe.fill_from(&new, &mut spare);
                    simple.undecided.extend(&new[..taken]);
                }
                Act::Pass(amount) => {
                    let count = part(simple.undecided.len(), amount);
                    pipe.pass(count);
                    simple.decide(count, true);
                }
                Act::Discard(amount) => {
                    let count = part(simple.undecided.len(), amount);
                    pipe.discard(count);
                    simple.decide(count, false);
                }
                Act::Insert(count) => {
                    let new = bytes(count);
                    pipe.insert(&mut spare, |out| out.extend_from_slice(&new));
                    simple.ready.extend(new);
                }
                Act::Send(amount) => {
                    let bytes = sent(&pipe, part(simple.ready.len(), amount));
                    let expected: Vec<u8> = simple.ready.drain(..bytes.len()).collect();
                    prop_assert_eq!(&bytes, &expected);
                    pipe.sent(bytes.len());
                }
                Act::Mark => {
                    pipe.mark();
                    simple.marked = Some(Vec::new());
                }
                Act::Rewind if simple.ready.is_empty() => {
                    pipe.rewind();
                    let marked = simple.marked.take().unwrap_or_default();
                    simple.undecided = marked.into_iter().chain(simple.undecided.drain(..)).collect();
                }
                Act::Rewind => {}
                Act::Unmark => {
                    pipe.unmark();
                    simple.marked = None;
                }
                Act::Tidy => pipe.tidy(&mut spare),
            }
            prop_assert_eq!(pipe.undecided(), &*simple.undecided.make_contiguous());
            prop_assert_eq!(pipe.ready(), simple.ready.len());
            prop_assert_eq!(pipe.since_mark(), simple.marked.as_ref().map_or(0, Vec::len));
            let given = sent(&pipe, usize::MAX);
            prop_assert!(given.is_empty() == simple.ready.is_empty());
            prop_assert!(simple.ready.iter().zip(&given).all(|(a, b)| a == b));
        }
    }
}

/// What a client asks about one of few names and texts.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Parse { name: u8, text: u8 },
    Close { name: u8 },
    Bind,
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (0..3u8, 0..3u8).prop_map(|(name, text)| Ask::Parse { name, text }),
        (0..3u8).prop_map(|name| Ask::Close { name }),
        Just(Ask::Bind),
    ]
}

/// What a server and its client agree on: names by text, and the texts that the server has.
#[derive(Clone, Default, PartialEq, Debug)]
struct Agreed {
    names: BTreeMap<u8, u8>,
    texts: BTreeSet<u8>,
}

impl Agreed {
    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Parse { name, text } => {
                self.names.insert(name, text);
                self.texts.insert(text);
            }
            Ask::Close { name } => drop(self.names.remove(&name)),
            Ask::Bind => {}
        }
    }
}

/// The same, in advance, as the relay does it.
struct Advance {
    queue: Queue,
    names: Names,
    shelf: Shelf,
    statements: Vec<Arc<Statement>>,
}

impl Advance {
    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Parse { name, text } => {
                let statement = &self.statements[usize::from(text)];
                let before = self.names.replace(&[name], Some(Arc::clone(statement)));
                let renamed = Some(Renamed { name: [name][..].into(), before });
                let here = self.shelf.touch(statement) == crate::prepared::Presence::Here;
                if here {
                    let undo = Undo { renamed, ..Undo::default() };
                    self.queue.push_undoable(Reply::Parse, Fate::Answer(b"1"), undo);
                    return;
                }
                self.shelf.put(Arc::clone(statement));
                let undo = Undo { renamed, parsed: Some(Arc::clone(statement)), closed: None };
                self.queue.push_undoable(Reply::Parse, Fate::Pass, undo);
            }
            Ask::Close { name } => {
                let before = self.names.replace(&[name], None);
                let undo =
                    Undo { renamed: Some(Renamed { name: [name][..].into(), before }), ..Undo::default() };
                self.queue.push_undoable(Reply::Close, Fate::Answer(b"3"), undo);
            }
            Ask::Bind => self.queue.push(Reply::Bind, Fate::Pass),
        }
    }

    fn agreed(&mut self) -> Agreed {
        let text_of = |it: &Arc<Statement>| u8::try_from(it.id() - 1).expect("few statements");
        let name = |it: u8| self.names.find(&[it]).map(|found| (it, text_of(found)));
        let names = (0..3).filter_map(name).collect();
        let shelf = &mut self.shelf;
        let here = |it: &&Arc<Statement>| shelf.touch(it) == crate::prepared::Presence::Here;
        Agreed { names, texts: self.statements.iter().filter(here).map(text_of).collect() }
    }
}

proptest! {
    /// Whatever a batch asked in advance, after its error both sides agree on what went before it.
    #[test]
    fn what_an_error_skips_has_never_been(
        before in vec(ask(), 0..6),
        asked in vec(ask(), 1..10),
        fails_at in any::<prop::sample::Index>(),
    ) {
        let registry = Registry::default();
        let statements = (0..3u8).map(|it| registry.intern(&[it], Default::default)).collect();
        let mut advance = Advance {
            queue: Queue::default(),
            names: Names::default(),
            shelf: Shelf::default(),
            statements,
        };
        let mut agreed = Agreed::default();
        for ask in before {
            advance.ask(ask);
            agreed.ask(ask);
        }
        advance.queue = Default::default();
        asked.iter().for_each(|it| advance.ask(*it));
        advance.queue.push(Reply::Sync, Fate::Pass);
        // Only what the server itself answers can fail.
        let fails_at = fails_at.index(asked.len());
        let mut failed = false;
        for (index, ask) in asked.iter().enumerate() {
            while advance.queue.len() > asked.len() - index + 1 {
                prop_assert!(advance.queue.take_answer().is_some());
            }
            let answered_here = advance.queue.front().is_some_and(|it| matches!(it.fate, Fate::Answer(_)));
            if index >= fails_at && !answered_here {
                failed = true;
                break;
            }
            agreed.ask(*ask);
            if answered_here {
                advance.queue.take_answer();
            } else {
                let tag = if matches!(ask, Ask::Bind) { b'2' } else { b'1' };
                prop_assert!(advance.queue.place(tag).is_ok());
            }
        }
        if failed {
            prop_assert!(!advance.queue.on_error(&mut advance.names, &mut advance.shelf).goes_on);
        }
        prop_assert_eq!(advance.queue.len(), 1, "the Sync is left");
        prop_assert_eq!(advance.agreed(), agreed);
    }
}

/// Reads a literal as PostgreSQL would, whatever `standard_conforming_strings` is.
fn literal(sql: &str) -> Option<(String, &str)> {
    if let Some(rest) = sql.strip_prefix("E'") {
        let mut value = String::new();
        let mut characters = rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => value.push(characters.next()?.1),
                '\'' => return Some((value, &rest[at + 1..])),
                other => value.push(other),
            }
        }
        return None;
    }
    let rest = sql.strip_prefix("pg_catalog.convert_from(pg_catalog.decode('")?;
    let (digits, rest) = rest.split_once("', 'hex'), 'UTF8')")?;
    let byte = |it: &[u8]| u8::from_str_radix(std::str::from_utf8(it).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    Some((String::from_utf8(bytes?).ok()?, rest))
}

proptest! {
    /// A value arrives as it is, and the query holds nothing else.
    #[test]
    fn any_value_of_a_setting_arrives(value in "[^\\x00]{0,40}", other in "['\\\\;$a-c]{0,12}") {
        let reported: Arc<Values> = Arc::new([("application_name", "?")].into_iter().collect());
        let server = Parameters { reported: Arc::clone(&reported), extra: Arc::default() };
        let wanted = [("application_name", value.as_str()), ("x.y", other.as_str())];
        let query = Parameters::of_client(&reported, wanted).query_for(&server).expect("they differ");
        let mut rest = query.strip_prefix("SELECT ").expect("it is one statement");
        let mut found = Vec::new();
        loop {
            rest = rest.strip_prefix("pg_catalog.set_config(").expect("a call");
            let (name, after) = literal(rest).expect("a name");
            let (value, after) = literal(after.strip_prefix(", ").expect("a comma")).expect("a value");
            found.push((name, value));
            rest = after.strip_prefix(", false)").expect("the end of the call");
            match rest.strip_prefix(", ") {
                Some(more) => rest = more,
                None => break,
            }
        }
        prop_assert_eq!(rest, "");
        let expected: Vec<(String, String)> = wanted
            .iter()
            .filter(|(name, value)| *name != "application_name" || *value != "?")
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        prop_assert_eq!(found, expected);
    }
}
