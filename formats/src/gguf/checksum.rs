//! The checksum of a tensor's bytes.

use std::fmt;
use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// The metadata key of a file's checksums.
pub const CHECKSUMS_KEY: &str = "lapidary.checksum.tensors";

/// A checksum that is computed while bytes arrive: 64-bit XXH3. It detects accidental damage of
/// every kind, but does not protect against somebody who alters a file on purpose.
#[derive(Clone)]
pub struct Checksum(XxHash3_64);

impl Checksum {
    /// The checksum of no bytes.
    pub fn new() -> Self {
        Self(XxHash3_64::new())
    }

    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut checksum = Self::new();
        checksum.update(bytes);
        checksum.value()
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The checksum so far. It is never 0, because 0 marks a missing checksum.
    pub fn value(&self) -> u64 {
        self.0.finish().max(1)
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x})", self.value())
    }
}
