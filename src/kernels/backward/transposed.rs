//! Products with transposed matrices.

use lapidary_formats::quant::{add_products, Row};

use super::panels::RowPanels;
use crate::kernels::isa::{Op, Simd};
use crate::kernels::matmul::{parts, Matrix};
use crate::kernels::Cpu;

/// Columns of a matrix that a thread takes at a time: whole blocks of every type.
const STRIP: usize = 256;

/// Rows of a strip that are dequantized together. They take 128 kB, which stay in the second-level cache.
/// Their products are added in single precision, and then to those of the rows before.
const ROWS: usize = 128;

/// Gradients that share the dequantized rows, at least, where there are so many.
const SHARED: usize = 64;

impl Cpu {
    /// `out[t] = Σ gradient[t] · w` over `products` of matrices `w`, `[rows, cols]`, with gradients with
    /// respect to their outputs, `[n, rows]`: the gradient with respect to their common input, `[n, cols]`.
    ///
    /// # Panics
    /// If shapes do not fit.
    pub fn matmul_back(&self, products: &[(&Matrix<'_>, &[f32])], out: &mut [f32]) {
        let cols = products[0].0.cols();
        let n = out.len() / cols;
        let fits = |(w, y): &(&Matrix<'_>, &[f32])| w.cols() == cols && y.len() == n * w.rows();
        assert!(products.iter().all(fits), "matmul_back: shapes differ");
        let factors: Vec<_> =
            products.iter().map(|(w, y)| (*w, RowPanels::on(self, y, w.rows()))).collect();
        let strips = cols.div_ceil(STRIP);
        // Enough items that no thread waits long for the last.
        let groups = (4 * self.threads()).div_ceil(strips);
        let together = n.div_ceil(groups).next_multiple_of(16).max(SHARED);
        let mut items = Vec::new();
        for (first, mut rows) in parts(out, cols, STRIP) {
            for at in (0..n).step_by(together) {
                let rest = rows.split_off(rows.len().min(together));
                items.push((first, at, std::mem::replace(&mut rows, rest)));
            }
        }
        self.pool.for_each_with(items, Scratch::default, |scratch, (first, at, out)| {
            self.isa.run(Strip { factors: &factors, first, at, out, scratch });
        });
    }
}

/// What a thread keeps between strips.
#[derive(Default)]
struct Scratch {
    /// A row of a strip.
    row: Vec<f32>,
    /// Some rows of a strip, sixteen columns side by side: `[columns / 16, ROWS]`
    weights: Vec<Row>,
    /// By sixteen gradients, by sixteen columns: sixteen columns of each gradient.
    sums: Vec<[Row; 16]>,
}

/// Some columns of the matrices, and some of the gradients that they are multiplied with.
struct Strip<'a, 'o> {
    /// Matrices, and gradients with respect to their outputs.
    factors: &'a [(&'a Matrix<'a>, RowPanels)],
    /// The first column.
    first: usize,
    /// The first gradient, a multiple of 16.
    at: usize,
    /// By gradient, the columns of the strip.
    out: Vec<&'o mut [f32]>,
    scratch: &'a mut Scratch,
}

impl Op for Strip<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { factors, first, at, mut out, scratch: Scratch { row, weights, sums } } = self;
        let columns = first..first + out[0].len();
        let across = columns.len().div_ceil(16);
        row.clear();
        row.resize(16 * across, 0.0);
        weights.resize(across * ROWS, Row::default());
        sums.clear();
        sums.resize(out.len().div_ceil(16) * across, [Row::default(); 16]);
        for (w, gradients) in factors {
            for start in (0..w.rows()).step_by(ROWS) {
                let rows = ROWS.min(w.rows() - start);
                for r in 0..rows {
                    w.dequantize_part(start + r, columns.clone(), &mut row[..columns.len()]);
                    for (panel, x) in row.as_chunks::<16>().0.iter().enumerate() {
                        weights[panel * ROWS + r] = Row(*x);
                    }
                }
                for (group, sums) in sums.chunks_exact_mut(across).enumerate() {
                    let gradients = &gradients.panel(at / 16 + group)[start..][..rows];
                    for (weights, sums) in weights.chunks_exact(ROWS).zip(sums) {
                        let mut new = [Row::default(); 16];
                        add_products(s, &weights[..rows], gradients, &mut new);
                        for (sum, new) in sums.iter_mut().zip(&new) {
                            s.store(s.add(s.load(&sum.0), s.load(&new.0)), &mut sum.0);
                        }
                    }
                }
            }
        }
        for (out, sums) in out.chunks_mut(16).zip(sums.chunks_exact(across)) {
            for (i, out) in out.iter_mut().enumerate() {
                for (out, sums) in out.chunks_mut(16).zip(sums) {
                    out.copy_from_slice(&sums[i].0[..out.len()]);
                }
            }
        }
    }
}
