//! The command line under PgBouncer's name: what it takes is PgBouncer's, and so are the words for what it does not.
//!
//! PgBouncer reads its options by getopt_long(3), whose messages scripts may look for.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, FromArgMatches};

use super::{NO_FILE, Run};

/// Reads the arguments.
///
/// Errors: what to print, and whether it was asked for.
pub fn parse(arguments: &[OsString]) -> Result<Run, clap::Error> {
    let command = Run::augment_args(clap::Command::new("pgbouncer"))
        .about("pgbouncer is a connection pooler for PostgreSQL; this one is pgweir")
        .override_usage("pgbouncer [OPTION]... CONFIG_FILE")
        .disable_version_flag(true)
        .infer_long_args(true)
        .args_override_self(true)
        .mut_arg("config", |it| it.value_name("CONFIG_FILE").help("The pgbouncer.ini"));
    Run::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// What getopt_long(3), or PgBouncer itself, says of a wrong command line.
pub fn complaint(error: &clap::Error, arguments: &[OsString]) -> String {
    let words = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => words(error.kind(), argument, arguments),
        _ => NO_FILE.to_owned(),
    };
    format!("pgbouncer: {words}\nTry \"pgbouncer --help\" for more information.\n")
}

fn words(kind: ErrorKind, argument: &str, arguments: &[OsString]) -> String {
    // Our parser shows an option with what it takes: `--user <NAME>`.
    let name = argument.split([' ', '=']).next().unwrap_or_default();
    match (kind, name.strip_prefix("--"), name.strip_prefix('-')) {
        (ErrorKind::UnknownArgument, Some(_), _) => format!("unrecognized option '{name}'"),
        (ErrorKind::UnknownArgument, None, Some(letter)) => format!("invalid option -- '{letter}'"),
        (ErrorKind::InvalidValue, Some(_), _) => missing_value(name, arguments),
        (ErrorKind::TooManyValues, Some(_), _) => format!("option '{name}' doesn't allow an argument"),
        // A second file.
        _ => NO_FILE.to_owned(),
    }
}

/// Only the last argument can lack its value.
fn missing_value(name: &str, arguments: &[OsString]) -> String {
    let is_long = arguments.last().is_some_and(|last| last.as_encoded_bytes().starts_with(b"--"));
    match name.chars().nth(2) {
        Some(letter) if !is_long => format!("option requires an argument -- '{letter}'"),
        _ => format!("option '{name}' requires an argument"),
    }
}
