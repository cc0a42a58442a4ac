//! The statements that the model of PostgreSQL understands. Keywords are in upper case, names in lower case.

/// A statement of the model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Statement {
    /// `SELECT echo('token', rows, bytes)`: that many rows, each with the token and padding.
    Echo {
        token: Argument,
        rows: usize,
        bytes: usize,
    },
    /// `SELECT fail('token')`.
    Fail(String),
    /// `SELECT slow('token')`: takes its time, and can be cancelled.
    Slow(String),
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackTo,
    /// SET and set_config(); no value: DEFAULT.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
    },
    /// `SELECT set_config(..), set_config(..)`.
    SetConfig(Vec<(String, String)>),
    ResetAll,
    /// `None`: RESET ROLE and SET SESSION AUTHORIZATION DEFAULT.
    SetRole(Option<String>),
    Show(String),
    CreateTemp(String),
    Lock(String),
    UnlockAll,
    Listen(String),
    UnlistenAll,
    Notify {
        channel: String,
        payload: String,
    },
    /// `DECLARE name CURSOR WITH HOLD FOR …`.
    DeclareHold(String),
    CloseAll,
    Prepare {
        name: String,
        text: String,
    },
    Execute(String),
    Deallocate(String),
    DeallocateAll,
    DiscardAll,
    DiscardTemp,
    /// `COPY t FROM STDIN`.
    CopyIn,
    /// `COPY echo('token', rows, bytes) TO STDOUT`.
    CopyOut {
        token: String,
        rows: usize,
        bytes: usize,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Argument {
    Literal(String),
    Parameter,
}

impl Statement {
    /// Whether a failed transaction block accepts it.
    pub fn is_exit(&self) -> bool {
        matches!(self, Self::Commit | Self::Rollback | Self::RollbackTo)
    }

    /// Whether it returns rows.
    pub fn returns_rows(&self) -> bool {
        matches!(
            self,
            Self::Echo { .. }
                | Self::Fail(_)
                | Self::Slow(_)
                | Self::SetConfig(_)
                | Self::Show(_)
                | Self::Lock(_)
                | Self::UnlockAll
                | Self::Execute(_)
        )
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Text(String),
    Symbol(char),
}

/// The statements of a text; `Err`: a syntax error.
pub fn parse(text: &str) -> Result<Vec<Statement>, String> {
    split(text).into_iter().filter(|it| !blank(it)).map(statement).collect()
}

fn blank(text: &str) -> bool {
    tokens(text).is_empty()
}

/// Cuts at semicolons outside of strings.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escapes, mut skip) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if skip => skip = false,
            b'\\' if quoted && escapes => skip = true,
            b'\'' => {
                escapes = !quoted && at > 0 && text.as_bytes()[at - 1] == b'E';
                quoted = !quoted;
            }
            b';' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut out, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
            continue;
        }
        let Some(first) = rest.chars().next() else { return out };
        let (token, used) = if let Some(escaped) = rest.strip_prefix("E'") {
            string(escaped, true, 2)
        } else if first == '\'' {
            string(&rest[1..], false, 1)
        } else if first.is_ascii_alphanumeric() || matches!(first, '_' | '$') {
            let end = rest.find(|it: char| !it.is_ascii_alphanumeric() && !matches!(it, '_' | '$' | '.'));
            let end = end.unwrap_or(rest.len());
            (Token::Word(&rest[..end]), end)
        } else {
            (Token::Symbol(first), first.len_utf8())
        };
        out.push(token);
        rest = &rest[used..];
    }
}

/// A string literal after its opening quote, of `opening` bytes.
fn string(text: &str, escapes: bool, opening: usize) -> (Token<'static>, usize) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => return (Token::Text(value), opening + at + 1),
            '\\' if escapes => value.extend(characters.next().map(|(_, it)| it)),
            other => value.push(other),
        }
    }
    (Token::Symbol('\''), opening + text.len())
}

fn statement(text: &str) -> Result<Statement, String> {
    use Statement as S;
    use Token::{Symbol, Text, Word};
    let error = || Err(text.trim().chars().take(60).collect::<String>());
    let owned = |it: &str| it.to_owned();
    let all = tokens(text);
    Ok(match all.as_slice() {
        [Word("SELECT"), Word("echo"), Symbol('('), rest @ ..] => match echo(rest) {
            Some((token, rows, bytes)) => S::Echo { token, rows, bytes },
            None => return error(),
        },
        [Word("SELECT"), Word("fail"), Symbol('('), Text(token), ..] => S::Fail(token.clone()),
        [Word("SELECT"), Word("slow"), Symbol('('), Text(token), ..] => S::Slow(token.clone()),
        [Word("SELECT"), Word("pg_advisory_lock"), Symbol('('), Word(key), ..] => S::Lock(owned(key)),
        [Word("SELECT"), Word("pg_catalog.pg_advisory_unlock_all"), ..] => S::UnlockAll,
        [Word("SELECT"), rest @ ..] => match set_config(rest) {
            Some(list) => S::SetConfig(list),
            None => return error(),
        },
        [Word("BEGIN")] => S::Begin,
        [Word("COMMIT")] => S::Commit,
        [Word("ROLLBACK")] => S::Rollback,
        [Word("SAVEPOINT"), Word(_)] => S::Savepoint,
        [Word("ROLLBACK"), Word("TO"), Word(_)] => S::RollbackTo,
        [Word("RESET"), Word("ALL")] => S::ResetAll,
        [Word("RESET"), Word("ROLE")] => S::SetRole(None),
        [Word("SET"), Word("SESSION"), Word("AUTHORIZATION"), Word("DEFAULT")] => S::SetRole(None),
        [Word("SET"), Word("ROLE"), Word(role)] => S::SetRole(Some(owned(role))),
        [Word("RESET"), Word(name)] => S::Set { name: owned(name), value: None, local: false },
        [Word("SET"), Word(name), Word("TO"), Word("DEFAULT")] => {
            S::Set { name: owned(name), value: None, local: false }
        }
        [Word("SET"), Word(name), Word("TO"), Text(value)] => {
            S::Set { name: owned(name), value: Some(value.clone()), local: false }
        }
        [Word("SET"), Word("LOCAL"), Word(name), Word("TO"), Text(value)] => {
            S::Set { name: owned(name), value: Some(value.clone()), local: true }
        }
        [Word("SHOW"), Word(name)] => S::Show(owned(name)),
        [Word("CREATE"), Word("TEMP"), Word("TABLE"), Word(name), ..] => S::CreateTemp(owned(name)),
        [Word("LISTEN"), Word(channel)] => S::Listen(owned(channel)),
        [Word("UNLISTEN"), Symbol('*')] => S::UnlistenAll,
        [Word("NOTIFY"), Word(channel), Symbol(','), Text(payload)] => {
            S::Notify { channel: owned(channel), payload: payload.clone() }
        }
        [Word("DECLARE"), Word(name), Word("CURSOR"), Word("WITH"), Word("HOLD"), ..] => {
            S::DeclareHold(owned(name))
        }
        [Word("CLOSE"), Word("ALL")] => S::CloseAll,
        [Word("PREPARE"), Word(name), Word("AS"), ..] => {
            let text = text.split_once(" AS ").map_or("", |(_, it)| it);
            S::Prepare { name: owned(name), text: owned(text) }
        }
        [Word("EXECUTE"), Word(name)] => S::Execute(owned(name)),
        [Word("DEALLOCATE"), Word("ALL")] => S::DeallocateAll,
        [Word("DEALLOCATE"), Word(name)] => S::Deallocate(owned(name)),
        [Word("DISCARD"), Word("ALL")] => S::DiscardAll,
        [Word("DISCARD"), Word("TEMP")] => S::DiscardTemp,
        [Word("COPY"), Word("t"), Word("FROM"), Word("STDIN")] => S::CopyIn,
        [Word("COPY"), Word("echo"), Symbol('('), rest @ ..] => match echo(rest) {
            Some((Argument::Literal(token), rows, bytes)) => S::CopyOut { token, rows, bytes },
            _ => return error(),
        },
        _ => return error(),
    })
}

/// `'token', rows, bytes)`, or `$1, …`.
fn echo(arguments: &[Token<'_>]) -> Option<(Argument, usize, usize)> {
    use Token::{Symbol, Text, Word};
    match arguments {
        [token, Symbol(','), Word(rows), Symbol(','), Word(bytes), Symbol(')'), ..] => {
            let token = match token {
                Text(token) => Argument::Literal(token.clone()),
                Word("$1") => Argument::Parameter,
                _ => return None,
            };
            Some((token, rows.parse().ok()?, bytes.parse().ok()?))
        }
        _ => None,
    }
}

/// `pg_catalog.set_config('name', value, false), …`, as a pooler writes it.
fn set_config(mut rest: &[Token<'_>]) -> Option<Vec<(String, String)>> {
    use Token::{Symbol, Text, Word};
    let mut list = Vec::new();
    loop {
        let (value, after, name) = match rest {
            [
                Word("pg_catalog.set_config"),
                Symbol('('),
                Text(name),
                Symbol(','),
                Text(value),
                after @ ..,
            ] => (value.clone(), after, name),
            [
                Word("pg_catalog.set_config"),
                Symbol('('),
                Text(name),
                Symbol(','),
                Word("pg_catalog.convert_from"),
                Symbol('('),
                Word("pg_catalog.decode"),
                Symbol('('),
                Text(digits),
                Symbol(','),
                Text(_),
                Symbol(')'),
                Symbol(','),
                Text(_),
                Symbol(')'),
                after @ ..,
            ] => (decode(digits)?, after, name),
            _ => return None,
        };
        list.push((name.clone(), value));
        match after {
            [Symbol(','), Word("false"), Symbol(')')] => return Some(list),
            [Symbol(','), Word("false"), Symbol(')'), Symbol(','), more @ ..] => rest = more,
            _ => return None,
        }
    }
}

fn decode(digits: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}
