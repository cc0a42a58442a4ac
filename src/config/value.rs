//! How one value is written: times, sizes, numbers, lists and words, between text and type.
//!
//! Owns the units and the ranges. It knows no setting by name. What [`Kind::show`] writes, [`Kind::read`] takes back.

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{DatabaseName, UserName};

use super::{AuthType, Compatibility, Host, LogFormat, LogLevel, PoolMode, Secret, SslMode};

/// Why a text is no value of its kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without advice.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// The same with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One way to write values of type `T`.
pub struct Kind<T> {
    /// What to call it in the reference: `time in seconds`, `0 or 1` …
    pub name: &'static str,
    /// The words it takes, where there are only so many.
    pub words: &'static [&'static str],
    /// Text to value.
    pub read: fn(&str) -> Result<T, Fault>,
    /// Value to text; `None` where there is no value.
    pub show: fn(&T) -> Option<String>,
}

/// The longest time that can be set, so that adding it to an instant never overflows: a hundred years.
const TIME_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

const TIME_UNITS: &[(&str, f64)] =
    &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];

const SIZE_UNITS: &[(&str, f64)] =
    &[("B", 1.0), ("kB", 1024.0), ("MB", 1048576.0), ("GB", 1073741824.0), ("TB", 1099511627776.0)];

/// A time; a bare number is in seconds.
pub const SECONDS: Kind<Duration> = Kind {
    name: "time, bare number in seconds",
    words: &[],
    read: |text| time(text, 1.0),
    show: |it| Some(show_seconds(*it)),
};

/// A time; a bare number is in milliseconds.
pub const MILLISECONDS: Kind<Duration> = Kind {
    name: "time, bare number in milliseconds",
    words: &[],
    read: |text| time(text, 1e-3),
    show: |it| Some(show_milliseconds(*it)),
};

/// A size; a bare number is in bytes.
pub const BYTES: Kind<u64> =
    Kind { name: "size, bare number in bytes", words: &[], read: bytes, show: |it| Some(it.to_string()) };

/// How many.
pub const COUNT: Kind<usize> = Kind {
    name: "number",
    words: &[],
    read: |text| whole(text, 0, i64::from(i32::MAX)).map(|it| it as usize),
    show: |it| Some(it.to_string()),
};

/// How many, at least one.
pub const COUNT_NOT_0: Kind<usize> = Kind {
    name: "number",
    words: &[],
    read: |text| whole(text, 1, i64::from(i32::MAX)).map(|it| it as usize),
    show: |it| Some(it.to_string()),
};

/// A number that a system call takes.
pub const NUMBER: Kind<u32> = Kind {
    name: "number",
    words: &[],
    read: |text| whole(text, 0, i64::from(i32::MAX)).map(|it| it as u32),
    show: |it| Some(it.to_string()),
};

/// PBKDF2 iterations: at least one.
pub const ITERATIONS: Kind<u32> = Kind {
    name: "number",
    words: &[],
    read: |text| whole(text, 1, i64::from(i32::MAX)).map(|it| it as u32),
    show: |it| Some(it.to_string()),
};

/// A TCP port; 0 lets the system choose one.
pub const PORT: Kind<u16> = Kind {
    name: "port",
    words: &[],
    read: |text| whole(text, 0, 65535).map(|it| it as u16),
    show: |it| Some(it.to_string()),
};

/// A process among peers. PgBouncer's range: `cf_peer_id` in `src/main.c`.
pub const PEER_ID: Kind<u16> = Kind {
    name: "number",
    words: &[],
    read: |text| whole(text, 0, 16383).map(|it| it as u16),
    show: |it| Some(it.to_string()),
};

/// How talkative the log is; not set is 0.
pub const VERBOSITY: Kind<u8> = Kind {
    name: "number",
    words: &[],
    read: |text| if text.is_empty() { Ok(0) } else { whole(text, 0, 3).map(|it| it as u8) },
    show: |it| Some(it.to_string()),
};

/// Permissions of a file, in octal with a leading zero.
pub const FILE_MODE: Kind<u32> = Kind {
    name: "permissions",
    words: &[],
    read: |text| {
        whole(text, 0, 0o777)
            .map(|it| it as u32)
            .map_err(|it| it.hint("write it in octal: 0o770 or \"0770\""))
    },
    show: |it| Some(it.to_string()),
};

/// Off or on.
pub const FLAG: Kind<bool> = Kind {
    name: "0 or 1",
    words: &["0", "1", "false", "true"],
    read: flag,
    show: |it| Some(if *it { "1" } else { "0" }.to_owned()),
};

/// Any text.
pub const TEXT: Kind<String> =
    Kind { name: "text", words: &[], read: |text| Ok(text.to_owned()), show: |it| Some(it.clone()) };

/// Any text; empty is none.
pub const MAYBE_TEXT: Kind<Option<String>> = Kind {
    name: "text",
    words: &[],
    read: |text| Ok((!text.is_empty()).then(|| text.to_owned())),
    show: |it| it.clone(),
};

/// A query that may be off (empty) or be the empty query (`<empty>`).
pub const CHECK_QUERY: Kind<Option<String>> = Kind {
    name: "query",
    words: &[],
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
    name: "secret text",
    words: &[],
    read: |text| Ok((!text.is_empty()).then(|| Secret::new(text))),
    show: |it| it.as_ref().map(|_| "********".to_owned()),
};

/// A file or directory; empty is none.
pub const PATH: Kind<Option<PathBuf>> = Kind {
    name: "path",
    words: &[],
    read: |text| Ok((!text.is_empty()).then(|| PathBuf::from(text))),
    show: |it| it.as_ref().map(|path| path.display().to_string()),
};

/// Texts with commas between them.
pub const LIST: Kind<Vec<String>> = Kind {
    name: "list",
    words: &[],
    read: |text| Ok(items(text).map(str::to_owned).collect()),
    show: |it| Some(it.join(", ")),
};

/// Users with commas between them.
pub const USERS: Kind<Vec<UserName>> = Kind {
    name: "list of users",
    words: &[],
    read: |text| items(text).map(user_name).collect(),
    show: |it| Some(it.iter().map(UserName::as_str).collect::<Vec<_>>().join(", ")),
};

/// One user; empty is none.
pub const USER: Kind<Option<UserName>> = Kind {
    name: "user",
    words: &[],
    read: |text| if text.is_empty() { Ok(None) } else { user_name(text).map(Some) },
    show: |it| it.as_ref().map(|user| user.as_str().to_owned()),
};

/// One database entry; empty is none.
pub const DATABASE: Kind<Option<DatabaseName>> = Kind {
    name: "database",
    words: &[],
    read: |text| if text.is_empty() { Ok(None) } else { database_name(text).map(Some) },
    show: |it| it.as_ref().map(|database| database.as_str().to_owned()),
};

/// Declares a kind whose values are a handful of words, each the name of a variant.
macro_rules! words {
    ($(#[$doc:meta])* $kind:ident: $type:ty = $($word:literal => $variant:ident),+ $(,)?) => {
        $(#[$doc])*
        pub const $kind: Kind<$type> = Kind {
            name: "word",
            words: &[$($word),+],
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
    name: "word",
    words: FACILITIES,
    read: |text| {
        let found = FACILITIES.iter().find(|word| word.eq_ignore_ascii_case(text));
        found.map(|word| (*word).to_owned()).ok_or_else(|| not_among(text, FACILITIES))
    },
    show: |it| Some(it.clone()),
};

/// Where a host entry points: a path or `@name` is a Unix socket.
pub fn host(text: &str) -> Host {
    if text.starts_with('/') || text.starts_with('@') {
        Host::Unix(PathBuf::from(text))
    } else {
        Host::Name(text.to_owned())
    }
}

/// PostgreSQL's limit for the name of a database: NAMEDATALEN - 1.
const DATABASE_NAME_BYTES_MAX: usize = 63;

/// PgBouncer's limit for the name of a user: MAX_USERNAME in `include/bouncer.h`, less its terminator.
const USER_NAME_BYTES_MAX: usize = 127;

/// Takes a text as the name of a database entry.
pub fn database_name(text: &str) -> Result<DatabaseName, Fault> {
    name(text, "database name", DATABASE_NAME_BYTES_MAX).map(DatabaseName::from)
}

/// Takes a text as the name of a user.
pub fn user_name(text: &str) -> Result<UserName, Fault> {
    name(text, "user name", USER_NAME_BYTES_MAX).map(UserName::from)
}

fn name<'a>(text: &'a str, what: &str, bytes_max: usize) -> Result<&'a str, Fault> {
    if text.is_empty() {
        Err(Fault::new(format!("a {what} must not be empty")))
    } else if text.len() > bytes_max {
        Err(Fault::new(format!("{what} too long: {} bytes, at most {bytes_max}", text.len())))
    } else if text.contains('\0') {
        Err(Fault::new(format!("a {what} must not contain a zero byte")))
    } else {
        Ok(text)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn flag(text: &str) -> Result<bool, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" => Ok(true),
        "false" | "off" | "no" => Ok(false),
        // PgBouncer's flags are integers; anything but zero is on.
        number => whole(number, i64::MIN, i64::MAX)
            .map(|it| it != 0)
            .map_err(|_| Fault::new(format!("neither 0 nor 1: \"{text}\""))),
    }
}

/// Reads an integer as C's `strtol` with base 0 does: `0x` is hexadecimal, a leading zero octal.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if !digits.starts_with(|it: char| it.is_digit(radix)) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn whole(text: &str, min: i64, max: i64) -> Result<i64, Fault> {
    let value = integer(text).ok_or_else(|| Fault::new(format!("not a whole number: \"{text}\"")))?;
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Fault::new(format!("out of range: {value}")).hint(format!("from {min} to {max}")))
    }
}

fn quantity(text: &str, bare: f64, units: &[(&str, f64)]) -> Result<f64, Fault> {
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (digits, unit) = (&text[..end], text[end..].trim());
    let number: f64 = match digits.parse() {
        Ok(number) => number,
        Err(_) if text.starts_with('-') => return Err(Fault::new("must not be negative").hint("0 or more")),
        Err(_) => return Err(Fault::new(format!("not a number: \"{text}\"")).hint(show_units(units))),
    };
    if unit.is_empty() {
        return Ok(number * bare);
    }
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok(number * factor),
        None => Err(Fault::new(format!("unknown unit \"{unit}\"")).hint(show_units(units))),
    }
}

fn show_units(units: &[(&str, f64)]) -> String {
    let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
    format!("units are {}", names.join(", "))
}

fn time(text: &str, bare: f64) -> Result<Duration, Fault> {
    let seconds = quantity(text, bare, TIME_UNITS)?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time <= TIME_MAX => Ok(time),
        _ => Err(Fault::new("too long a time").hint("at most 36600d")),
    }
}

fn bytes(text: &str) -> Result<u64, Fault> {
    // A whole number of bytes is read without floating point, which would round large ones.
    if let Some(value) = integer(text) {
        return u64::try_from(value).map_err(|_| Fault::new("must not be negative").hint("0 or more"));
    }
    let value = quantity(text, 1.0, SIZE_UNITS)?;
    if value <= SIZE_MAX { Ok(value.round() as u64) } else { Err(Fault::new("too large a size")) }
}

/// The largest size that can be set with a unit: beyond it `f64` skips numbers.
const SIZE_MAX: f64 = 9007199254740992.0;

fn show_seconds(time: Duration) -> String {
    decimal(time.as_secs(), time.subsec_nanos(), 9)
}

fn show_milliseconds(time: Duration) -> String {
    let millis = time.as_secs().saturating_mul(1000) + u64::from(time.subsec_millis());
    decimal(millis, time.subsec_nanos() % 1_000_000, 6)
}

fn decimal(whole: u64, fraction: u32, digits: usize) -> String {
    if fraction == 0 {
        whole.to_string()
    } else {
        format!("{whole}.{fraction:0digits$}").trim_end_matches('0').to_owned()
    }
}

fn not_among(text: &str, words: &[&str]) -> Fault {
    let fault = Fault::new(format!("unknown value \"{text}\""));
    match super::diagnostic::nearest(text, words.iter().copied()) {
        Some(word) => fault.hint(format!("did you mean \"{word}\"? one of {}", words.join(", "))),
        None => fault.hint(format!("one of {}", words.join(", "))),
    }
}
