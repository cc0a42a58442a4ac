//! Logins from the first byte to the welcome, over real sockets on one machine.

mod first_packets;
mod fixture;
mod logins;
mod secrets;
mod timing;
