//! The stacks that pgweir fronts, without a container engine: compose files are validated, and every script, SQL file
//! and configuration runs for real against servers that the tests start, as their images would.

#![expect(clippy::unwrap_used, reason = "a test may fail wherever something is not as it must be")]

#[expect(
    dead_code,
    unused_imports,
    reason = "what the tests of pgweir itself stand on, of which this takes a part"
)]
#[path = "../support/mod.rs"]
mod support;

mod compose;
mod servers;
mod shell;

mod examined;
mod files;
mod image;
mod lingudesk;
mod package;
mod systems;
