//! Pools of servers.

pub mod schedule;
