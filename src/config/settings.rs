//! The settings table: every global setting once, and all that is derived from it.

/// The global settings, one field each under PgBouncer's own name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Settings {}
