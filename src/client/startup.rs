//! What a client's StartupMessage asks for, beyond who it is and which database it wants.
//!
//! Owns the reading of `options`, of `replication`, of `ignore_startup_parameters` and of `application_name`. The
//! result is a list of settings that the client's servers are to have; applying them is the relay's.
//! Invariant: every name in the list is one that PostgreSQL could take for a setting's, so that it is safe in a `SET`.

use std::fmt::Display;

use crate::config::{Compatibility, Settings};
use crate::wire::startup::Startup;

use super::refusal::Refusal;
use crate::server::ReplicationStart;
use crate::stats::Replication;

/// The longest user name, as PgBouncer's MAX_USERNAME less its terminator.
pub const USER_BYTES_MAX: usize = 127;

/// Settings that PgBouncer keeps for each client whatever it is told.
const TRACKED: [&str; 5] =
    ["DateStyle", "client_encoding", "TimeZone", "standard_conforming_strings", "application_name"];

/// Settings that drivers send on their own, or that applications ask their drivers for, and that are applied even where
/// PgBouncer would refuse them: none does more than its client could by SET, and none follows it to others.
const HARMLESS: &[&str] = &[
    "bytea_output",
    "client_min_messages",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "jit",
    "lock_timeout",
    "row_security",
    "search_path",
    "statement_timeout",
    "transaction_timeout",
];

/// A client's wishes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Who it says it is.
    pub user: String,
    /// The database; the user's name where the client names none.
    pub database: String,
    /// Settings in the order in which they are to be applied, each name once.
    pub parameters: Vec<(String, String)>,
    /// Whether it comes to replicate.
    pub replication: Replication,
    /// The `options` of a replication client as they came: its server is its own, so any will do.
    pub options: Option<String>,
}

impl Wanted {
    /// Reads a StartupMessage. `origin` is the client's address, for `application_name_add_host`.
    pub fn read(startup: &Startup, settings: &Settings, origin: &dyn Display) -> Result<Self, Refusal> {
        let replication = startup.parameter("replication").map_or(Ok(Replication::None), replication)?;
        let user = startup.parameter("user").filter(|user| !user.is_empty()).ok_or(Refusal::NoUser)?;
        if user.len() > USER_BYTES_MAX {
            return Err(Refusal::UserTooLong);
        }
        let database = startup.parameter("database").filter(|name| !name.is_empty()).unwrap_or(user);
        let mut reader = Reader { settings, parameters: Vec::new() };
        let options = startup.parameter("options").filter(|_| replication != Replication::None);
        // Parameters of their own win over those in `options`: process_startup_options in
        // src/backend/utils/init/postinit.c.
        let all = startup.parameters.iter().filter(|_| replication == Replication::None);
        for (_, options) in all.filter(|(name, _)| name == "options") {
            for (name, value) in parse_options(options)? {
                reader.option(&name, value)?;
            }
        }
        for (name, value) in &startup.parameters {
            match name.as_str() {
                "user" | "database" | "options" | "replication" => {}
                name => reader.parameter(name, value)?,
            }
        }
        if settings.application_name_add_host {
            reader.add_host(origin);
        }
        Ok(Self {
            user: user.to_owned(),
            database: database.to_owned(),
            parameters: reader.parameters,
            replication,
            options: options.map(str::to_owned),
        })
    }

    /// What the server of a replication client is to be; `None` for any other client.
    pub fn replication_start(&self) -> Option<ReplicationStart> {
        if self.replication == Replication::None {
            return None;
        }
        let options = self.options.iter().map(|text| ("options".to_owned(), text.clone()));
        let parameters = self.parameters.iter().cloned().chain(options).collect();
        Some(ReplicationStart { kind: self.replication, parameters })
    }
}

struct Reader<'a> {
    settings: &'a Settings,
    parameters: Vec<(String, String)>,
}

impl Reader<'_> {
    fn parameter(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        if self.is_tracked(name) {
            self.set(name, value.to_owned());
            return Ok(());
        }
        if self.is_ignored(name) {
            return Ok(());
        }
        if !self.is_applied(name) {
            return Err(Refusal::UnsupportedParameter(name.to_owned()));
        }
        self.checked(name, value.to_owned())
    }

    fn option(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        if self.is_tracked(name) {
            self.set(name, value);
            return Ok(());
        }
        // `options` in the list stands for all that are not tracked.
        if self.is_ignored(name) || self.is_ignored("options") {
            return Ok(());
        }
        if !self.is_applied(name) {
            return Err(Refusal::UnsupportedOption(name.to_owned()));
        }
        self.checked(name, value)
    }

    fn checked(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        if !is_setting_name(name) {
            return Err(Refusal::ParameterName(name.to_owned()));
        }
        self.set(name, value);
        Ok(())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.parameters.iter_mut().find(|(it, _)| it.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => self.parameters.push((name.to_owned(), value)),
        }
    }

    fn add_host(&mut self, origin: &dyn Display) {
        let known = self.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("application_name"));
        let name = known.map_or("app", |(_, value)| value.as_str());
        let name = format!("{name} - {origin}");
        self.set("application_name", name);
    }

    fn is_tracked(&self, name: &str) -> bool {
        TRACKED.iter().any(|it| it.eq_ignore_ascii_case(name))
            || contains(&self.settings.track_extra_parameters, name)
    }

    fn is_ignored(&self, name: &str) -> bool {
        contains(&self.settings.ignore_startup_parameters, name)
    }

    fn is_applied(&self, name: &str) -> bool {
        match self.settings.compatibility {
            Compatibility::Postgres => true,
            Compatibility::PgBouncer => HARMLESS.iter().any(|it| it.eq_ignore_ascii_case(name)),
        }
    }
}

fn contains(names: &[String], name: &str) -> bool {
    names.iter().any(|it| it.eq_ignore_ascii_case(name))
}

/// As `valid_custom_variable_name` and plain settings in src/backend/utils/misc/guc.c.
fn is_setting_name(name: &str) -> bool {
    name.split('.').all(|part| {
        let starts = part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        starts && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
    })
}

/// As `parse_bool` in src/backend/utils/adt/bool.c, which takes prefixes of the words, and `database`.
fn replication(value: &str) -> Result<Replication, Refusal> {
    let value = value.to_ascii_lowercase();
    let is_prefix = |word: &str, least: usize| value.len() >= least && word.starts_with(value.as_str());
    if value == "database" {
        return Ok(Replication::Logical);
    }
    if value == "1" || is_prefix("true", 1) || is_prefix("yes", 1) || value == "on" {
        return Ok(Replication::Physical);
    }
    if value == "0" || is_prefix("false", 1) || is_prefix("no", 1) || is_prefix("off", 2) {
        return Ok(Replication::None);
    }
    Err(Refusal::ReplicationValue(value))
}

/// The settings in `options`: `-c name=value`, `-cname=value` and `--name=value`, separated by blanks; a backslash
/// takes the next character as it is (`pg_split_opts` in src/backend/utils/init/postinit.c).
fn parse_options(options: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut settings = Vec::new();
    let mut words = Words(options);
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c") {
            Some("") => words.next().ok_or(Refusal::OptionsSyntax)?,
            Some(joined) => joined.to_owned(),
            None => word.strip_prefix("--").ok_or(Refusal::OptionsSyntax)?.to_owned(),
        };
        let (name, value) = assignment.split_once('=').ok_or(Refusal::OptionsSyntax)?;
        // As ParseLongOption does.
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

struct Words<'a>(&'a str);

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let is_blank = |char: char| char.is_ascii_whitespace() || char == '\x0b';
        let text = self.0.trim_start_matches(is_blank);
        if text.is_empty() {
            return None;
        }
        let mut word = String::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '\\' => word.extend(chars.next()),
                char if is_blank(char) => break,
                char => word.push(char),
            }
        }
        self.0 = chars.as_str();
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Startup { minor: 0, parameters: parameters.collect(), unknown_options: Vec::new() }
    }

    fn settings() -> Settings {
        Settings { compatibility: Compatibility::Postgres, ..Settings::default() }
    }

    fn parameters(settings: &Settings, given: &[(&str, &str)]) -> Result<String, Refusal> {
        let given: Vec<_> = [("user", "u")].iter().chain(given).copied().collect();
        let wanted = Wanted::read(&startup(&given), settings, &"10.0.0.1:55")?;
        Ok(wanted.parameters.iter().map(|(name, value)| format!("{name}={value};")).collect())
    }

    #[test]
    fn the_database_defaults_to_the_user() {
        for (given, user, database) in [
            (&[("user", "joe")][..], "joe", "joe"),
            (&[("user", "joe"), ("database", "")], "joe", "joe"),
            (&[("user", "joe"), ("database", "d")], "joe", "d"),
            (&[("user", "jane"), ("user", "joe")], "joe", "joe"),
        ] {
            let wanted = Wanted::read(&startup(given), &settings(), &"").unwrap();
            assert_eq!((wanted.user.as_str(), wanted.database.as_str()), (user, database));
        }
        for given in [&[][..], &[("user", "")], &[("database", "d")]] {
            assert_eq!(Wanted::read(&startup(given), &settings(), &""), Err(Refusal::NoUser));
        }
        let long = "u".repeat(USER_BYTES_MAX + 1);
        assert_eq!(Wanted::read(&startup(&[("user", &long)]), &settings(), &""), Err(Refusal::UserTooLong));
    }

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        for (name, options, expected) in [
            ("empty", "", Ok("")),
            ("blanks", " \t\n ", Ok("")),
            ("separate", "-c a=1", Ok("a=1;")),
            ("joined", "-ca=1", Ok("a=1;")),
            ("long", "--a=1", Ok("a=1;")),
            ("dashes in the name", "--search-path=x", Ok("search_path=x;")),
            ("several", "  -c    a=1 -cb=2\t--c=3 ", Ok("a=1;b=2;c=3;")),
            ("escaped blank", "-c datestyle=German,\\ YMD", Ok("datestyle=German, YMD;")),
            ("escaped backslash", r"-c a=\\x", Ok(r"a=\x;")),
            ("backslash at the end", "-c a=x\\", Ok("a=x;")),
            ("value with an equals sign", "-c a=b=c", Ok("a=b=c;")),
            ("empty value", "-c a=", Ok("a=;")),
            ("last one counts", "-c a=1 -c A=2", Ok("a=2;")),
            ("custom", "-c app.user_id=7", Ok("app.user_id=7;")),
            ("another switch", "-d", Err(Refusal::OptionsSyntax)),
            ("no value", "-c timezone", Err(Refusal::OptionsSyntax)),
            ("nothing after -c", "-c", Err(Refusal::OptionsSyntax)),
            ("a bare word", "a=1", Err(Refusal::OptionsSyntax)),
            ("no name", "-c =1", Err(Refusal::ParameterName(String::new()))),
            ("a name with a quote", "-c a'b=1", Err(Refusal::ParameterName("a'b".into()))),
        ] {
            let read = parameters(&settings(), &[("options", options)]);
            assert_eq!(read, expected.map(str::to_owned), "{name}");
        }
    }

    #[test]
    fn parameters_win_over_options() {
        let read =
            parameters(&settings(), &[("timezone", "UTC"), ("options", "-c TimeZone=CET -c work_mem=1MB")]);
        assert_eq!(read.as_deref(), Ok("TimeZone=UTC;work_mem=1MB;"));
    }

    #[test]
    fn ignored_parameters_are_dropped() {
        let ignoring = |names: &[&str]| Settings {
            ignore_startup_parameters: names.iter().map(|name| (*name).to_owned()).collect(),
            ..settings()
        };
        let given = [("extra_float_digits", "3"), ("options", "-c geqo=off -c timezone=UTC")];
        for (name, ignored, expected) in [
            ("none", &[][..], "geqo=off;timezone=UTC;extra_float_digits=3;"),
            ("one", &["extra_float_digits"], "geqo=off;timezone=UTC;"),
            ("one of the options", &["geqo"], "timezone=UTC;extra_float_digits=3;"),
            ("options", &["options"], "timezone=UTC;extra_float_digits=3;"),
            ("a tracked one can't be", &["timezone", "geqo"], "timezone=UTC;extra_float_digits=3;"),
        ] {
            assert_eq!(parameters(&ignoring(ignored), &given).as_deref(), Ok(expected), "{name}");
        }
    }

    #[test]
    fn pgbouncers_way_refuses_what_is_not_tracked() {
        let theirs = Settings { compatibility: Compatibility::PgBouncer, ..settings() };
        let refused = Refusal::UnsupportedOption("enable_seqscan".into());
        assert_eq!(parameters(&theirs, &[("options", "-c enable_seqscan=false")]), Err(refused));
        let refused = Refusal::UnsupportedParameter("enable_seqscan".into());
        assert_eq!(parameters(&theirs, &[("enable_seqscan", "off")]), Err(refused));
        let taken = parameters(&theirs, &[("extra_float_digits", "3"), ("client_encoding", "UTF8")]);
        assert_eq!(taken.as_deref(), Ok("extra_float_digits=3;client_encoding=UTF8;"));
        let taken = parameters(&theirs, &[("options", "-c JIT=off --statement_timeout=5s")]);
        assert_eq!(taken.as_deref(), Ok("JIT=off;statement_timeout=5s;"));
    }

    #[test]
    fn the_client_is_named_where_that_is_asked_for() {
        let naming = Settings { application_name_add_host: true, ..settings() };
        let read = |given: &[(&str, &str)]| parameters(&naming, given).unwrap();
        assert_eq!(read(&[]), "application_name=app - 10.0.0.1:55;");
        assert_eq!(read(&[("application_name", "psql")]), "application_name=psql - 10.0.0.1:55;");
        assert_eq!(parameters(&settings(), &[("application_name", "")]).as_deref(), Ok("application_name=;"));
    }

    #[test]
    fn replication_is_a_word_of_its_own_or_a_boolean() {
        let read = |value| {
            let startup = startup(&[("user", "u"), ("replication", value)]);
            Wanted::read(&startup, &settings(), &"").map(|wanted| wanted.replication)
        };
        assert_eq!(read("database"), Ok(Replication::Logical));
        for value in ["true", "on", "yes", "1", "t"] {
            assert_eq!(read(value), Ok(Replication::Physical), "{value}");
        }
        for value in ["false", "off", "no", "0", "F"] {
            assert_eq!(read(value), Ok(Replication::None), "{value}");
        }
        assert_eq!(read("o"), Err(Refusal::ReplicationValue("o".into())));
    }

    #[test]
    fn a_replication_clients_options_go_to_its_server_as_they_are() {
        let given = [
            ("user", "u"),
            ("replication", "yes"),
            ("options", "-d 5 -c geqo=off"),
            ("application_name", "x"),
        ];
        for compatibility in [Compatibility::Postgres, Compatibility::PgBouncer] {
            let settings = Settings { compatibility, ..Settings::default() };
            let start = Wanted::read(&startup(&given), &settings, &"").unwrap().replication_start().unwrap();
            let expected = [("application_name", "x"), ("options", "-d 5 -c geqo=off")];
            let parameters: Vec<_> = start.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!((start.kind, parameters.as_slice()), (Replication::Physical, &expected[..]));
        }
        let ordinary = Wanted::read(&startup(&[("user", "u")]), &settings(), &"").unwrap();
        assert_eq!(ordinary.replication_start(), None);
    }

    proptest! {
        #[test]
        fn no_options_make_the_reader_panic(options in "\\PC*") {
            let _ = parameters(&settings(), &[("options", &options)]);
        }

        #[test]
        fn any_value_can_be_escaped(value in "[ -~]{0,20}") {
            let escaped: String = value.chars().flat_map(|char| ['\\', char]).collect();
            let read = parse_options(&format!("-c a={escaped}"));
            prop_assert_eq!(read, Ok(vec![("a".to_owned(), value)]));
        }
    }
}
