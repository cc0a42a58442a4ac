//! What a conversation means, without input or output of its own.
//!
//! Owns the relay: the whole state machine of one client and the server it has on loan. Events go in as method
//! calls (bytes came, bytes were sent, a server was granted or is gone), and what is to be done is asked of it.

pub mod owed;
pub mod params;
pub mod pipe;
pub mod portable;
pub mod relay;
pub mod server;
pub mod verdict;

pub use crate::sql::residue;
pub use relay::Relay;

#[cfg(test)]
mod tests;
