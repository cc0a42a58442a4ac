//! What a conversation means, without input or output of its own.

pub mod residue;
