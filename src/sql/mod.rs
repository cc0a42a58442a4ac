//! What statements mean to a pooler, read from their texts and command tags alone.

pub mod residue;
