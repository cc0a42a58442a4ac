//! Random bytes for cancel keys, drawn from the system for many keys at once.
//!
//! Invariant: no byte is given out twice, and none stays here once it was given out.

use std::cell::RefCell;

use zeroize::Zeroize as _;

/// Bytes drawn at once: for a few dozen keys.
const DRAWN_BYTES: usize = 256;

struct Drawn {
    bytes: [u8; DRAWN_BYTES],
    left: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; DRAWN_BYTES], left: 0 }) };
}

/// Fills `out`, of at most [`DRAWN_BYTES`].
///
/// Errors: the system gives none.
pub(super) fn fill(out: &mut [u8]) -> Result<(), getrandom::Error> {
    debug_assert!(out.len() <= DRAWN_BYTES, "a key is short");
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.left < out.len() {
            getrandom::fill(&mut drawn.bytes)?;
            drawn.left = DRAWN_BYTES;
        }
        let taken = &mut drawn.bytes[drawn.left - out.len()..drawn.left];
        out.copy_from_slice(taken);
        taken.zeroize();
        drawn.left -= out.len();
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_comes_twice_and_none_is_kept() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let mut key = [0; 36];
            fill(&mut key).unwrap();
            assert!(seen.insert(key));
        }
        DRAWN.with_borrow(|it| assert!(it.bytes[it.left..].iter().all(|byte| *byte == 0)));
    }
}
