//! What is made of the table besides reading files: SET, the reference page and the commented example file.

use std::fmt::Write;
use std::time::Duration;

use super::Config;
use super::kinds::{Facts, Form};
use super::settings::{self, DATABASE, Effect, GLOBAL, PEER, Reload, Setting, USER};
use super::value::Fault;

impl Config {
    /// The configuration after `SET name = text`. What only a start can change stays as it is, as in PgBouncer.
    pub fn set(&self, name: &str, text: &str) -> Result<Self, Fault> {
        let row = settings::global(name).ok_or_else(|| settings::unknown(settings::Scope::Global, name))?;
        let mut config = self.clone();
        (row.read)(&mut config.settings, text)?;
        if row.reload == Reload::Restart {
            (row.copy)(&mut config.settings, &self.settings);
        }
        if name == "auth_dbname" && super::is_console(text) {
            return Err(super::check::reserved_auth_dbname(text));
        }
        Ok(config)
    }
}

/// The reference page, in Markdown.
pub fn reference() -> String {
    let mut out = String::from(REFERENCE_HEAD);
    out.push_str("\n## `[pgweir]`\n\nIn an ini file `[pgbouncer]`.\n\n");
    out.push_str("| setting | value | default | a change takes effect | meaning |\n|---|---|---|---|---|\n");
    for row in GLOBAL {
        let default = match row.default {
            None | Some("") => String::new(),
            Some(text) => format!("`{}`", for_people(&row.facts, text)),
        };
        let default = match row.default_ini {
            Some(ini) => format!("{default}, in an ini file `{ini}`"),
            None => default,
        };
        let when = match row.reload {
            Reload::Live => "at once",
            Reload::NewConnections => "for new connections",
            Reload::Restart => "at the next start",
        };
        let (name, value, meaning) = (row.name, values(&row.facts), meaning(row));
        line(&mut out, &format!("| `{name}` | {value} | {default} | {when} | {meaning} |"));
    }
    entries(&mut out, "[databases.NAME]", DATABASE_HEAD, DATABASE);
    entries(&mut out, "[users.NAME]", USER_HEAD, USER);
    entries(&mut out, "[peers.ID]", PEER_HEAD, PEER);
    out
}

fn entries<T>(out: &mut String, section: &str, head: &str, table: &[Setting<T>]) {
    line(out, &format!("\n## `{section}`\n\n{head}\n"));
    out.push_str("| setting | value | meaning |\n|---|---|---|\n");
    for row in table {
        let (name, value, meaning) = (row.name, values(&row.facts), meaning(row));
        line(out, &format!("| `{name}` | {value} | {meaning} |"));
    }
}

fn meaning<T>(row: &Setting<T>) -> String {
    let help = row.help.replace('|', "\\|");
    match row.effect {
        Effect::Full => help,
        Effect::None(why) => format!("{help} Accepted without effect: {why}."),
    }
}

fn values(facts: &Facts) -> String {
    if facts.words.is_empty() {
        return facts.name.to_owned();
    }
    facts.words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A default as one would write it: `10min` for 600 seconds.
fn for_people(facts: &Facts, text: &str) -> String {
    let time = match (facts.form, text.parse::<u64>()) {
        (Form::Seconds, Ok(seconds)) => Duration::from_secs(seconds),
        (Form::Milliseconds, Ok(milliseconds)) => Duration::from_millis(milliseconds),
        _ => return text.to_owned(),
    };
    match time.as_secs() {
        0 => text.to_owned(),
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}min", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a string cannot fail");
}

/// The example file: every setting with its meaning and default, commented out.
pub fn example() -> String {
    let mut out = String::from(EXAMPLE_HEAD);
    for row in GLOBAL.iter().filter(|row| row.effect == Effect::Full && row.name != "conffile") {
        out.push('\n');
        comment(&mut out, row.help);
        if !row.facts.words.is_empty() {
            comment(&mut out, &format!("One of: {}.", row.facts.words.join(", ")));
        }
        let value = toml_value(&row.facts, row.default.unwrap_or(""));
        line(&mut out, &format!("#{} = {value}", row.name));
    }
    out.push_str(EXAMPLE_DATABASES);
    settings_of(&mut out, DATABASE);
    out.push_str(EXAMPLE_USERS);
    settings_of(&mut out, USER);
    out.push_str(EXAMPLE_PEERS);
    out
}

fn settings_of<T>(out: &mut String, table: &[Setting<T>]) {
    for row in table {
        comment(out, &format!("{}: {}", row.name, row.help));
    }
}

/// Adds a comment, broken into lines of about a hundred characters.
fn comment(out: &mut String, text: &str) {
    const WIDTH: usize = 100;
    let mut current = String::from("#");
    for word in text.split_whitespace() {
        if current.len() + word.len() >= WIDTH {
            line(out, &current);
            current = String::from("#");
        }
        current.push(' ');
        current.push_str(word);
    }
    line(out, &current);
}

/// A value as TOML has it.
fn toml_value(facts: &Facts, text: &str) -> String {
    match facts.form {
        Form::Number if text.is_empty() => "0".to_owned(),
        Form::Number if facts.name == "permissions" => format!("0o{}", text.trim_start_matches('0')),
        Form::Number | Form::Bytes => text.to_owned(),
        Form::Flag => (text == "1").to_string(),
        Form::Seconds | Form::Milliseconds if text == "0" => text.to_owned(),
        Form::Seconds | Form::Milliseconds => format!("\"{}\"", for_people(facts, text)),
        Form::List if text.is_empty() => "[]".to_owned(),
        Form::List => format!("[\"{}\"]", text.split(',').map(str::trim).collect::<Vec<_>>().join("\", \"")),
        Form::Text | Form::Path => format!("\"{text}\""),
    }
}

const REFERENCE_HEAD: &str = "\
# Settings

<!-- Written by `pgweir settings`; a test holds this page to the program. -->

The names are PgBouncer's. A file whose name ends in `.ini` is read as `pgbouncer.ini`, any other as TOML.
`pgweir check FILE` reports every mistake of a file, and what a start would fail on; run it as the user that pgweir
runs as. RELOAD and SIGHUP apply a good file as a whole and change nothing for a bad one.

Times are numbers of seconds or texts with a unit: `us`, `ms`, `s`, `min`, `h`, `d`. Sizes are numbers of bytes or
texts with `B`, `kB`, `MB`, `GB`, `TB`. In the strings of a TOML file `${NAME}` stands for a variable of the
environment, `${NAME:-text}` for one with a default. Paths in a TOML file are relative to its directory, in an ini
file to the working directory.
";

const DATABASE_HEAD: &str = "\
One entry for each name that clients connect to; `\"*\"` stands for all other names. In an ini file an entry is a line
`NAME = key=value key=value` below `[databases]`, where zero for a limit or time means the global setting.";

const USER_HEAD: &str = "\
Overrides for a user. For a pool's size and mode the user is the one whose servers they are (a database's `user`, if it
has one); for limits and times of clients it is the one who logs in. A user comes before a database, a database before
the global setting.";

const PEER_HEAD: &str = "\
Other processes that share this one's port, by their `peer_id`. A cancel request that belongs to one of them is passed on.";

const EXAMPLE_HEAD: &str = "\
# An example with every setting, each with its default. `pgweir example` prints it.
#
# Times are numbers of seconds or texts with a unit (us, ms, s, min, h, d), sizes numbers of bytes or
# texts with one (B, kB, MB, GB, TB). ${NAME} and ${NAME:-default} in a text stand for variables of the
# environment. Paths are relative to this file's directory.

[pgweir]
";

const EXAMPLE_DATABASES: &str = "

# What clients connect to, and the database behind it.
#[databases.app]
#host = \"127.0.0.1\"
#port = 5432
#dbname = \"app\"
#pool_mode = \"transaction\"
#pool_size = 20

# All other names.
#[databases.\"*\"]
#host = \"127.0.0.1\"

# Settings of a database:
";

const EXAMPLE_USERS: &str = "

# Overrides for a user.
#[users.reports]
#pool_size = 5
#query_timeout = \"10min\"

# Settings of a user:
";

const EXAMPLE_PEERS: &str = "

# Other processes that share the port, by their peer_id.
#[peers.2]
#host = \"/run/pgweir/2\"
#port = 6432
";
