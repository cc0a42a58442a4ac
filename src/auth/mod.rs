//! Who a client is and how we prove to a server who we are; pure state machines.
