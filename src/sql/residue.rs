//! What a statement leaves behind on a server connection that must not reach the next client.
//!
//! Owns the judgement of SQL text ([`of_statement`]) and of command tags ([`of_tag`]), and the statements that undo
//! what was found ([`Residue::cleaning`]). It refuses to understand SQL beyond that: it sees no function's insides,
//! and where text is ambiguous it errs towards cleaning, which costs one round trip. Invariant: text without one of
//! the words it looks for is never read twice, and no text makes it panic.

use std::fmt;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, packed};

mod lexer;
mod rules;
#[cfg(test)]
mod tests;

use lexer::Strings;

/// How much of a statement is looked at. What lies beyond is judged by its command tags, see [`TagMeaning::leaves`].
pub const STATEMENT_SCAN_BYTES_MAX: usize = 64 * 1024;

/// A set of kinds of session state, and marks about prepared statements that pass by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Residue(u16);

impl Residue {
    /// Nothing stays.
    pub const NONE: Self = Self(0);
    /// A changed setting that the server does not report.
    pub const SETTING: Self = Self(1);
    /// Another role or session user.
    pub const ROLE: Self = Self(1 << 1);
    /// A temporary table, view, sequence or function.
    pub const TEMPORARY: Self = Self(1 << 2);
    /// A session-level advisory lock.
    pub const ADVISORY: Self = Self(1 << 3);
    /// A subscription to notifications.
    pub const LISTEN: Self = Self(1 << 4);
    /// A cursor `WITH HOLD`.
    pub const CURSOR: Self = Self(1 << 5);
    /// A statement prepared by SQL's PREPARE, whose name the pooler does not manage.
    pub const PREPARED: Self = Self(1 << 6);
    /// A loaded library, with hooks that nothing removes.
    pub const LIBRARY: Self = Self(1 << 7);
    /// Mark: DEALLOCATE of one name.
    pub const DEALLOCATES: Self = Self(1 << 8);
    /// Mark: DEALLOCATE ALL or DISCARD ALL: the server forgets every prepared statement.
    pub const DEALLOCATES_ALL: Self = Self(1 << 9);

    const STATE: u16 = 0xff;

    /// As a number, for another process.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// What [`Self::bits`] gave.
    pub const fn of_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Whether no session state stays. Marks do not count.
    pub fn is_empty(self) -> bool {
        self.0 & Self::STATE == 0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This without what `other` names.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in this.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The session state alone, without the marks.
    #[must_use]
    pub const fn state(self) -> Self {
        Self(self.0 & Self::STATE)
    }

    /// Whether no statement undoes it, so that the server connection must be closed.
    pub fn needs_close(self) -> bool {
        self.contains(Self::LIBRARY)
    }

    /// The simple query that undoes the state; empty where there is none. It keeps the statements prepared through
    /// the protocol unless SQL's own PREPARE mixed with them: then `DEALLOCATE ALL` is in it, and the caller must
    /// forget the server's prepared statements.
    ///
    /// The parts are those of DISCARD ALL, in its order (`DiscardAll` in PostgreSQL's src/backend/commands/discard.c).
    pub fn cleaning(self) -> String {
        const PARTS: [(Residue, &str); 7] = [
            (Residue::CURSOR, "CLOSE ALL;"),
            (Residue::ROLE, "SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;"),
            (Residue::SETTING, "RESET ALL;"),
            (Residue::PREPARED, "DEALLOCATE ALL;"),
            (Residue::LISTEN, "UNLISTEN *;"),
            (Residue::ADVISORY, "SELECT pg_catalog.pg_advisory_unlock_all();"),
            (Residue::TEMPORARY, "DISCARD TEMP;"),
        ];
        PARTS.iter().filter(|(kind, _)| self.contains(*kind)).map(|(_, sql)| *sql).collect()
    }
}

impl std::ops::BitOr for Residue {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl std::ops::BitOrAssign for Residue {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Residue, &str); 10] = [
            (Residue::SETTING, "setting"),
            (Residue::ROLE, "role"),
            (Residue::TEMPORARY, "temporary object"),
            (Residue::ADVISORY, "advisory lock"),
            (Residue::LISTEN, "listen"),
            (Residue::CURSOR, "cursor"),
            (Residue::PREPARED, "prepared statement"),
            (Residue::LIBRARY, "library"),
            (Residue::DEALLOCATES, "deallocates"),
            (Residue::DEALLOCATES_ALL, "deallocates all"),
        ];
        if self.0 == 0 {
            return f.write_str("nothing");
        }
        let mut separator = "";
        for (_, name) in NAMES.iter().filter(|(kind, _)| self.contains(*kind)) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Debug for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Residue({self})")
    }
}

/// Whether every version of PostgreSQL from 9.0 on reports this setting (its name in lower case): `GUC_REPORT` in
/// src/backend/utils/misc/guc_tables.c. Later ones report more: 14 `default_transaction_read_only`, 18 `search_path`.
pub fn is_always_reported(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "application_name",
        "client_encoding",
        "datestyle",
        "intervalstyle",
        "standard_conforming_strings",
        "timezone",
    ];
    NAMES.contains(&name)
}

/// What `text`, one or several statements, leaves behind once it has run. `reported` says of a setting's name (in
/// lower case) whether the server reports its changes, so that the parameter tracker follows it.
///
/// Only the first [`STATEMENT_SCAN_BYTES_MAX`] bytes are read. For longer text (or where only the beginning is at
/// hand) also ask [`of_tag`] of every CommandComplete.
pub fn of_statement(text: &[u8], reported: impl Fn(&str) -> bool) -> Residue {
    let text = &text[..text.len().min(STATEMENT_SCAN_BYTES_MAX)];
    if !suspicious(text) {
        return Residue::NONE;
    }
    let reported: &dyn Fn(&str) -> bool = &reported;
    let (mut found, ambiguous) = rules::judge(text, Strings::Standard, reported);
    if ambiguous {
        // A backslash in a plain string: with standard_conforming_strings off it hides what follows, or reveals it.
        found |= rules::judge(text, Strings::Escaped, reported).0;
    }
    found
}

/// What a FunctionCall of the function with this OID may leave behind. Only those for large objects are known to leave
/// nothing: src/include/catalog/pg_proc.dat.
pub fn of_function(oid: u32) -> Residue {
    match oid {
        715 | 764 | 765 | 767 | 952..=958 | 964 | 1004 | 3170..=3172 => Residue::NONE,
        _ => Residue::SETTING | Residue::ROLE | Residue::TEMPORARY | Residue::ADVISORY,
    }
}

/// What a command tag says about the state of a server's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TagMeaning {
    /// What may stay behind. To be believed only for text that [`of_statement`] has not seen whole: the tag `SET`
    /// also comes from SET LOCAL and from settings that are tracked.
    pub leaves: Residue,
    /// What is gone for certain, also where the text was seen. It undoes what earlier statements left, not what a
    /// later one of the same pipeline will leave.
    pub clears: Residue,
    /// Whether the server has forgotten every prepared statement.
    pub deallocates_all: bool,
}

/// Reads the tag of a CommandComplete (without its terminating zero).
pub fn of_tag(tag: &[u8]) -> TagMeaning {
    let leaves = |leaves| TagMeaning { leaves, ..TagMeaning::default() };
    let clears = |clears| TagMeaning { clears, ..TagMeaning::default() };
    // Row counts follow SELECT and the like, so that only a prefix can be compared.
    match tag {
        b"SET" => leaves(Residue::SETTING | Residue::ROLE),
        b"LISTEN" => leaves(Residue::LISTEN),
        b"PREPARE" => leaves(Residue::PREPARED),
        b"DECLARE CURSOR" => leaves(Residue::CURSOR),
        b"LOAD" => leaves(Residue::LIBRARY),
        b"DO" | b"CALL" => leaves(Residue::SETTING | Residue::ROLE | Residue::TEMPORARY | Residue::ADVISORY),
        b"CREATE TABLE" | b"CREATE TABLE AS" | b"CREATE VIEW" | b"CREATE SEQUENCE" | b"CREATE FUNCTION" => {
            leaves(Residue::TEMPORARY)
        }
        b"DISCARD ALL" => TagMeaning {
            leaves: Residue::NONE,
            clears: Residue(Residue::STATE).without(Residue::LIBRARY),
            deallocates_all: true,
        },
        b"DEALLOCATE ALL" => {
            TagMeaning { clears: Residue::PREPARED, deallocates_all: true, ..TagMeaning::default() }
        }
        b"DISCARD TEMP" => clears(Residue::TEMPORARY),
        b"CLOSE CURSOR ALL" => clears(Residue::CURSOR),
        // SELECT INTO a temporary table, set_config() or an advisory lock.
        _ if tag.starts_with(b"SELECT") => {
            leaves(Residue::SETTING | Residue::ROLE | Residue::TEMPORARY | Residue::ADVISORY)
        }
        _ => TagMeaning::default(),
    }
}

/// Whether the text must be read token by token. False for nearly all text, and then decided in some ten
/// nanoseconds: no word of [`FRAGMENTS`] anywhere, a harmless first word, and no second statement.
fn suspicious(text: &[u8]) -> bool {
    harmful_head(text) || has_second_statement(text) || has_fragment(text)
}

/// Whether more than blanks follow a semicolon; it may well be one in a string.
fn has_second_statement(text: &[u8]) -> bool {
    memchr::memchr(b';', text).is_some_and(|at| text[at..].iter().any(|b| *b != b';' && !lexer::is_blank(*b)))
}

/// Whether the first word is one that the rules judge by its place at the head of a statement.
fn harmful_head(text: &[u8]) -> bool {
    const HEADS: [&[u8]; 8] =
        [b"set", b"listen", b"prepare", b"declare", b"deallocate", b"discard", b"load", b"do"];
    let text = lexer::skip_comments(text);
    if !matches!(text.first(), Some(b'd' | b'D' | b's' | b'S' | b'l' | b'L' | b'p' | b'P')) {
        return false;
    }
    let word = &text[..text.iter().take_while(|b| b.is_ascii_alphabetic()).count()];
    HEADS.iter().any(|head| word.eq_ignore_ascii_case(head))
}

/// Pieces of the words that matter at any place: `temp`, `pg_temp`, `advisory`, `set_config`, `pg_settings`. Four
/// bytes each, so that all their spellings in upper and lower case fit into one vectorised search.
const FRAGMENTS: [&[u8; 4]; 4] = [b"temp", b"advi", b"t_co", b"g_se"];

fn has_fragment(text: &[u8]) -> bool {
    static SEARCH: OnceLock<Search> = OnceLock::new();
    match SEARCH.get_or_init(Search::new) {
        // The vectorised search wants a few bytes more than a pattern; below that it has a slower road of its own.
        Search::Packed(searcher) => searcher.find(text).is_some(),
        Search::Automaton(Some(automaton)) => automaton.is_match(text),
        // Not reached with these patterns; reading every statement is slow but right.
        Search::Automaton(None) => true,
    }
}

enum Search {
    Packed(packed::Searcher),
    /// For processors without the vector instructions.
    Automaton(Option<Box<AhoCorasick>>),
}

impl Search {
    fn new() -> Self {
        let spellings = FRAGMENTS.iter().flat_map(|fragment| spellings(fragment));
        match packed::Config::new().builder().extend(spellings).build() {
            Some(searcher) => Self::Packed(searcher),
            None => {
                let automaton = AhoCorasick::builder().ascii_case_insensitive(true).build(FRAGMENTS);
                Self::Automaton(automaton.ok().map(Box::new))
            }
        }
    }
}

/// All ways to write `fragment` in upper and lower case.
fn spellings(fragment: &[u8; 4]) -> Vec<[u8; 4]> {
    let mut all: Vec<[u8; 4]> = (0..16u8)
        .map(|upper| {
            std::array::from_fn(|i| {
                if upper & (1 << i) == 0 { fragment[i] } else { fragment[i].to_ascii_uppercase() }
            })
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}
