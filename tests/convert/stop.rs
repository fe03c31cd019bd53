//! Conversions that are stopped.

use std::cell::Cell;

use lapidary::convert::Progress;

/// Stops a conversion at the question after the `n`th: after `n` tensors of one slice each.
pub struct StopAt {
    /// Questions that are answered with no.
    pub n: usize,
    /// Questions asked so far.
    pub asked: Cell<usize>,
}

impl StopAt {
    /// Nothing asked yet.
    pub fn new(n: usize) -> Self {
        Self { n, asked: Cell::new(0) }
    }
}

impl Progress for StopAt {
    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() > self.n
    }
}
