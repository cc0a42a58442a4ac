//! Cancel keys: mint, find, hold a server while a cancel is in flight.
