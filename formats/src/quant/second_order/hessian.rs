//! The Hessian of a matrix's rows, prepared for rounding.

use super::chains::Chains;

/// Sixteen values side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub struct Row(pub [f32; 16]);

/// `H` of some columns, and its factors.
#[derive(Debug)]
pub struct Hessian {
    n: usize,
    h: Vec<Row>,
    m: Vec<Row>,
    d: Vec<f32>,
    pub(super) feedback: Chains,
    pub(super) own: Chains,
}

impl Hessian {
    /// `H = M D Mᵀ` of `n` columns, a multiple of 32, by panels of sixteen columns. A panel of `h` has
    /// `n` rows, and a panel of `m` ends with the row of its last column: see
    /// [`panel`](Self::panel). `M` is unit upper triangular, and `d` is positive, `[n]`.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn new(n: usize, h: Vec<Row>, m: Vec<Row>, d: Vec<f32>) -> Self {
        assert!(n.is_multiple_of(32), "sub-blocks are whole");
        assert_eq!((h.len(), m.len(), d.len()), (n * n / 16, Self::panel(n / 16).start, n));
        let mut hessian = Self { n, h, m, d, feedback: Chains::default(), own: Chains::default() };
        hessian.feedback = Chains::of_factor(n, |k, i| hessian.m_at(k, i), &hessian.d);
        hessian.own = Chains::of_blocks(n, |k, i| hessian.h(i / 16)[k].0[i % 16]);
        hessian
    }

    /// Where panel `p` of `M` is: the rows up to that of its last column.
    pub fn panel(p: usize) -> std::ops::Range<usize> {
        8 * p * (p + 1)..8 * (p + 1) * (p + 2)
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether it has no columns.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Sixteen columns of `H`, `[n]`.
    pub(super) fn h(&self, panel: usize) -> &[Row] {
        &self.h[panel * self.n..][..self.n]
    }

    /// Sixteen columns of `M`, down to the last one's row.
    pub fn m(&self, panel: usize) -> &[Row] {
        &self.m[Self::panel(panel)]
    }

    /// `D`, `[n]`.
    pub fn d(&self) -> &[f32] {
        &self.d
    }

    fn m_at(&self, k: usize, i: usize) -> f32 {
        self.m(i / 16)[k].0[i % 16]
    }
}
