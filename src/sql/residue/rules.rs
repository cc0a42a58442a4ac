//! Which tokens leave which residue.
//!
//! Two kinds of rules: by the head of a statement (SET, LISTEN, …) and by words at any place (`set_config(`,
//! `INTO TEMP`, …). The body of a DO block is read like statements of its own, and so are the strings in it, because
//! EXECUTE may run them.

use super::Residue;
use super::lexer::{Lexer, Strings, Token};

/// DO blocks and strings in them are followed this deep; below that anything is suspected.
const NESTING_MAX: usize = 4;

/// What is suspected where reading stops.
const ANYTHING: Residue = Residue::SETTING
    .union(Residue::ROLE)
    .union(Residue::TEMPORARY)
    .union(Residue::ADVISORY)
    .union(Residue::LISTEN);

/// Is a setting reported by the server?
type Reported<'r> = &'r dyn Fn(&str) -> bool;

/// The residue of `text`, and whether its strings can be read in two ways.
pub(super) fn judge(text: &[u8], strings: Strings, reported: Reported<'_>) -> (Residue, bool) {
    let mut judge =
        Judge { lexer: Lexer::new(text, strings), reported, found: Residue::NONE, context: Context::Sql };
    judge.statements();
    (judge.found, judge.lexer.ambiguous)
}

/// Where the text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    /// The client's own statements.
    Sql,
    /// Inside a DO block, this deep.
    Block { depth: usize },
}

struct Judge<'a, 'r> {
    lexer: Lexer<'a>,
    reported: Reported<'r>,
    found: Residue,
    context: Context,
}

/// The statement that is being read.
#[derive(Clone, Copy, Default)]
struct Statement {
    /// Its string is code.
    is_do: bool,
    /// UPDATE was seen.
    updates: bool,
    /// Names in strings matter: SET and set_config().
    sets: bool,
    /// `CREATE TEMP`, not yet known to be dropped on commit.
    creates_temporary: bool,
    /// WITH was just seen.
    after_with: bool,
    /// How many words of ON COMMIT DROP were just seen.
    on_commit_drop: u8,
    /// CREATE or INTO was just seen, or only words that may stand between them and TEMP.
    expects_temporary: bool,
}

impl<'a> Judge<'a, '_> {
    fn statements(&mut self) {
        while let Some(head) = self.lexer.next() {
            if !matches!(head, Token::Symbol(b';' | b'(')) {
                self.statement(head);
            }
        }
    }

    /// Reads from the first token of a statement to its semicolon.
    fn statement(&mut self, head: Token<'a>) {
        let mut statement = Statement::default();
        let mut token = self.head(head, &mut statement);
        while let Some(current) = token {
            if current == Token::Symbol(b';') || self.starts_statement_in_block(&current) {
                break;
            }
            token = self.anywhere(current, &mut statement);
        }
        if statement.creates_temporary {
            self.found |= Residue::TEMPORARY;
        }
    }

    /// In PL/pgSQL statements also follow these words.
    fn starts_statement_in_block(&self, token: &Token<'_>) -> bool {
        const OPENERS: [&[u8]; 4] = [b"begin", b"then", b"else", b"loop"];
        self.context != Context::Sql && OPENERS.iter().any(|opener| token.is(opener))
    }

    /// Judges a statement by its first words. Returns the first token that is not judged yet.
    fn head(&mut self, head: Token<'a>, statement: &mut Statement) -> Option<Token<'a>> {
        let Token::Word(word) = head else { return Some(head) };
        match LowerCase::of(word).as_slice() {
            b"set" => {
                statement.sets = true;
                self.set()
            }
            b"listen" => self.leaves(Residue::LISTEN),
            b"load" => self.leaves(Residue::LIBRARY),
            b"prepare" => self.prepare(),
            b"declare" if self.context == Context::Sql => self.declare(),
            b"deallocate" => self.deallocate(),
            b"discard" => self.discard(),
            b"do" => {
                statement.is_do = true;
                self.lexer.next()
            }
            _ => Some(head),
        }
    }

    fn leaves(&mut self, residue: Residue) -> Option<Token<'a>> {
        self.found |= residue;
        self.lexer.next()
    }

    /// The text ends where a SET has only begun: in a block the rest is an expression that EXECUTE appends.
    fn cut_short(&mut self) -> Option<Token<'a>> {
        if self.context != Context::Sql {
            self.found |= Residue::SETTING | Residue::ROLE;
        }
        None
    }

    fn set(&mut self) -> Option<Token<'a>> {
        let Some(mut token) = self.lexer.next() else { return self.cut_short() };
        // `SET SESSION SESSION AUTHORIZATION` is in PostgreSQL's grammar.
        while token.is(b"session") {
            let Some(next) = self.lexer.next() else { return self.cut_short() };
            token = next;
            if token.is(b"authorization") {
                return self.set_role();
            }
            if token.is(b"characteristics") {
                return self.leaves(Residue::SETTING);
            }
        }
        if token.is(b"local") || token.is(b"constraints") || token.is(b"transaction") {
            return match self.lexer.next() {
                // `SET local.x`: a setting of that name.
                Some(Token::Symbol(b'.')) => self.leaves(Residue::SETTING),
                next => next,
            };
        }
        if token.is(b"role") {
            return self.set_role();
        }
        self.set_name(token)
    }

    /// After SET ROLE or SET SESSION AUTHORIZATION. DEFAULT goes back to what the session began with; NONE does not where
    /// ALTER ROLE … SET role has given it another role.
    fn set_role(&mut self) -> Option<Token<'a>> {
        let mut token = self.lexer.next();
        if token == Some(Token::Symbol(b'.')) {
            // `SET role.x`: a setting of that name.
            return self.leaves(Residue::SETTING);
        }
        if token.is_some_and(|it| it.is(b"to") || it == Token::Symbol(b'=')) {
            token = self.lexer.next();
        }
        let Some(token) = token else { return self.cut_short() };
        if !token.is(b"default") {
            self.found |= Residue::ROLE;
        }
        Some(token)
    }

    /// After SET or SET SESSION: the setting's name, perhaps in the words of the SQL standard, and its value.
    fn set_name(&mut self, first: Token<'a>) -> Option<Token<'a>> {
        let Some(mut name) = first.name() else {
            // In a block, format's `%I` or `%s` may become any name.
            let any = if self.context == Context::Sql { Residue::NONE } else { Residue::ROLE };
            return self.leaves(Residue::SETTING | any);
        };
        let mut token = self.lexer.next();
        let mut qualified = false;
        if first.is(b"u") && token == Some(Token::Symbol(b'&')) {
            // U&"…": its escapes may spell any name.
            return self.leaves(Residue::SETTING | Residue::ROLE);
        }
        match () {
            () if first.is(b"time") && token.is_some_and(|it| it.is(b"zone")) => name = b"timezone",
            () if first.is(b"names") => name = b"client_encoding",
            () if first.is(b"schema") => name = b"search_path",
            () if first.is(b"xml") => name = b"xmloption",
            () => {}
        }
        while token == Some(Token::Symbol(b'.')) {
            qualified = true;
            self.lexer.next();
            token = self.lexer.next();
        }
        if token.is_some_and(|it| it.is(b"to") || it.is(b"zone") || it == Token::Symbol(b'=')) {
            token = self.lexer.next();
        }
        let resets = token.is_some_and(|it| it.is(b"default"));
        if !resets {
            // A setting with a dot belongs to an extension or is made up; PostgreSQL reports none of them.
            self.found |= if qualified { Residue::SETTING } else { self.setting(name) };
        }
        token
    }

    /// What a change of this setting leaves behind.
    fn setting(&self, name: &[u8]) -> Residue {
        let name = LowerCase::of(name);
        match name.as_slice() {
            b"role" | b"session_authorization" => Residue::ROLE,
            name => match std::str::from_utf8(name) {
                Ok(name) if (self.reported)(name) => Residue::NONE,
                _ => Residue::SETTING,
            },
        }
    }

    fn prepare(&mut self) -> Option<Token<'a>> {
        let name = self.lexer.next()?;
        let next = self.lexer.next();
        let of_transaction = name.is(b"transaction") && matches!(next, Some(Token::Text(_)));
        if !of_transaction {
            self.found |= Residue::PREPARED;
        }
        next
    }

    /// DECLARE … CURSOR WITH HOLD FOR. What follows FOR is a query of any kind.
    fn declare(&mut self) -> Option<Token<'a>> {
        let mut with = false;
        loop {
            let token = self.lexer.next()?;
            if token.is(b"for") || token == Token::Symbol(b';') {
                return Some(token);
            }
            if with && token.is(b"hold") {
                self.found |= Residue::CURSOR;
            }
            with = token.is(b"with");
        }
    }

    fn deallocate(&mut self) -> Option<Token<'a>> {
        let mut token = self.lexer.next()?;
        if token.is(b"prepare") {
            token = self.lexer.next()?;
        }
        self.found |= if token.is(b"all") { Residue::DEALLOCATES_ALL } else { Residue::DEALLOCATES };
        self.lexer.next()
    }

    fn discard(&mut self) -> Option<Token<'a>> {
        let token = self.lexer.next()?;
        if token.is(b"all") {
            self.found |= Residue::DEALLOCATES_ALL;
        }
        Some(token)
    }

    /// Judges a token by itself, wherever it stands. Returns the next one.
    fn anywhere(&mut self, token: Token<'a>, statement: &mut Statement) -> Option<Token<'a>> {
        match token {
            Token::Text(text) => self.text(text, *statement),
            Token::Symbol(_) => statement.expects_temporary = false,
            Token::Word(name) => {
                self.keyword(&token, statement);
                return self.named(name, statement);
            }
            Token::Quoted(name) => {
                statement.expects_temporary = false;
                return self.named(name, statement);
            }
        }
        self.lexer.next()
    }

    fn text(&mut self, text: &'a [u8], statement: Statement) {
        if statement.sets && contains_ignore_case(text, PG_TEMP) {
            self.found |= Residue::TEMPORARY;
        }
        let depth = match self.context {
            Context::Sql if statement.is_do => 1,
            Context::Sql => return,
            Context::Block { depth } => depth + 1,
        };
        if depth > NESTING_MAX {
            self.found |= ANYTHING;
            return;
        }
        self.found |= self.inside(text, depth);
        // Between dollar quotes it says what it says; between single ones it has them doubled.
        if memchr::memmem::find(text, b"''").is_some() {
            let single = undoubled(text);
            self.found |= self.inside(&single, depth);
        }
    }

    /// What a text in a block leaves behind, read as statements.
    fn inside(&self, text: &[u8], depth: usize) -> Residue {
        let lexer = Lexer::new(text, Strings::Standard);
        let context = Context::Block { depth };
        let mut inner = Judge { lexer, reported: self.reported, found: Residue::NONE, context };
        inner.statements();
        inner.found
    }

    /// CREATE or INTO [OR REPLACE] [LOCAL|GLOBAL] TEMP, and ON COMMIT DROP.
    fn keyword(&mut self, token: &Token<'_>, statement: &mut Statement) {
        const BETWEEN: [&[u8]; 4] = [b"or", b"replace", b"local", b"global"];
        const DROPS: [&[u8]; 3] = [b"on", b"commit", b"drop"];
        if statement.expects_temporary && (token.is(b"temp") || token.is(b"temporary")) {
            statement.creates_temporary = true;
        }
        statement.updates |= token.is(b"update");
        if self.context != Context::Sql && statement.after_with && token.is(b"hold") {
            self.found |= Residue::CURSOR;
        }
        statement.after_with = token.is(b"with");
        statement.expects_temporary = token.is(b"create")
            || token.is(b"into")
            || (statement.expects_temporary && BETWEEN.iter().any(|word| token.is(word)));
        statement.on_commit_drop = match DROPS.get(usize::from(statement.on_commit_drop)) {
            Some(word) if token.is(word) => statement.on_commit_drop + 1,
            _ => u8::from(token.is(b"on")),
        };
        if usize::from(statement.on_commit_drop) == DROPS.len() {
            statement.creates_temporary = false;
        }
    }

    /// Judges functions and schemas by name. Returns the next token.
    fn named(&mut self, name: &'a [u8], statement: &mut Statement) -> Option<Token<'a>> {
        if name.eq_ignore_ascii_case(SET_CONFIG) {
            statement.sets = true;
            return self.set_config();
        }
        // The view has a rule that turns the UPDATE into set_config().
        if statement.updates && name.eq_ignore_ascii_case(b"pg_settings") {
            self.found |= Residue::SETTING | Residue::ROLE;
        }
        self.found |= of_name(name);
        self.lexer.next()
    }

    /// After `set_config`: reads its arguments as far as they are literals. Returns the token after them.
    fn set_config(&mut self) -> Option<Token<'a>> {
        let token = self.lexer.next();
        if token != Some(Token::Symbol(b'(')) {
            return token;
        }
        let (mut argument, mut depth) = (0usize, 0usize);
        let (mut name, mut local) = (Argument::Absent, Argument::Absent);
        let end = loop {
            let token = self.lexer.next();
            match token {
                None | Some(Token::Symbol(b';')) => break token,
                Some(Token::Symbol(b')')) if depth == 0 => break self.lexer.next(),
                Some(Token::Symbol(b',')) if depth == 0 => {
                    argument += 1;
                    continue;
                }
                Some(Token::Symbol(b'(' | b'[')) => depth += 1,
                Some(Token::Symbol(b')' | b']')) => depth = depth.saturating_sub(1),
                Some(token) => self.inside_set_config(token),
            }
            match (argument, token) {
                (0, Some(token)) => name = name.and(token),
                (2, Some(token)) => local = local.and(token),
                _ => {}
            }
        };
        self.found |= match (local, name) {
            (Argument::Literal(local), _) if local.is(b"true") || local == Token::Text(b"true") => {
                Residue::NONE
            }
            (_, Argument::Literal(Token::Text(name))) if !name.contains(&b'\\') => self.setting(name),
            // It may be any setting, role among them.
            _ => Residue::SETTING | Residue::ROLE,
        };
        end
    }

    fn inside_set_config(&mut self, token: Token<'_>) {
        match token {
            Token::Text(text) if contains_ignore_case(text, PG_TEMP) => self.found |= Residue::TEMPORARY,
            // Not followed into itself: nesting would have no limit.
            Token::Word(name) | Token::Quoted(name) if name.eq_ignore_ascii_case(SET_CONFIG) => {
                self.found |= Residue::SETTING | Residue::ROLE;
            }
            Token::Word(name) | Token::Quoted(name) => self.found |= of_name(name),
            _ => {}
        }
    }
}

/// An argument of `set_config` as far as it has been read.
#[derive(Clone, Copy)]
enum Argument<'a> {
    Absent,
    Literal(Token<'a>),
    Expression,
}

impl<'a> Argument<'a> {
    fn and(self, token: Token<'a>) -> Self {
        match self {
            Self::Absent => Self::Literal(token),
            Self::Literal(_) | Self::Expression => Self::Expression,
        }
    }
}

const SET_CONFIG: &[u8] = b"set_config";

/// The temporary schema; its real name goes on with a number.
const PG_TEMP: &[u8] = b"pg_temp";

/// What the mere use of a function or schema leaves behind.
fn of_name(name: &[u8]) -> Residue {
    const LOCKS: [&[u8]; 4] = [
        b"pg_advisory_lock",
        b"pg_advisory_lock_shared",
        b"pg_try_advisory_lock",
        b"pg_try_advisory_lock_shared",
    ];
    if LOCKS.iter().any(|lock| name.eq_ignore_ascii_case(lock)) {
        return Residue::ADVISORY;
    }
    let temporary = name.get(..PG_TEMP.len()).is_some_and(|start| start.eq_ignore_ascii_case(PG_TEMP));
    if temporary { Residue::TEMPORARY } else { Residue::NONE }
}

/// A string's text with one single quote for two.
fn undoubled(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        out.push(*first);
        rest = if *first == b'\'' { after.strip_prefix(b"'").unwrap_or(after) } else { after };
    }
    out
}

fn contains_ignore_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// PostgreSQL cuts names off at this length: NAMEDATALEN in src/include/pg_config_manual.h.
const NAME_BYTES_MAX: usize = 63;

/// A name in lower case, on the stack.
struct LowerCase {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl LowerCase {
    fn of(name: &[u8]) -> Self {
        let length = name.len().min(NAME_BYTES_MAX);
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..length].copy_from_slice(&name[..length]);
        bytes[..length].make_ascii_lowercase();
        Self { bytes, length }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
