//! Sums of the products of every two columns.

use lapidary_formats::quant::{add_products, Hessian, Row};

use crate::kernels::isa::{Op, Simd};
use crate::kernels::Cpu;

/// `Σ x xᵀ` over rows `x` of `n` columns.
#[derive(Debug)]
pub struct Gram {
    n: usize,
    /// The upper triangle by panels of sixteen columns, as [`Hessian::panel`] has them.
    sums: Vec<Row>,
    /// The number of rows that were added.
    rows: usize,
}

impl Gram {
    /// The sum of no rows of `n` columns, a multiple of 16.
    pub fn new(n: usize) -> Self {
        Self { n, sums: vec![Row::default(); Self::len(n)], rows: 0 }
    }

    /// One that was stored, with the number of rows.
    ///
    /// # Panics
    /// If there are not [`len`](Self::len) values.
    pub fn from_sums(n: usize, sums: Vec<Row>, rows: usize) -> Self {
        assert_eq!(sums.len(), Self::len(n));
        Self { n, sums, rows }
    }

    /// How many times sixteen sums there are.
    pub fn len(n: usize) -> usize {
        Hessian::panel(n / 16).start
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// Number of rows that were added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The sums.
    pub fn sums(&self) -> &[Row] {
        &self.sums
    }

    /// The sum of columns `k` and `i`, `k` at most the last one of the panel of `i`.
    pub(super) fn at(&self, k: usize, i: usize) -> f32 {
        self.sums[Hessian::panel(i / 16).start + k].0[i % 16]
    }

    /// The sums of the columns in another order.
    pub(super) fn in_order(&self, order: &[usize]) -> Self {
        let mut sums = vec![Row::default(); self.sums.len()];
        for p in 0..self.n / 16 {
            for (k, row) in sums[Hessian::panel(p)].iter_mut().enumerate() {
                for (lane, to) in row.0.iter_mut().enumerate() {
                    let (a, b) = (order[k], order[16 * p + lane]);
                    *to = self.at(a.min(b), a.max(b));
                }
            }
        }
        Self { n: self.n, sums, rows: self.rows }
    }

    /// The sums of squares of the columns, `[n]`.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.at(i, i)).collect()
    }

    /// Adds rows, of which `panels` has sixteen columns each, `[n / 16, rows]`. The sums of these rows are
    /// added first, and then to those of the rows before.
    pub fn add(&mut self, cpu: &Cpu, panels: &[Row]) {
        let rows = panels.len() * 16 / self.n;
        self.rows += rows;
        let mut rest = self.sums.as_mut_slice();
        let items = (0..self.n / 16).map(|p| {
            let (sums, others) = std::mem::take(&mut rest).split_at_mut(16 * (p + 1));
            rest = others;
            Panel { panels, rows, p, sums }
        });
        // The longest first.
        let mut items: Vec<_> = items.collect();
        items.reverse();
        cpu.for_each(items, |panel| cpu.isa().run(panel));
    }
}

/// Rows `x`, `[rows, cols]`, as panels of sixteen columns of `columns`, `[panels, rows]`.
pub fn panels(x: &[f32], cols: usize, columns: std::ops::Range<usize>) -> Vec<Row> {
    let mut panels = Vec::with_capacity(x.len() / cols * columns.len() / 16);
    for at in columns.step_by(16) {
        let rows = x.chunks_exact(cols);
        panels.extend(rows.map(|row| Row(*row[at..].first_chunk().expect("whole panels"))));
    }
    panels
}

struct Panel<'a> {
    panels: &'a [Row],
    rows: usize,
    p: usize,
    sums: &'a mut [Row],
}

impl Op for Panel<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panel = |p: usize| &self.panels[p * self.rows..][..self.rows];
        for (k, sums) in self.sums.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut new = [Row::default(); 16];
            add_products(s, panel(self.p), panel(k), &mut new);
            for (sum, new) in sums.iter_mut().zip(&new) {
                s.store(s.add(s.load(&sum.0), s.load(&new.0)), &mut sum.0);
            }
        }
    }
}
