//! Times, sizes, numbers and names between text and type.
//!
//! Owns the units and the ranges. It knows neither settings nor files. What a `show` function writes, the function
//! that reads takes back exactly.

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{DatabaseName, UserName};

use super::Host;
use super::diagnostic::nearest;

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

/// The longest time that can be set, so that adding it to an instant never overflows: a hundred years.
const TIME_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

const TIME_UNITS: &[(&str, f64)] =
    &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];

const SIZE_UNITS: &[(&str, f64)] =
    &[("B", 1.0), ("kB", 1024.0), ("MB", 1048576.0), ("GB", 1073741824.0), ("TB", 1099511627776.0)];

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

/// The parts of a list with commas.
pub fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Off or on. PgBouncer writes 0 and 1; words are taken too.
pub fn flag(text: &str) -> Result<bool, Fault> {
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

/// A whole number within a range.
pub fn whole(text: &str, min: i64, max: i64) -> Result<i64, Fault> {
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

/// A time; a number without a unit counts as `bare` seconds.
pub fn time(text: &str, bare: f64) -> Result<Duration, Fault> {
    let seconds = quantity(text, bare, TIME_UNITS)?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time <= TIME_MAX => Ok(time),
        _ => Err(Fault::new("too long a time").hint("at most 36600d")),
    }
}

/// A size in bytes.
pub fn bytes(text: &str) -> Result<u64, Fault> {
    // A whole number of bytes is read without floating point, which would round large ones.
    if let Some(value) = integer(text) {
        return u64::try_from(value).map_err(|_| Fault::new("must not be negative").hint("0 or more"));
    }
    let value = quantity(text, 1.0, SIZE_UNITS)?;
    if value <= SIZE_MAX { Ok(value.round() as u64) } else { Err(Fault::new("too large a size")) }
}

/// The largest size that can be set with a unit: beyond it `f64` skips numbers.
const SIZE_MAX: f64 = 9007199254740992.0;

/// A time as [`time`] reads it back with `bare` = 1.
pub fn show_seconds(time: Duration) -> String {
    decimal(time.as_secs(), time.subsec_nanos(), 9)
}

/// A time as [`time`] reads it back with `bare` = 0.001.
pub fn show_milliseconds(time: Duration) -> String {
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

/// What to say of a word that is none of the possible ones.
pub fn not_among(text: &str, words: &[&str]) -> Fault {
    let fault = Fault::new(format!("unknown value \"{text}\""));
    match nearest(text, words.iter().copied()) {
        Some(word) => fault.hint(format!("did you mean \"{word}\"? one of {}", words.join(", "))),
        None => fault.hint(format!("one of {}", words.join(", "))),
    }
}
