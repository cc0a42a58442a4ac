//! The statement registry: text and types to server names, each client's names, each server's most recently used.
//!
//! Two statements are the same only if their texts and parameter types are equal to the byte; hashes merely find
//! them. It sends nothing: who finds a statement missing on a server sends the Parse.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::sql::residue::Residue;

/// What every server-side name begins with; a number follows.
pub const NAME_PREFIX: &str = "PGWEIR_";

/// A statement as it is known to all clients and servers: one text with one list of parameter types.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    name: Box<str>,
    rest: Bytes,
    residue: Residue,
}

impl Statement {
    /// Its number, never used again for another.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name on every server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What follows the name in its Parse: text, zero byte, types.
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// What it leaves behind on a server when executed.
    pub fn residue(&self) -> Residue {
        self.residue
    }
}

/// All statements that some client or server knows, shared by all workers.
#[derive(Debug, Default)]
pub struct Registry {
    statements: DashMap<Bytes, Arc<Statement>>,
    last_id: AtomicU64,
}

impl Registry {
    /// The statement with this text and these types, made if it is new.
    pub fn intern(&self, rest: &[u8], residue: impl FnOnce() -> Residue) -> Arc<Statement> {
        if let Some(known) = self.statements.get(rest) {
            return Arc::clone(&known);
        }
        let rest = Bytes::copy_from_slice(rest);
        let made = || {
            let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
            let mut name = String::from(NAME_PREFIX);
            // Writing to a String can't fail.
            let _ = write!(name, "{id}");
            Arc::new(Statement { id, name: name.into(), rest: rest.clone(), residue: residue() })
        };
        Arc::clone(&self.statements.entry(rest.clone()).or_insert_with(made))
    }

    /// A statement under the number that it has in the process before this one, whose servers know it by that name.
    /// Statements of our own are numbered on from there. `None`: the number is another statement's, or none at all.
    pub fn adopt(&self, id: u64, rest: &[u8], residue: Residue) -> Option<Arc<Statement>> {
        if id == 0 {
            return None;
        }
        self.last_id.fetch_max(id, Ordering::Relaxed);
        let rest = Bytes::copy_from_slice(rest);
        let name = format!("{NAME_PREFIX}{id}").into();
        let made = || Arc::new(Statement { id, name, rest: rest.clone(), residue });
        let known = Arc::clone(&self.statements.entry(rest.clone()).or_insert_with(made));
        (known.id == id).then_some(known)
    }

    /// All statements.
    pub fn all(&self) -> Vec<Arc<Statement>> {
        self.statements.iter().map(|it| Arc::clone(&it)).collect()
    }

    /// Forgets the statements that no client and no server knows any longer.
    pub fn sweep(&self) {
        self.statements.retain(|_, statement| Arc::strong_count(statement) > 1);
    }
}

/// A client's own names for statements. It takes no memory while there are none.
///
/// They are as many as the client keeps, as in PostgreSQL: one forgotten would be missing when it comes back to it. What
/// they mean is shared; SHOW CLIENTS and a metric have their number.
#[derive(Debug, Default)]
pub struct Names(Option<Box<Meanings>>);

type Meanings = HashMap<Box<[u8]>, Arc<Statement>, RandomState>;

/// What a name meant before it was given another meaning or none.
#[derive(Debug)]
pub struct Renamed {
    /// The name.
    pub name: Box<[u8]>,
    /// What it meant; `None`: nothing.
    pub before: Option<Arc<Statement>>,
}

impl Names {
    /// What the client calls `name`.
    pub fn find(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.0.as_ref()?.get(name)
    }

    /// Gives `name` a new meaning or none, and returns the one it had.
    pub fn replace(&mut self, name: &[u8], statement: Option<Arc<Statement>>) -> Option<Arc<Statement>> {
        match statement {
            Some(statement) => self.0.get_or_insert_default().insert(name.into(), statement),
            None => self.0.as_mut()?.remove(name),
        }
    }

    /// All names and what they mean.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.0.iter().flat_map(|it| it.iter()).map(|(name, statement)| (&**name, statement))
    }

    /// The client's name for the statement with this server-side name.
    pub fn name_of(&self, server_name: &str) -> Option<&[u8]> {
        self.0.as_ref()?.iter().find(|(_, it)| it.name() == server_name).map(|(name, _)| &**name)
    }

    /// Forgets them all.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// How many names the client has.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |it| it.len())
    }

    /// True when the client has no names.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether a server has a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It does.
    Here,
    /// It may, or has one that no longer serves: close it before parsing it again.
    Stale,
    /// It does not.
    Absent,
}

#[derive(Debug)]
struct Held {
    statement: Arc<Statement>,
    used: u64,
    stale: bool,
}

/// The statements that one server has prepared.
#[derive(Debug, Default)]
pub struct Shelf {
    held: HashMap<u64, Held, RandomState>,
    /// Counts uses; the lowest stamp is the least recently used.
    clock: u64,
}

impl Shelf {
    /// Whether the server has the statement; counts as a use.
    pub fn touch(&mut self, statement: &Statement) -> Presence {
        self.clock += 1;
        match self.held.get_mut(&statement.id) {
            None => Presence::Absent,
            Some(held) => {
                held.used = self.clock;
                if held.stale { Presence::Stale } else { Presence::Here }
            }
        }
    }

    /// The server has it from now on.
    pub fn put(&mut self, statement: Arc<Statement>) {
        self.clock += 1;
        self.held.insert(statement.id, Held { statement, used: self.clock, stale: false });
    }

    /// The same of one that must be parsed anew.
    pub fn put_stale(&mut self, statement: Arc<Statement>) {
        let id = statement.id;
        self.put(statement);
        if let Some(held) = self.held.get_mut(&id) {
            held.stale = true;
        }
    }

    /// All of them and whether they must be parsed anew, the least recently used first.
    pub fn by_use(&self) -> Vec<(&Arc<Statement>, bool)> {
        let mut held: Vec<&Held> = self.held.values().collect();
        held.sort_unstable_by_key(|it| it.used);
        held.into_iter().map(|it| (&it.statement, it.stale)).collect()
    }

    /// The server does not have it any longer.
    pub fn remove(&mut self, statement: &Statement) {
        self.held.remove(&statement.id);
    }

    /// Takes out the least recently used statement if there are more than `most`.
    pub fn evict(&mut self, most: usize) -> Option<Arc<Statement>> {
        if self.held.len() <= most {
            return None;
        }
        let id = *self.held.iter().min_by_key(|(_, it)| it.used)?.0;
        self.held.remove(&id).map(|it| it.statement)
    }

    /// All must be parsed anew: a DEALLOCATE ALL is on its way whose success is not known yet.
    pub fn mark_all_stale(&mut self) {
        self.held.values_mut().for_each(|it| it.stale = true);
    }

    /// The server has none any longer.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// How many statements the server has.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True when the server has none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intern(registry: &Registry, rest: &[u8]) -> Arc<Statement> {
        registry.intern(rest, Residue::default)
    }

    #[test]
    fn equal_texts_and_types_share_a_name_and_different_ones_do_not() {
        let registry = Registry::default();
        let one = intern(&registry, b"select $1\0\0\x01\0\0\0\x17");
        assert!(Arc::ptr_eq(&one, &intern(&registry, b"select $1\0\0\x01\0\0\0\x17")));
        assert_ne!(one.name(), intern(&registry, b"select $1\0\0\x01\0\0\0\x19").name());
        assert_ne!(one.name(), intern(&registry, b"select $1\0\0\0").name());
    }

    #[test]
    fn a_statement_nobody_knows_is_swept() {
        let registry = Registry::default();
        let kept = intern(&registry, b"kept\0\0\0");
        intern(&registry, b"gone\0\0\0");
        registry.sweep();
        assert_eq!(registry.statements.len(), 1);
        assert!(Arc::ptr_eq(&kept, &intern(&registry, b"kept\0\0\0")));
    }

    #[test]
    fn the_least_recently_used_statement_is_evicted() {
        let (registry, mut shelf) = (Registry::default(), Shelf::default());
        let all: Vec<_> = [&b"a"[..], b"b", b"c"].iter().map(|it| intern(&registry, it)).collect();
        all.iter().for_each(|it| shelf.put(Arc::clone(it)));
        assert_eq!(shelf.touch(&all[0]), Presence::Here);
        assert!(shelf.evict(3).is_none());
        assert_eq!(shelf.evict(2).map(|it| it.id()), Some(all[1].id()));
        assert_eq!(shelf.touch(&all[1]), Presence::Absent);
    }

    #[test]
    fn a_name_can_be_given_back_its_old_meaning() {
        let (registry, mut names) = (Registry::default(), Names::default());
        let (one, two) = (intern(&registry, b"1"), intern(&registry, b"2"));
        assert!(names.replace(b"s", Some(Arc::clone(&one))).is_none());
        let old = names.replace(b"s", Some(two));
        names.replace(b"s", old);
        assert_eq!(names.find(b"s").map(|it| it.id()), Some(one.id()));
        assert_eq!(names.name_of(one.name()), Some(&b"s"[..]));
        names.replace(b"s", None);
        assert!(names.is_empty());
    }
}
