//! Random numbers that are the same on every machine.

/// SplitMix64, as in `src/sampling/rng.rs`, which names the reference.
pub struct Random(u64);

impl Random {
    /// Stream number `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        // Mixes in a number from the seed's own stream, so that neighbouring seeds and streams have
        // nothing in common.
        let mut of_seed = Self(seed);
        Self(of_seed.draw() ^ Self(stream).draw())
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        // The high half of the product. The bias is at most n in 2^64.
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// Nearly normally distributed, with mean 0 and standard deviation 1: the sum of twelve uniform
    /// draws of 16 bits each. It needs no logarithm, which machines may round differently.
    pub fn normal(&mut self) -> f32 {
        let sum: u64 = (0..3).map(|_| self.draw()).map(sum_of_quarters).sum();
        (sum as f32 + 6.0) / 65_536.0 - 6.0
    }
}

/// The sum of the four 16-bit numbers in `bits`.
fn sum_of_quarters(bits: u64) -> u64 {
    (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum()
}
