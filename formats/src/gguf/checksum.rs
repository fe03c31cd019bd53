//! The checksum of a tensor's bytes.

use std::fmt;
use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// The metadata key of a file's checksums.
pub const CHECKSUMS_KEY: &str = "lapidary.checksum.tensors";

/// The checksum of bytes that come piece by piece: XXH3 of 64 bits, which finds accidents of every
/// kind. It is no protection from someone who alters a file on purpose.
#[derive(Clone)]
pub struct Checksum(XxHash3_64);

impl Checksum {
    /// That of no bytes.
    pub fn new() -> Self {
        Self(XxHash3_64::new())
    }

    /// That of `bytes` alone.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut checksum = Self::new();
        checksum.update(bytes);
        checksum.value()
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The checksum so far. It is never zero, which stands for none.
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
