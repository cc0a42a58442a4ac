//! The console, and metrics and health over HTTP.
