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

/// What a time may be counted in, in microseconds: PgBouncer keeps times no finer.
const TIME_UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// What a size may be counted in, in bytes.
const SIZE_UNITS: &[(&str, u64)] =
    &[("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

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

/// Whether a text was UTF-8 before it was decoded: what was not has become a replacement character, which is no part of
/// any name or secret here.
pub fn is_utf8(text: &str) -> bool {
    !text.contains(char::REPLACEMENT_CHARACTER)
}

/// What to say of a name or a value that is not. The text itself is not shown: it may be a secret.
pub fn not_utf8(what: &str) -> Fault {
    Fault::new(format!("{what} is not UTF-8")).hint("as iconv -f latin1 -t utf-8 makes of Latin-1")
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

/// A decimal number times its unit, rounded; without floating point, so that what is shown reads back the same.
fn quantity(text: &str, bare: u64, units: &[(&str, u64)]) -> Result<u64, Fault> {
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (digits, unit) = (&text[..end], text[end..].trim());
    let Some((number, scale)) = decimal(digits) else {
        return Err(match text.starts_with('-') {
            true => Fault::new("must not be negative").hint("0 or more"),
            false => Fault::new(format!("not a number: \"{text}\"")).hint(show_units(units)),
        });
    };
    let factor = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => bare,
        None => return Err(Fault::new(format!("unknown unit \"{unit}\"")).hint(show_units(units))),
    };
    let value = number.saturating_mul(u128::from(factor)).saturating_add(scale / 2) / scale;
    u64::try_from(value).map_err(|_| Fault::new("too large a number"))
}

/// A decimal number as a whole number and the power of ten to divide it by.
fn decimal(digits: &str) -> Option<(u128, u128)> {
    /// Digits after the point beyond these cannot matter: no unit is that large.
    const FRACTION_DIGITS_MAX: usize = 15;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.get(..FRACTION_DIGITS_MAX.min(fraction.len()))?;
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let number = format!("{whole}{fraction}").parse().ok()?;
    Some((number, 10u128.pow(fraction.len() as u32)))
}

fn show_units(units: &[(&str, u64)]) -> String {
    let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
    format!("units are {}", names.join(", "))
}

/// A time; a number without a unit counts as `bare` microseconds.
pub fn time(text: &str, bare: u64) -> Result<Duration, Fault> {
    match quantity(text, bare, TIME_UNITS).map(Duration::from_micros) {
        Ok(time) if time > TIME_MAX => Err(Fault::new("too long a time").hint("at most 36600d")),
        other => other,
    }
}

/// A size in bytes.
pub fn bytes(text: &str) -> Result<u64, Fault> {
    match integer(text) {
        Some(value) => u64::try_from(value).map_err(|_| Fault::new("must not be negative").hint("0 or more")),
        None => quantity(text, 1, SIZE_UNITS),
    }
}

/// A time in seconds.
pub fn show_seconds(time: Duration) -> String {
    show_decimal(time.as_secs(), time.subsec_micros(), 6)
}

/// A time in milliseconds.
pub fn show_milliseconds(time: Duration) -> String {
    let millis = time.as_secs().saturating_mul(1000) + u64::from(time.subsec_millis());
    show_decimal(millis, time.subsec_micros() % 1000, 3)
}

fn show_decimal(whole: u64, fraction: u32, digits: usize) -> String {
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
