//! Who gets which server.
