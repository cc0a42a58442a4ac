//! The statement registry: text and types to server names, each client's names, each server's most recently used.
