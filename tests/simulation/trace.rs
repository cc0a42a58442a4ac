//! What happened, kept only where somebody will read it.

use std::cell::RefCell;
use std::collections::VecDeque;

/// The last events of a run.
pub struct Trace {
    kept: usize,
    events: RefCell<VecDeque<String>>,
}

impl Trace {
    /// Keeps this many events.
    pub fn new(kept: usize) -> Self {
        Self { kept, events: RefCell::default() }
    }

    pub fn is_read(&self) -> bool {
        self.kept > 0
    }

    pub fn note(&self, event: impl FnOnce() -> String) {
        if self.kept == 0 {
            return;
        }
        let mut events = self.events.borrow_mut();
        if events.len() >= self.kept {
            events.pop_front();
        }
        events.push_back(event());
    }

    pub fn print(&self) {
        self.events.borrow().iter().for_each(|it| println!("{it}"));
    }
}
