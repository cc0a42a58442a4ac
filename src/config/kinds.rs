//! The kinds of values that settings have: for each, how it is read, shown and described.
//!
//! Knows no setting by name. What [`Kind::show`] writes, [`Kind::read`] takes back, secrets excepted.

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{DatabaseName, UserName};

use super::value::{
    Fault, bytes, database_name, flag, host, items, not_among, show_milliseconds, show_seconds, time,
    user_name, whole,
};
use super::{
    AuthType, Compatibility, Host, LoadBalanceHosts, LogFormat, LogLevel, PoolMode, RelayDriver, Secret,
    SslMode,
};

/// How a value may be written in TOML, and how a bare number of it is to be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A whole number.
    Number,
    /// A time in seconds.
    Seconds,
    /// A time in milliseconds.
    Milliseconds,
    /// A size in bytes.
    Bytes,
    /// Off or on.
    Flag,
    /// A text.
    Text,
    /// A file or directory, relative to the configuration's own.
    Path,
    /// Several texts.
    List,
}

/// What a value has to do with files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileUse {
    /// Nothing, or the file is made by the program.
    None,
    /// It names a file that must be readable.
    Read,
    /// It names a file that must be readable, and by nobody else.
    Secret,
    /// It names a file whose text is the value.
    Content,
}

/// What there is to know about a kind of value.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What to call it in the reference: `time in seconds`, `0 or 1` …
    pub name: &'static str,
    /// How it is written.
    pub form: Form,
    /// The words it takes, where there are only so many.
    pub words: &'static [&'static str],
    /// What it has to do with files.
    pub file: FileUse,
}

impl Facts {
    const fn of(name: &'static str, form: Form) -> Self {
        Self { name, form, words: &[], file: FileUse::None }
    }

    const fn words(words: &'static [&'static str]) -> Self {
        Self { name: "word", form: Form::Text, words, file: FileUse::None }
    }

    const fn file(self, file: FileUse) -> Self {
        Self { file, ..self }
    }
}

/// One way to write values of type `T`.
pub struct Kind<T> {
    /// What there is to know about it.
    pub facts: Facts,
    /// Text to value.
    pub read: fn(&str) -> Result<T, Fault>,
    /// Value to text; `None` where there is no value.
    pub show: fn(&T) -> Option<String>,
}

/// A time; a bare number is in seconds.
pub const SECONDS: Kind<Duration> = Kind {
    facts: Facts::of("time, bare number in seconds", Form::Seconds),
    read: |text| time(text, 1_000_000),
    show: |it| Some(show_seconds(*it)),
};

/// A time; a bare number is in milliseconds.
pub const MILLISECONDS: Kind<Duration> = Kind {
    facts: Facts::of("time, bare number in milliseconds", Form::Milliseconds),
    read: |text| time(text, 1000),
    show: |it| Some(show_milliseconds(*it)),
};

/// A size; a bare number is in bytes.
pub const BYTES: Kind<u64> = Kind {
    facts: Facts::of("size, bare number in bytes", Form::Bytes),
    read: bytes,
    show: |it| Some(it.to_string()),
};

/// How many.
pub const COUNT: Kind<usize> = Kind {
    facts: Facts::of("number", Form::Number),
    read: |text| whole(text, 0, i64::from(i32::MAX)).map(|it| it as usize),
    show: |it| Some(it.to_string()),
};

/// How many, at least one.
pub const COUNT_NOT_0: Kind<usize> = Kind {
    facts: Facts::of("number", Form::Number),
    read: |text| whole(text, 1, i64::from(i32::MAX)).map(|it| it as usize),
    show: |it| Some(it.to_string()),
};

/// A number that a system call takes.
pub const NUMBER: Kind<u32> = Kind {
    facts: Facts::of("number", Form::Number),
    read: |text| whole(text, 0, i64::from(i32::MAX)).map(|it| it as u32),
    show: |it| Some(it.to_string()),
};

/// PBKDF2 iterations: at least one.
pub const ITERATIONS: Kind<u32> = Kind {
    facts: Facts::of("number", Form::Number),
    read: |text| whole(text, 1, i64::from(i32::MAX)).map(|it| it as u32),
    show: |it| Some(it.to_string()),
};

/// A TCP port; 0 lets the system choose one.
pub const PORT: Kind<u16> = Kind {
    facts: Facts::of("port", Form::Number),
    read: |text| whole(text, 0, 65535).map(|it| it as u16),
    show: |it| Some(it.to_string()),
};

/// A process among peers. PgBouncer's range: `cf_peer_id` in `src/main.c`.
pub const PEER_ID: Kind<u16> = Kind {
    facts: Facts::of("number", Form::Number),
    read: |text| whole(text, 0, 16383).map(|it| it as u16),
    show: |it| Some(it.to_string()),
};

/// How talkative the log is; not set is 0.
pub const VERBOSITY: Kind<u8> = Kind {
    facts: Facts::of("number", Form::Number),
    read: |text| if text.is_empty() { Ok(0) } else { whole(text, 0, 255).map(|it| it as u8) },
    show: |it| Some(it.to_string()),
};

/// Permissions of a file, in octal with a leading zero.
pub const FILE_MODE: Kind<u32> = Kind {
    facts: Facts::of("permissions", Form::Number),
    read: |text| whole(text, 0, 0o777).map(|it| it as u32).map_err(|it| it.hint("write it in octal: 0770")),
    show: |it| Some(it.to_string()),
};

/// Off or on.
pub const FLAG: Kind<bool> = Kind {
    facts: Facts::of("0 or 1", Form::Flag),
    read: flag,
    show: |it| Some(if *it { "1" } else { "0" }.to_owned()),
};

/// Any text.
pub const TEXT: Kind<String> = Kind {
    facts: Facts::of("text", Form::Text),
    read: |text| Ok(text.to_owned()),
    show: |it| Some(it.clone()),
};

/// Any text; empty is none.
pub const MAYBE_TEXT: Kind<Option<String>> = Kind {
    facts: Facts::of("text", Form::Text),
    read: |text| Ok((!text.is_empty()).then(|| text.to_owned())),
    show: |it| it.clone(),
};

/// A query that may be off (empty) or be the empty query (`<empty>`).
pub const CHECK_QUERY: Kind<Option<String>> = Kind {
    facts: Facts::of("query", Form::Text),
    read: |text| {
        Ok(match text {
            "" => None,
            "<empty>" => Some(String::new()),
            query => Some(query.to_owned()),
        })
    },
    show: |it| match it {
        None => Some(String::new()),
        Some(query) if query.is_empty() => Some("<empty>".to_owned()),
        Some(query) => Some(query.clone()),
    },
};

/// A text that SHOW does not reveal.
pub const SECRET: Kind<Option<Secret>> = Kind {
    facts: Facts::of("secret text", Form::Text),
    read: |text| Ok((!text.is_empty()).then(|| Secret::new(text))),
    show: |it| it.as_ref().map(|_| "********".to_owned()),
};

/// A file or directory; empty is none.
pub const PATH: Kind<Option<PathBuf>> = Kind {
    facts: Facts::of("path", Form::Path),
    read: |text| Ok((!text.is_empty()).then(|| PathBuf::from(text))),
    show: |it| it.as_ref().map(|path| path.display().to_string()),
};

/// Texts with commas between them.
pub const LIST: Kind<Vec<String>> = Kind {
    facts: Facts::of("list", Form::List),
    read: |text| Ok(items(text).map(str::to_owned).collect()),
    show: |it| Some(it.join(", ")),
};

/// Users with commas between them.
pub const USERS: Kind<Vec<UserName>> = Kind {
    facts: Facts::of("list of users", Form::List),
    read: |text| items(text).map(user_name).collect(),
    show: |it| Some(it.iter().map(UserName::as_str).collect::<Vec<_>>().join(", ")),
};

/// One user; empty is none.
pub const USER: Kind<Option<UserName>> = Kind {
    facts: Facts::of("user", Form::Text),
    read: |text| if text.is_empty() { Ok(None) } else { user_name(text).map(Some) },
    show: |it| it.as_ref().map(|user| user.as_str().to_owned()),
};

/// One database entry; empty is none.
pub const DATABASE: Kind<Option<DatabaseName>> = Kind {
    facts: Facts::of("database", Form::Text),
    read: |text| if text.is_empty() { Ok(None) } else { database_name(text).map(Some) },
    show: |it| it.as_ref().map(|database| database.as_str().to_owned()),
};

/// Declares a kind whose values are a handful of words, each the name of a variant.
macro_rules! words {
    ($(#[$doc:meta])* $kind:ident: $type:ty = $($word:literal => $variant:ident),+ $(,)?) => {
        $(#[$doc])*
        pub const $kind: Kind<$type> = Kind {
            facts: Facts::words(&[$($word),+]),
            read: |text| match text {
                $(text if text.eq_ignore_ascii_case($word) => Ok(<$type>::$variant),)+
                other => Err(not_among(other, &[$($word),+])),
            },
            show: |it| Some(match it { $(<$type>::$variant => $word,)+ }.to_owned()),
        };
    };
}

words! {
    /// `pool_mode`.
    POOL_MODE: PoolMode = "session" => Session, "transaction" => Transaction, "statement" => Statement
}
words! {
    /// `auth_type`.
    AUTH_TYPE: AuthType =
        "any" => Any, "trust" => Trust, "plain" => Plain, "md5" => Md5, "scram-sha-256" => ScramSha256,
        "cert" => Cert, "hba" => Hba, "ldap" => Ldap, "pam" => Pam
}
words! {
    /// `client_tls_sslmode`, `server_tls_sslmode`.
    SSL_MODE: SslMode =
        "disable" => Disable, "allow" => Allow, "prefer" => Prefer, "require" => Require,
        "verify-ca" => VerifyCa, "verify-full" => VerifyFull
}
words! {
    /// `compatibility`.
    COMPATIBILITY: Compatibility = "postgres" => Postgres, "pgbouncer" => PgBouncer
}
words! {
    /// `log_format`.
    LOG_FORMAT: LogFormat = "text" => Text, "json" => Json, "pgbouncer" => PgBouncer
}
words! {
    /// `relay_driver`.
    RELAY_DRIVER: RelayDriver = "auto" => Auto, "tokio" => Tokio, "io_uring" => IoUring
}
words! {
    /// `log_level`.
    LOG_LEVEL: LogLevel =
        "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace
}

/// Names of syslog's facilities, as PgBouncer takes them: `src/main.c` and `lib/usual/logging.c`.
const FACILITIES: &[&str] = &[
    "auth", "authpriv", "daemon", "user", "local0", "local1", "local2", "local3", "local4", "local5",
    "local6", "local7",
];

/// `syslog_facility`.
pub const FACILITY: Kind<String> = Kind {
    facts: Facts::words(FACILITIES),
    read: |text| {
        let found = FACILITIES.iter().find(|word| word.eq_ignore_ascii_case(text));
        found.map(|word| (*word).to_owned()).ok_or_else(|| not_among(text, FACILITIES))
    },
    show: |it| Some(it.clone()),
};

words! {
    /// `load_balance_hosts`.
    LOAD_BALANCE: LoadBalanceHosts = "round-robin" => RoundRobin, "disable" => Disable
}

/// A file that must be readable; empty is none.
pub const FILE: Kind<Option<PathBuf>> =
    Kind { facts: PATH.facts.file(FileUse::Read), read: PATH.read, show: PATH.show };

/// A file that must be readable, and by nobody else; empty is none.
pub const SECRET_FILE: Kind<Option<PathBuf>> =
    Kind { facts: PATH.facts.file(FileUse::Secret), read: PATH.read, show: PATH.show };

/// A secret whose value names the file it is in.
pub const SECRET_IN_FILE: Kind<Option<Secret>> =
    Kind { facts: PATH.facts.file(FileUse::Content), read: SECRET.read, show: |_| None };

/// Hosts with commas between them.
pub const HOSTS: Kind<Vec<Host>> = Kind {
    facts: Facts::of("list of hosts", Form::List),
    read: |text| Ok(items(text).map(host).collect()),
    show: |it| (!it.is_empty()).then(|| it.iter().map(Host::to_string).collect::<Vec<_>>().join(",")),
};

/// One host; a comma is part of it.
pub const HOST: Kind<Host> = Kind {
    facts: Facts::of("host", Form::Text),
    read: |text| Ok(host(text)),
    show: |it| Some(it.to_string()),
};

/// Address and port to listen on.
pub const ADDRESS: Kind<Option<String>> = Kind {
    facts: Facts::of("address:port", Form::Text),
    read: |text| match text.rsplit_once(':') {
        None if text.is_empty() => Ok(None),
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(Some(text.to_owned())),
        _ => Err(Fault::new(format!("not an address with a port: \"{text}\""))
            .hint("as in 127.0.0.1:9930, [::1]:9930 or :9930")),
    },
    show: |it| it.clone(),
};

/// The words of a list of TLS versions, as `tls_config_parse_protocols` in PgBouncer's `lib/usual/tls/tls_config.c`
/// takes them.
const TLS_VERSIONS: &[&str] =
    &["all", "legacy", "secure", "default", "tlsv1", "tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3"];

/// TLS versions with commas or colons between them; `!` takes one away.
pub const TLS_PROTOCOLS: Kind<String> = Kind {
    facts: Facts::of("list of TLS versions", Form::List),
    read: |text| {
        let unknown = text.split([',', ':']).map(str::trim).find(|item| {
            let word = item.strip_prefix('!').unwrap_or(item);
            !item.is_empty() && !TLS_VERSIONS.iter().any(|it| it.eq_ignore_ascii_case(word))
        });
        unknown.map_or_else(|| Ok(text.to_owned()), |word| Err(not_among(word, TLS_VERSIONS)))
    },
    show: |it| Some(it.clone()),
};

/// A port that something listens on.
pub const SERVER_PORT: Kind<u16> =
    Kind { facts: PORT.facts, read: |text| whole(text, 1, 65535).map(|it| it as u16), show: PORT.show };

/// Declares a kind whose values override another setting's, or do not.
macro_rules! maybe {
    ($(#[$doc:meta] $kind:ident: $type:ty = $of:ident;)*) => {
        $(
            #[$doc]
            pub const $kind: Kind<Option<$type>> = Kind {
                facts: $of.facts,
                read: |text| match text {
                    // PgBouncer's way to say "as the global setting".
                    "" | "-1" => Ok(None),
                    text => ($of.read)(text).map(Some),
                },
                show: |it| it.as_ref().and_then(|it| ($of.show)(it)),
            };
        )*
    };
}

maybe! {
    /// How many, or as elsewhere.
    MAYBE_COUNT: usize = COUNT;
    /// A time, or as elsewhere.
    MAYBE_SECONDS: Duration = SECONDS;
    /// A pool mode, or as elsewhere.
    MAYBE_POOL_MODE: PoolMode = POOL_MODE;
    /// A port, or the usual one.
    MAYBE_PORT: u16 = SERVER_PORT;
}
