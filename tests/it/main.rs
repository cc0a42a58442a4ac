//! pgweir against real PostgreSQL clusters that the tests start themselves: one file for each part of its behaviour.

#![expect(clippy::unwrap_used, reason = "a test may fail wherever something is not as it must be")]

#[path = "../support/mod.rs"]
mod support;

mod as_pgbouncer;
mod auth;
mod cancel;
mod config;
mod console;
mod differences;
mod differential;
mod drivers;
mod errors;
mod hba;
mod ldap;
mod life;
mod metrics;
mod names;
mod operators;
mod pam;
mod parameters;
mod peers;
mod pools;
mod prepared;
mod protocol;
mod relay;
mod replacing;
mod replication;
mod restart;
mod rings;
mod schema;
mod service;
mod shows;
mod suspend;
mod switchover;
mod timeouts;
mod tls;
mod workers;
