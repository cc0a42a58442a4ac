//! One client: start-up, login, conversation.

pub mod accept;
mod alarm;
pub mod census;
pub mod cleaning;
pub mod drive;
pub mod export;
mod ldap;
mod line;
pub mod login;
mod pam;
pub mod patience;
mod pulse;
pub mod refusal;
pub mod secrets;
pub mod staffing;
pub mod startup;
mod worker;

pub use accept::{Arrival, Caller, accept};
pub use census::{Census, Limit, Seat};
pub use export::Exports;
pub use line::{End, Line, READ_BYTES};
pub use login::{Admitted, House, Lobby, LoggedIn, Welcome, Welcomed, login, stored_credentials};
pub use refusal::Refusal;
pub use staffing::Staffing;
pub use worker::Worker;

#[cfg(test)]
mod tests;
