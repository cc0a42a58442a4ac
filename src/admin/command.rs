//! What a console client may say.
//!
//! Owns the grammar: PgBouncer's commands, and the few statements that drivers send to every server they meet. It
//! carries out nothing. Words are compared without regard to case; `"…"` quotes a name and `'…'` a value.

use super::show::Topic;
use super::{Order, Refusal, Shutdown};
use crate::config;
use crate::ids::{ClientId, DatabaseName};
use crate::wire::encode::Column;

/// A statement of a console client.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// SHOW, or SELECT, of one of the console's own tables.
    Show(Topic),
    /// A constant that drivers ask for.
    Constant(&'static Constant),
    /// A statement that drivers send and that has no meaning here, with the command tag they expect.
    Ignored(&'static str),
    /// SET of one of PostgreSQL's own parameters: ignored with a notice.
    SetIgnored {
        /// The parameter in lower case.
        name: String,
        /// The value.
        value: String,
    },
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, ROLLBACK, END, with the command tag.
    End(&'static str),
    /// KILL_CLIENT.
    KillClient(ClientId),
    /// Something for `app` to do.
    Order(Order),
}

/// One value that the console knows without looking.
#[derive(PartialEq, Eq, Debug)]
pub struct Constant {
    /// How it is asked for, in lower case with single spaces.
    pub asked: &'static str,
    /// The column it comes in.
    pub column: [Column; 1],
    /// Its value.
    pub value: &'static str,
}

const fn constant(asked: &'static str, name: &'static str, value: &'static str) -> Constant {
    Constant { asked, column: [Column::text(name)], value }
}

/// `bool`: src/include/catalog/pg_type.dat.
const fn bool_column(name: &'static str) -> [Column; 1] {
    [Column { name, type_oid: 16, type_size: 1 }]
}

/// The first five are PgBouncer's; the others are what libpq, JDBC, psycopg and asyncpg ask after a login.
const CONSTANTS: &[Constant] = &[
    constant("show client_encoding", "client_encoding", "UTF-8"),
    constant("show default_transaction_isolation", "default_transaction_isolation", "read committed"),
    constant("show standard_conforming_strings", "standard_conforming_strings", "on"),
    constant("show datestyle", "datestyle", "ISO"),
    constant("show timezone", "timezone", "GMT"),
    constant("show server_version", "server_version", super::SERVER_VERSION),
    constant("show server_encoding", "server_encoding", "UTF8"),
    constant("show application_name", "application_name", ""),
    constant("show extra_float_digits", "extra_float_digits", "1"),
    constant("show intervalstyle", "IntervalStyle", "postgres"),
    constant("show is_superuser", "is_superuser", "on"),
    constant("show search_path", "search_path", "pg_catalog"),
    constant("show transaction_isolation", "transaction_isolation", "read committed"),
    constant("show transaction isolation level", "transaction_isolation", "read committed"),
    constant("show transaction_read_only", "transaction_read_only", "off"),
    constant("show default_transaction_read_only", "default_transaction_read_only", "off"),
    constant("select version()", "version", super::VERSION),
    constant("select current_database()", "current_database", config::CONSOLE),
    Constant { asked: "select 1", column: [Column::int4("?column?")], value: "1" },
    Constant { asked: "select pg_is_in_recovery()", column: bool_column("pg_is_in_recovery"), value: "f" },
    constant("select pg_advisory_unlock_all()", "pg_advisory_unlock_all", ""),
];

/// Parameters of PostgreSQL that drivers set: SET of them is ignored. The first five are PgBouncer's.
const IGNORED_PARAMETERS: &[&str] = &[
    "client_encoding",
    "default_transaction_isolation",
    "standard_conforming_strings",
    "datestyle",
    "timezone",
    "application_name",
    "bytea_output",
    "client_min_messages",
    "default_transaction_read_only",
    "extra_float_digits",
    "intervalstyle",
    "lock_timeout",
    "role",
    "search_path",
    "statement_timeout",
];

/// Splits a simple query into its statements; empty ones are left out.
pub fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut scan = Scan { text: sql, at: 0 };
    loop {
        let before = scan.at;
        let token = scan.next();
        if matches!(token, None | Some(Token::Semicolon)) {
            let end = if token.is_none() { sql.len() } else { scan.at - 1 };
            found.push(sql[start..end.max(start)].trim());
            start = scan.at;
        }
        if token.is_none() {
            break;
        }
        debug_assert!(scan.at > before, "every token takes a character");
    }
    found.retain(|it| Scan { text: it, at: 0 }.next().is_some());
    found
}

/// What of a statement may stand in a log: of a SET, which may carry a secret, no more than that it is one.
pub fn loggable(statement: &str) -> &str {
    let first = Scan { text: statement, at: 0 }.next();
    let is_set = matches!(first, Some(Token::Word(word)) if word.eq_ignore_ascii_case("set"));
    if is_set { "SET …" } else { statement }
}

/// Reads one statement.
pub fn parse(statement: &str) -> Result<Command, Refusal> {
    let tokens: Vec<Token> = Scan { text: statement, at: 0 }.collect();
    let invalid = || Refusal::InvalidCommand(statement.to_owned());
    let Some(Token::Word(first)) = tokens.first() else { return Err(invalid()) };
    let verb = first.to_ascii_lowercase();
    if let Some(command) = driver_statement(&verb, &tokens) {
        return Ok(command);
    }
    if verb == "set" {
        return set(&tokens[1..]).unwrap_or_else(|| Err(invalid()));
    }
    let argument = match &tokens[1..] {
        [] => None,
        [one] => Some(one.name().ok_or_else(invalid)?),
        _ => return Err(invalid()),
    };
    if verb == "show" || verb == "select" {
        let topic = argument.and_then(|it| Topic::named(&it.to_ascii_lowercase()));
        return topic.map(Command::Show).ok_or_else(invalid);
    }
    order(&verb, argument)?.ok_or_else(invalid)
}

/// Constants, and statements without a meaning here.
fn driver_statement(verb: &str, tokens: &[Token<'_>]) -> Option<Command> {
    match verb {
        "show" | "select" => {
            let asked = spelled(tokens);
            CONSTANTS.iter().find(|it| it.asked == asked).map(Command::Constant)
        }
        "begin" | "start" => Some(Command::Begin),
        "commit" | "end" => Some(Command::End("COMMIT")),
        "rollback" | "abort" => Some(Command::End("ROLLBACK")),
        "discard" => Some(Command::Ignored("DISCARD ALL")),
        "reset" => Some(Command::Ignored("RESET")),
        "deallocate" => Some(Command::Ignored("DEALLOCATE ALL")),
        "unlisten" => Some(Command::Ignored("UNLISTEN")),
        "close" => Some(Command::Ignored("CLOSE CURSOR ALL")),
        _ => None,
    }
}

/// A statement in the spelling of [`Constant::asked`].
fn spelled(tokens: &[Token<'_>]) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Word(word) => {
                if !text.is_empty() {
                    text.push(' ');
                }
                let word = word.to_ascii_lowercase();
                text.push_str(word.strip_prefix("pg_catalog.").unwrap_or(&word));
            }
            Token::Symbol(symbol) => text.push(*symbol),
            _ => text.push('\0'),
        }
    }
    text
}

/// `SET [SESSION|LOCAL] key (=|TO) value [, value …]`; `None` where it is no such thing.
fn set(mut tokens: &[Token<'_>]) -> Option<Result<Command, Refusal>> {
    if let [Token::Word(scope), rest @ ..] = tokens {
        match scope.to_ascii_lowercase().as_str() {
            "session" | "local" if rest.len() > 2 => tokens = rest,
            _ => {}
        }
    }
    let word =
        |token: &Token<'_>, text: &str| matches!(token, Token::Word(it) if it.eq_ignore_ascii_case(text));
    if let [first, ..] = tokens
        && (word(first, "characteristics") || word(first, "transaction"))
    {
        return Some(Ok(Command::Ignored("SET")));
    }
    let [key, equals, values @ ..] = tokens else { return None };
    if !(*equals == Token::Symbol('=') || word(equals, "to")) {
        return None;
    }
    let name = key.name()?;
    let mut value = String::new();
    for token in values {
        match token {
            Token::Symbol(',') => value.push(','),
            Token::Symbol(_) | Token::Semicolon => return None,
            Token::Word(text) => value.push_str(text),
            Token::Name(text) | Token::Text(text) => value.push_str(text),
        }
    }
    if name.is_empty() || values.is_empty() {
        return Some(Err(Refusal::BadArguments));
    }
    let lower = name.to_ascii_lowercase();
    if IGNORED_PARAMETERS.contains(&lower.as_str()) {
        return Some(Ok(Command::SetIgnored { name: lower, value }));
    }
    Some(Ok(Command::Order(Order::Set { name: lower, value })))
}

/// PgBouncer's own commands; `Ok(None)` where it is none of them.
fn order(verb: &str, argument: Option<&str>) -> Result<Option<Command>, Refusal> {
    let any = |verb| argument.map(|name| database(verb, name)).transpose();
    let one = |verb| database(verb, argument.ok_or(Refusal::DatabaseRequired)?);
    Ok(Some(Command::Order(match verb {
        "pause" => Order::Pause(any("pause")?),
        "resume" => Order::Resume(argument.map(DatabaseName::from)),
        "reconnect" => Order::Reconnect(any("reconnect")?),
        "kill" => Order::Kill(any("kill")?),
        "wait_close" => Order::WaitClose(any("wait in")?),
        "disable" => Order::Disable(one("disable")?),
        // PgBouncer's way: `admin_cmd_enable` in src/admin.c refuses in the words of DISABLE.
        "enable" => Order::Enable(one("disable")?),
        "kill_client" => {
            let id = argument.and_then(|it| it.parse().ok()).ok_or(Refusal::InvalidClient)?;
            return Ok(Some(Command::KillClient(ClientId(id))));
        }
        "reload" if argument.is_none() => Order::Reload,
        "suspend" if argument.is_none() => Order::Suspend,
        "shutdown" => match argument.map(str::to_ascii_lowercase).as_deref() {
            None => Order::Shutdown(Shutdown::Immediate),
            Some("wait_for_servers") => Order::Shutdown(Shutdown::WaitForServers),
            Some("wait_for_clients") => Order::Shutdown(Shutdown::WaitForClients),
            Some(_) => return Ok(None),
        },
        _ => return Ok(None),
    })))
}

fn database(verb: &'static str, name: &str) -> Result<DatabaseName, Refusal> {
    let database = DatabaseName::from(name);
    if config::is_console(name) { Err(Refusal::Console { verb, database }) } else { Ok(database) }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token<'a> {
    /// As it stands: a keyword, a name, a number.
    Word(&'a str),
    /// `"…"`.
    Name(String),
    /// `'…'`.
    Text(String),
    Semicolon,
    Symbol(char),
}

impl Token<'_> {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            self.at += if trimmed.starts_with("--") {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else if trimmed.starts_with("/*") {
                trimmed.find("*/").map_or(trimmed.len(), |it| it + 2)
            } else {
                return;
            };
        }
    }

    /// What stands between quotes, a doubled quote for one; up to the end where the closing one is missing.
    fn quoted(&mut self, quote: char) -> String {
        let mut text = String::new();
        self.at += 1;
        let mut characters = self.rest().char_indices().peekable();
        while let Some((_, character)) = characters.next() {
            if character == quote && characters.next_if(|(_, it)| *it == quote).is_none() {
                break;
            }
            text.push(character);
        }
        self.at = characters.peek().map_or(self.text.len(), |(offset, _)| self.at + offset);
        text
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_space_and_comments();
        let rest = self.rest();
        let first = rest.chars().next()?;
        match first {
            '\'' => return Some(Token::Text(self.quoted(first))),
            '"' => return Some(Token::Name(self.quoted(first))),
            _ => {}
        }
        let ends = |it: char| it.is_whitespace() || matches!(it, ';' | '=' | ',' | '(' | ')' | '\'' | '"');
        let length = match rest.find(ends) {
            Some(0) => first.len_utf8(),
            Some(end) => end,
            None => rest.len(),
        };
        self.at += length;
        Some(match first {
            ';' => Token::Semicolon,
            _ if ends(first) => Token::Symbol(first),
            _ => Token::Word(&rest[..length]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order_of(statement: &str) -> Order {
        match parse(statement) {
            Ok(Command::Order(order)) => order,
            other => panic!("{statement}: {other:?}"),
        }
    }

    #[test]
    fn commands_are_read_without_regard_to_case_and_space() {
        for (statement, order) in [
            ("pause", Order::Pause(None)),
            ("  PAUSE  db_1 ", Order::Pause(Some("db_1".into()))),
            ("PAUSE \"My \"\"Db\"", Order::Pause(Some("My \"Db".into()))),
            ("Resume", Order::Resume(None)),
            ("KILL d", Order::Kill(Some("d".into()))),
            ("wait_close d", Order::WaitClose(Some("d".into()))),
            ("RECONNECT", Order::Reconnect(None)),
            ("enable d", Order::Enable("d".into())),
            ("disable d", Order::Disable("d".into())),
            ("reload", Order::Reload),
            ("suspend", Order::Suspend),
            ("shutdown", Order::Shutdown(Shutdown::Immediate)),
            ("shutdown wait_for_clients", Order::Shutdown(Shutdown::WaitForClients)),
            ("SHUTDOWN WAIT_FOR_SERVERS", Order::Shutdown(Shutdown::WaitForServers)),
            ("/* who */ pause -- why\n d", Order::Pause(Some("d".into()))),
        ] {
            assert_eq!(order_of(statement), order, "{statement}");
        }
    }

    #[test]
    fn a_setting_is_set_in_every_spelling() {
        for (statement, name, value) in [
            ("SET pool_mode = session", "pool_mode", "session"),
            ("set pool_mode='transaction'", "pool_mode", "transaction"),
            ("set Pool_Mode to session", "pool_mode", "session"),
            ("set admin_users = 'a,b'", "admin_users", "a,b"),
            ("set server_check_query = 'it''s; here'", "server_check_query", "it's; here"),
            ("set listen_addr = 127.0.0.1", "listen_addr", "127.0.0.1"),
            ("set server_reset_query=''", "server_reset_query", ""),
        ] {
            assert_eq!(
                order_of(statement),
                Order::Set { name: name.into(), value: value.into() },
                "{statement}"
            );
        }
    }

    #[test]
    fn what_drivers_set_is_ignored() {
        for statement in
            ["SET extra_float_digits = 3", "set client_encoding to 'UTF8'", "SET application_name = ''"]
        {
            assert!(matches!(parse(statement), Ok(Command::SetIgnored { .. })), "{statement}");
        }
        let statement = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY";
        assert_eq!(parse(statement), Ok(Command::Ignored("SET")));
    }

    #[test]
    fn show_and_select_are_the_same() {
        for statement in ["SHOW POOLS", "select pools", "show \"pools\""] {
            assert_eq!(parse(statement), Ok(Command::Show(Topic::Pools)), "{statement}");
        }
    }

    #[test]
    fn constants_are_found() {
        for (statement, value) in [
            ("SHOW server_version", super::super::SERVER_VERSION),
            ("show DateStyle", "ISO"),
            ("SHOW TRANSACTION ISOLATION LEVEL", "read committed"),
            ("SELECT 1", "1"),
            ("SELECT pg_catalog.pg_is_in_recovery()", "f"),
            ("select version()", super::super::VERSION),
        ] {
            let Ok(Command::Constant(constant)) = parse(statement) else { panic!("{statement}") };
            assert_eq!(constant.value, value, "{statement}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_pgbouncers_words() {
        for (statement, message) in [
            ("nonsense", "invalid command 'nonsense', use SHOW HELP;"),
            ("show nonsense", "invalid command 'show nonsense', use SHOW HELP;"),
            ("show", "invalid command 'show', use SHOW HELP;"),
            ("pause a b", "invalid command 'pause a b', use SHOW HELP;"),
            ("reload now", "invalid command 'reload now', use SHOW HELP;"),
            ("shutdown now", "invalid command 'shutdown now', use SHOW HELP;"),
            ("set x", "invalid command 'set x', use SHOW HELP;"),
            ("set x =", "bad arguments"),
            ("= 1", "invalid command '= 1', use SHOW HELP;"),
            ("kill_client", "invalid client pointer supplied"),
            ("kill_client x", "invalid client pointer supplied"),
            ("disable", "a database is required"),
            ("pause pgbouncer", "cannot pause admin db: pgbouncer"),
            ("wait_close pgbouncer", "cannot wait in admin db: pgbouncer"),
        ] {
            let message_got = parse(statement).map_err(|it| it.to_string());
            assert_eq!(message_got, Err(message.to_owned()), "{statement}");
        }
    }

    #[test]
    fn a_simple_query_is_split_outside_of_quotes_and_comments() {
        assert_eq!(statements("show a; show b"), ["show a", "show b"]);
        assert_eq!(statements(" ;; show a ;"), ["show a"]);
        assert_eq!(statements("set a='x;y'; set b=\"p;q\""), ["set a='x;y'", "set b=\"p;q\""]);
        assert_eq!(
            statements("show a -- one; two\n; /* ; */ show b"),
            ["show a -- one; two", "/* ; */ show b"]
        );
        assert!(statements("").is_empty());
        assert!(statements(" -- nothing").is_empty());
        assert_eq!(statements("set a='open; end"), ["set a='open; end"]);
    }
}
