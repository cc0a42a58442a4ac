//! One client: start-up, login, conversation.

pub mod accept;
pub mod census;
mod line;
pub mod login;
pub mod refusal;
pub mod secrets;
pub mod startup;

pub use accept::{Arrival, Caller, accept};
pub use census::{Census, Limit, Seat};
pub use line::{End, Line};
pub use login::{Admitted, House, Lobby, LoggedIn, Welcome, Welcomed, login, stored_credentials};
pub use refusal::Refusal;

#[cfg(test)]
mod tests;
