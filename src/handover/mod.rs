//! What one process leaves to the next, and what the service manager gives and is told.
//!
//! Owns the next process's conversation with the one before ([`OldProcess`]), and the protocol of systemd: sockets that
//! come with the process ([`inherited`]) and the words that go back ([`Notifier`]). It decides nothing about clients and pools.

mod inherited;
mod notify;
mod old;
mod task;

pub use inherited::{InheritError, Inherited, inherited};
pub use notify::Notifier;
pub use old::{Column, OldProcess, Program, Row, TakeOverError, socket_of};
pub use task::Task;
