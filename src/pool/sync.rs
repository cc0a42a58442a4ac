//! The locks and atomics that workers share in pools.
//!
//! parking_lot's and the standard library's; with the feature `interleavings`, shuttle's, whose scheduler runs the tests
//! of that name through one order of steps after the other. Nothing in this module or below it takes them from elsewhere.

#[cfg(not(feature = "interleavings"))]
pub(super) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(feature = "interleavings"))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

#[cfg(feature = "interleavings")]
pub(super) use shuttle::sync::MutexGuard;
#[cfg(feature = "interleavings")]
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// shuttle's lock by parking_lot's interface.
#[cfg(feature = "interleavings")]
#[derive(Debug, Default)]
pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

#[cfg(feature = "interleavings")]
impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a test that has panicked ends with its schedule")
    }
}
