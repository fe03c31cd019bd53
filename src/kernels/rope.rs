//! Rotary position embedding, NEOX halves: element i turns with element i + head_dim / 2.

/// How fast positions turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// Element i turns by 1 / base^(2i / head_dim) a position.
    pub base: f32,
    /// What positions are divided by: above 1 for contexts longer than what was trained first
    /// (linear scaling, <https://arxiv.org/abs/2306.15595>).
    pub factor: f32,
}

impl Default for RopeSpec {
    fn default() -> Self {
        Self { base: 10_000.0, factor: 1.0 }
    }
}

/// Cosines and sines for the positions of one ubatch, shared by all layers.
#[derive(Debug, Default)]
pub struct Rope {
    /// 1 / base^(2i / head_dim) / factor, `[head_dim / 2]`.
    inv_freq: Vec<f32>,
    /// `[n, head_dim / 2]`
    cos: Vec<f32>,
    /// `[n, head_dim / 2]`
    sin: Vec<f32>,
}

impl Rope {
    /// For heads of `head_dim`, an even number.
    pub fn new(head_dim: usize, RopeSpec { base, factor }: RopeSpec) -> Self {
        let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
        // The frequency is rounded before it is divided, as in transformers.
        let inv_freq = (0..head_dim / 2).map(|i| 1.0 / base.powf(exponent(i)) / factor).collect();
        Self { inv_freq, ..Self::default() }
    }

    /// Bytes that it holds for each row.
    pub fn row_bytes(head_dim: usize) -> usize {
        head_dim * size_of::<f32>()
    }

    /// Prepares for a row at each of `positions`. Angles are rounded to f32 before
    /// the cosine is taken, as transformers does: at position 8000 that is a visible difference.
    pub fn prepare(&mut self, positions: impl IntoIterator<Item = usize>) {
        self.cos.clear();
        self.sin.clear();
        for pos in positions {
            let angles = self.inv_freq.iter().map(|freq| pos as f32 * freq);
            self.cos.extend(angles.clone().map(f32::cos));
            self.sin.extend(angles.map(f32::sin));
        }
    }

    /// Turns every head of the `row`-th row of the ubatch, `[heads * head_dim]`, in place.
    pub fn apply(&self, row: usize, x: &mut [f32]) {
        self.for_each_pair(row, x, |[a, b], cos, sin| [a * cos - b * sin, b * cos + a * sin]);
    }

    /// Turns every head of the `row`-th row back, in place.
    pub fn apply_back(&self, row: usize, x: &mut [f32]) {
        self.for_each_pair(row, x, |[a, b], cos, sin| [a * cos + b * sin, b * cos - a * sin]);
    }

    /// Replaces the two elements that turn together, given the cosine and the sine of their angle.
    #[inline(always)]
    fn for_each_pair(
        &self,
        row: usize,
        x: &mut [f32],
        turn: impl Fn([f32; 2], f32, f32) -> [f32; 2],
    ) {
        let half = self.inv_freq.len();
        let (cos, sin) = (&self.cos[row * half..][..half], &self.sin[row * half..][..half]);
        for head in x.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                [*a, *b] = turn([*a, *b], *cos, *sin);
            }
        }
    }
}
