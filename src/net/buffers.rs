//! The buffers that one worker's TLS connections with clients receive into.
//!
//! An idle connection owns no buffer: one is taken when something is to be received and given back when it is drained.
//! Taking one that was given back costs no allocation and no page fault. What lies here is bounded by
//! [`FREE_BYTES_MAX`]; buffers beyond that go back to the allocator.

use std::cell::RefCell;
use std::rc::Rc;

/// The size a read starts with: fits an answer of some hundred rows.
pub const BUFFER_BYTES_START: usize = 16 * 1024;

/// The size a bulk transfer grows to. Beyond it a larger `recv` saves nothing measurable.
pub const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// How much one worker keeps for later.
pub const FREE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sizes double from [`BUFFER_BYTES_START`] to [`BUFFER_BYTES_MAX`].
const CLASSES: usize = (BUFFER_BYTES_MAX / BUFFER_BYTES_START).ilog2() as usize + 1;

/// A handle on a worker's free buffers. Clones share them; it never leaves its worker's thread.
#[derive(Clone, Default, Debug)]
pub struct Buffers(Rc<RefCell<Free>>);

#[derive(Default, Debug)]
struct Free {
    classes: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
}

impl Buffers {
    /// No buffer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for at least `size` bytes, rounded up to a size class. Only a `size` beyond
    /// [`BUFFER_BYTES_MAX`] is taken as it is.
    pub fn take(&self, size: usize) -> Vec<u8> {
        let Some(class) = class_for(size) else { return Vec::with_capacity(size) };
        let mut free = self.0.borrow_mut();
        match free.classes[class].pop() {
            Some(buffer) => {
                free.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(BUFFER_BYTES_START << class),
        }
    }

    /// Takes a buffer back. One of an odd size, or one too many, goes to the allocator.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let Some(class) = class_for(capacity) else { return };
        let mut free = self.0.borrow_mut();
        if capacity != BUFFER_BYTES_START << class || free.bytes + capacity > FREE_BYTES_MAX {
            return;
        }
        buffer.clear();
        free.bytes += capacity;
        free.classes[class].push(buffer);
    }

    /// Bytes that wait here for use.
    #[cfg(test)]
    fn free_bytes(&self) -> usize {
        self.0.borrow().bytes
    }
}

/// The smallest class that holds `size` bytes.
fn class_for(size: usize) -> Option<usize> {
    let units = size.max(1).div_ceil(BUFFER_BYTES_START).next_power_of_two();
    let class = units.ilog2() as usize;
    (class < CLASSES).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_classes() {
        for (size, capacity) in [
            (0, BUFFER_BYTES_START),
            (1, BUFFER_BYTES_START),
            (BUFFER_BYTES_START, BUFFER_BYTES_START),
            (BUFFER_BYTES_START + 1, 2 * BUFFER_BYTES_START),
            (3 * BUFFER_BYTES_START, 4 * BUFFER_BYTES_START),
            (BUFFER_BYTES_MAX, BUFFER_BYTES_MAX),
            (BUFFER_BYTES_MAX + 1, BUFFER_BYTES_MAX + 1),
        ] {
            assert_eq!(Buffers::new().take(size).capacity(), capacity, "{size}");
        }
    }

    #[test]
    fn a_buffer_given_back_comes_again_empty() {
        let buffers = Buffers::new();
        let mut buffer = buffers.take(100);
        buffer.extend_from_slice(b"secret of another client");
        let place = buffer.as_ptr();
        buffers.give(buffer);
        assert_eq!(buffers.free_bytes(), BUFFER_BYTES_START);
        let again = buffers.clone().take(100);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        assert_eq!(buffers.free_bytes(), 0);
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let buffers = Buffers::new();
        for _ in 0..=FREE_BYTES_MAX / BUFFER_BYTES_MAX {
            buffers.give(Vec::with_capacity(BUFFER_BYTES_MAX));
        }
        assert_eq!(buffers.free_bytes(), FREE_BYTES_MAX);
        buffers.give(Vec::new());
        buffers.give(vec![0; 100]);
        assert_eq!(buffers.free_bytes(), FREE_BYTES_MAX);
    }
}
