//! Random numbers that are the same on every machine.

/// SplitMix64, as in `src/sampling/rng.rs`, whose reference is named there.
pub struct Random(u64);

impl Random {
    /// The stream number `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        // A number out of the seed's own stream, so that seeds and streams near each other share
        // nothing.
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
        // The high half of the product: what it is uneven by is n in 2^64.
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// As good as normally distributed, with mean 0 and deviation 1: the sum of twelve uniform
    /// draws, of 16 bits each. No logarithm is called that machines may round differently.
    pub fn normal(&mut self) -> f32 {
        let sum: u64 = (0..3).map(|_| self.draw()).map(sum_of_quarters).sum();
        (sum as f32 + 6.0) / 65_536.0 - 6.0
    }
}

/// The sum of the four 16-bit numbers in `bits`.
fn sum_of_quarters(bits: u64) -> u64 {
    (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum()
}
