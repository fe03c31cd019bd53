//! Rotary position embedding, NEOX halves: element i turns with element i + head_dim / 2.

/// Cosines and sines for the positions of one ubatch, shared by all layers.
#[derive(Debug, Default)]
pub struct Rope {
    /// 1 / base^(2i / head_dim), `[head_dim / 2]`.
    inv_freq: Vec<f32>,
    /// `[n, head_dim / 2]`
    cos: Vec<f32>,
    /// `[n, head_dim / 2]`
    sin: Vec<f32>,
}

impl Rope {
    /// For heads of `head_dim` (even) with the given base.
    pub fn new(head_dim: usize, base: f32) -> Self {
        let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
        let inv_freq = (0..head_dim / 2).map(|i| 1.0 / base.powf(exponent(i))).collect();
        Self { inv_freq, ..Self::default() }
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
        let half = self.inv_freq.len();
        let (cos, sin) = (&self.cos[row * half..][..half], &self.sin[row * half..][..half]);
        for head in x.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
