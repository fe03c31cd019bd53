//! Rows that make up for the errors of other rows.
//!
//! With `G = E[g gᵀ]` of the gradients `g` of a matrix's outputs, the loss of all rows is `tr(G R H Rᵀ)`. With
//! `G = M D Mᵀ`, it is the sum over rows `i` of `D_i` times the loss of `r_i + Σ_{k<i} M_ki r_k`. So rows are
//! rounded one after the other, as columns are. Here they are rounded in groups, so that there is work
//! for all threads: rows of one group do not see each other's errors, and `M` is divided by its block on
//! the diagonal, so that together they make up once for the errors before them. A group has rows at equal
//! distances, since rows that are near to each other belong to one head and depend on each other most.

use std::ops::Range;

use lapidary_formats::quant::{add_products, Hessian, Row};

use super::{panels, round_rows, Damping, Gram, Rounding};
use crate::kernels::isa::{Op, Simd};
use crate::kernels::Cpu;

/// What gradients need to fit other texts, and to have a factor.
const DAMPING: Damping = Damping { shrink: 0.5, add: 0.01 };

/// Rows of a group, at most: some for each of many threads.
const GROUP: usize = 256;

/// The order and the factor of the rows of a matrix.
#[derive(Debug)]
pub struct RowFeedback {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    /// The first row.
    start: usize,
    /// The rows in the order in which they are rounded, counted from the first.
    order: Vec<usize>,
    group: usize,
    factor: Hessian,
    /// What the factor's values are multiples of: see [`Gram::unit`].
    unit: f32,
}

impl RowFeedback {
    /// By the sums of the products of gradients, by part of the rows.
    pub fn new(cpu: &Cpu, grams: &[Gram]) -> Self {
        let mut start = 0;
        let parts = grams.iter().map(|gram| {
            let n = gram.columns();
            let group = (n / 8 / 16 * 16).clamp(16, GROUP);
            let groups = n.div_ceil(group);
            let order: Vec<usize> =
                (0..groups).flat_map(|first| (first..n).step_by(groups)).collect();
            let gram = gram.in_order(&order);
            let factor = gram.hessian(cpu, DAMPING);
            let part = Part { start, order, group, factor, unit: gram.unit() };
            start += n;
            part
        });
        Self { parts: parts.collect() }
    }

    /// What the squared error of each row's output counts once the others have made up for it, `[rows]`, in
    /// the units of the mean product of gradients.
    pub fn weights(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.parts.iter().map(|part| part.order.len()).sum()];
        for part in &self.parts {
            for (row, d) in part.order.iter().zip(part.factor.d()) {
                weights[part.start + row] = d / part.unit;
            }
        }
        weights
    }

    /// Rounds all rows `x`, `[rows, cols]`, to `out`. The bytes do not depend on `cpu`.
    pub fn round(&self, cpu: &Cpu, rounding: Rounding<'_>, x: &[f32], cols: usize, out: &mut [u8]) {
        for part in &self.parts {
            part.round(cpu, rounding, x, cols, out);
        }
    }
}

impl Part {
    fn round(&self, cpu: &Cpu, rounding: Rounding<'_>, x: &[f32], cols: usize, out: &mut [u8]) {
        let row_bytes = rounding.ty.row_bytes(cols).expect("rows are whole blocks");
        let row_of = |i: usize| &x[(self.start + self.order[i]) * cols..][..cols];
        let n = self.order.len();
        // What the errors of rows before ask of each row, in their order; and then what the row is rounded
        // to come near to.
        let mut wanted = vec![0.0; n * cols];
        let (mut bytes, mut left) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(self.group) {
            let group = first..n.min(first + self.group);
            bytes.resize(group.len() * row_bytes, 0);
            left.resize(group.len() * cols, 0.0);
            let rows = group.len().div_ceil(cpu.threads()).next_multiple_of(16);
            let wanted_here = &mut wanted[group.start * cols..group.end * cols];
            self.divide(cpu, group.clone(), cols, wanted_here);
            for (i, wanted) in group.clone().zip(wanted_here.chunks_exact_mut(cols)) {
                wanted.iter_mut().zip(row_of(i)).for_each(|(wanted, x)| *wanted += x);
            }
            let items = wanted_here
                .chunks(rows * cols)
                .zip(bytes.chunks_mut(rows * row_bytes))
                .zip(left.chunks_mut(rows * cols));
            cpu.for_each(items, |((wanted, bytes), left)| {
                round_rows(cpu.isa(), rounding, wanted, cols, bytes);
                (rounding.ty.traits().dequantize)(bytes, left);
            });
            for (i, (left, bytes)) in
                group.clone().zip(left.chunks_exact_mut(cols).zip(bytes.chunks_exact(row_bytes)))
            {
                left.iter_mut().zip(row_of(i)).for_each(|(left, x)| *left = x - *left);
                let row = self.start + self.order[i];
                out[row * row_bytes..][..row_bytes].copy_from_slice(bytes);
            }
            self.feed_back(cpu, group, &left, cols, &mut wanted);
        }
    }

    /// Divides what is asked of the rows of a group, `[rows of the group, cols]`, by the group's block of the
    /// factor.
    fn divide(&self, cpu: &Cpu, group: Range<usize>, cols: usize, asked: &mut [f32]) {
        let mut by_column = panels(asked, cols, 0..cols);
        let items = by_column.chunks_exact_mut(group.len());
        let (factor, rows) = (&self.factor, group);
        cpu.for_each(items, |asked| {
            cpu.isa().run(Divide { factor, rows: rows.clone(), asked });
        });
        for (panel, at) in by_column.chunks_exact(rows.len()).zip((0..cols).step_by(16)) {
            for (row, panel) in asked.chunks_exact_mut(cols).zip(panel) {
                row[at..at + 16].copy_from_slice(&panel.0);
            }
        }
    }

    /// Adds to what is asked of the rows after `group` what makes up for what is `left` of it.
    fn feed_back(
        &self,
        cpu: &Cpu,
        group: Range<usize>,
        left: &[f32],
        cols: usize,
        wanted: &mut [f32],
    ) {
        let left = panels(left, cols, 0..cols);
        let items = wanted.chunks_mut(16 * cols).enumerate().filter(|(p, _)| 16 * p >= group.end);
        cpu.for_each(items, |(p, rows)| {
            let factor = &self.factor.m(p)[group.clone()];
            cpu.isa().run(FeedBack { factor, left: &left, rows, cols });
        });
    }
}

/// What is asked of the rows of a group in sixteen columns.
struct Divide<'a> {
    factor: &'a Hessian,
    rows: Range<usize>,
    asked: &'a mut [Row],
}

impl Op for Divide<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { factor, rows, asked } = self;
        for i in 0..rows.len() {
            let column = rows.start + i;
            let factor = &factor.m(column / 16)[rows.start..column];
            let (before, rest) = asked.split_at_mut(i);
            let mut left = s.load(&rest[0].0);
            for (factor, before) in factor.iter().zip(&*before) {
                let factor = s.splat(factor.0[column % 16]);
                left = s.sub(left, s.mul(factor, s.load(&before.0)));
            }
            s.store(left, &mut rest[0].0);
        }
    }
}

/// Sixteen rows, and what they get.
struct FeedBack<'a> {
    /// `[rows of the group]`, the columns of the factor side by side
    factor: &'a [Row],
    /// Sixteen columns side by side, `[cols / 16, rows of the group]`
    left: &'a [Row],
    /// `[16, cols]`
    rows: &'a mut [f32],
    cols: usize,
}

impl Op for FeedBack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { factor, left, rows, cols } = self;
        for (at, left) in (0..cols).step_by(16).zip(left.chunks_exact(factor.len())) {
            let mut sums = [Row::default(); 16];
            for (sum, row) in sums.iter_mut().zip(rows.chunks_exact(cols)) {
                sum.0.copy_from_slice(&row[at..at + 16]);
            }
            add_products(s, left, factor, &mut sums);
            for (sum, row) in sums.iter().zip(rows.chunks_exact_mut(cols)) {
                row[at..at + 16].copy_from_slice(&sum.0);
            }
        }
    }
}
