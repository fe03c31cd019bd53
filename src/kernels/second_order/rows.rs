//! Rows that make up for the errors of other rows.
//!
//! With `G = E[g gᵀ]` of the gradients `g` of a matrix's outputs, the loss of all rows is `tr(G R H Rᵀ)`. With
//! `G = M D Mᵀ`, it is the sum over rows `i` of `D_i` times the loss of `r_i + Σ_{k<i} M_ki r_k`. So rows are
//! rounded one after the other, as columns are. Here they are rounded in groups, so that there is work
//! for all threads: rows of one group do not see each other's errors, and `M` is divided by its block on
//! the diagonal, so that together they make up once for the errors before them. A group has rows at equal
//! distances, since rows that are near to each other belong to one head and depend on each other most.
//!
//! Then all rows are rounded again, a group at a time, when the errors of all others are known. With `g = Σ_k
//! G_ik r_k` of row `i`, a change `δ` of its residual costs `2 gᵀ H δ + G_ii δᵀ H δ`. Rows of a group change
//! at the same time, so that `G_ii` is multiplied with a bound of what they cost together, without which
//! errors could grow from pass to pass.

use std::ops::Range;

use lapidary_formats::quant::{add_products, Hessian, Row, Search, Start};

use super::{panels, round_rows, Damping, Gram, Rounding};
use crate::kernels::isa::{Op, Simd};
use crate::kernels::Cpu;

/// What gradients need to fit other texts, and to have a factor. The fewer tokens there are for each row, the
/// more: too little is far worse than too much.
fn damping(gram: &Gram) -> Damping {
    let rows_per_token = gram.columns() as f32 / gram.rows().max(1) as f32;
    Damping { shrink: (4.0 * rows_per_token).clamp(0.3, 0.5), add: 0.01 }
}

/// Rows of a group, at most: some for each of many threads.
const GROUP: usize = 256;

/// How often all rows are rounded again, and how often their sub-blocks are chosen then.
const AGAIN: usize = 2;
const SWEEPS: usize = 2;

/// How far rows of a group go towards the best place for all of them at once. At twice the way they would be
/// no better than before, were values not rounded; near that, most codes find a better place.
const STEP: f32 = 1.8;

/// How often a matrix is squared to bound its largest eigenvalue: the bound is then at most `n^(1/64)` times
/// as large, 1.09 for 256 rows.
const SQUARINGS: usize = 5;

/// A bound of the largest eigenvalue of a block on the diagonal of `g`, whose rows and columns are divided by
/// the roots of its diagonal: the norm of a power of the block, and its root.
fn curvature(g: &Hessian, rows: Range<usize>) -> f32 {
    let n = rows.len();
    let at = |i: usize, j: usize| f64::from(g.h(j / 16)[i].0[j % 16]);
    let mut power = Vec::with_capacity(n * n);
    for i in rows.clone() {
        power.extend(rows.clone().map(|j| at(i, j) / (at(i, i) * at(j, j)).sqrt()));
    }
    let norm = |power: &[f64]| power.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut norms = vec![norm(&power)];
    for k in 0..SQUARINGS {
        // Divided by the norm, powers neither vanish nor grow.
        let scale = 1.0 / (norms[k] * norms[k]);
        let mut square = vec![0.0; n * n];
        for (row, sums) in power.chunks_exact(n).zip(square.chunks_exact_mut(n)) {
            for (x, other) in row.iter().zip(power.chunks_exact(n)) {
                sums.iter_mut().zip(other).for_each(|(sum, other)| *sum += scale * x * other);
            }
        }
        power = square;
        norms.push(norm(&power));
    }
    norms.iter().rev().fold(1.0, |bound: f64, norm| norm * bound.sqrt()) as f32
}

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
    /// By group, how much more its rows weigh together than each alone, at most.
    curvatures: Vec<f32>,
}

impl Part {
    /// The row of the matrix that comes at place `i`.
    fn row(&self, i: usize) -> usize {
        self.start + self.order[i]
    }
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
            let damping = damping(gram);
            let gram = gram.in_order(&order);
            let factor = gram.hessian(cpu, damping);
            let mut curvatures = vec![0.0; n.div_ceil(group)];
            cpu.for_each(curvatures.iter_mut().enumerate(), |(i, to)| {
                *to = curvature(&factor, i * group..n.min((i + 1) * group));
            });
            let part = Part { start, order, group, factor, unit: gram.unit(), curvatures };
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
        let row_bytes = rounding.ty.row_bytes(cols).expect("rows are whole blocks");
        for part in &self.parts {
            let n = part.order.len();
            let (wanted, left) = (vec![0.0; n * cols], vec![Row::default(); n * cols / 16]);
            let mut work = Work { cpu, part, rounding, x, cols, row_bytes, out, wanted, left };
            let groups =
                || (0..n).step_by(part.group).map(|first| first..n.min(first + part.group));
            groups().for_each(|group| work.round_first(group));
            for _ in 0..AGAIN {
                groups().for_each(|group| work.round_again(group));
            }
        }
    }
}

/// A part of the rows that is being rounded. Rows are in the order of the part.
struct Work<'a> {
    cpu: &'a Cpu,
    part: &'a Part,
    rounding: Rounding<'a>,
    /// Of all parts, `[rows, cols]`, in the order of the matrix.
    x: &'a [f32],
    cols: usize,
    row_bytes: usize,
    /// The blocks of all parts, in the order of the matrix.
    out: &'a mut [u8],
    /// What the errors of other rows ask of each row; and then what the row is rounded to come near to,
    /// `[rows, cols]`.
    wanted: Vec<f32>,
    /// What is left of each row after rounding, by sixteen columns side by side, `[cols / 16, rows]`.
    left: Vec<Row>,
}

impl Work<'_> {
    /// Rounds the rows of a group, of which `wanted` has what makes up for the errors of the rows before.
    fn round_first(&mut self, group: Range<usize>) {
        self.divide(group.clone());
        for i in group.clone() {
            let row = self.part.row(i);
            let x = &self.x[row * self.cols..][..self.cols];
            let wanted = &mut self.wanted[i * self.cols..][..self.cols];
            wanted.iter_mut().zip(x).for_each(|(wanted, x)| *wanted += x);
        }
        self.round_group(group.clone(), self.rounding.search);
        let after = group.end.div_ceil(16)..self.part.order.len() / 16;
        self.add_errors(group.clone(), after, |part, panel| &part.factor.m(panel)[group.clone()]);
    }

    /// Rounds the rows of a group again, so that they make up for the errors of all others. What is chosen
    /// is better, or is kept, but for what rows of the group do to each other.
    fn round_again(&mut self, group: Range<usize>) {
        let (n, cols) = (self.part.order.len(), self.cols);
        self.wanted[group.start * cols..group.end * cols].fill(0.0);
        let panels = group.start / 16..group.end.div_ceil(16);
        self.add_errors(0..n, panels, |part, panel| part.factor.h(panel));
        let curvature = self.part.curvatures[group.start / self.part.group];
        for i in group.clone() {
            let own = STEP / (curvature * self.part.factor.h(i / 16)[i].0[i % 16]);
            let row = self.part.row(i);
            let x = &self.x[row * cols..][..cols];
            let left = self.left.chunks_exact(n).flat_map(|panel| &panel[i].0);
            let wanted = &mut self.wanted[i * cols..][..cols];
            for ((wanted, x), left) in wanted.iter_mut().zip(x).zip(left) {
                *wanted = x + (*wanted * own - left);
            }
        }
        self.round_group(group, Search { start: Start::Blocks, sweeps: SWEEPS });
    }

    /// Divides what is asked of the rows of a group by the group's block of the factor.
    fn divide(&mut self, group: Range<usize>) {
        let cols = self.cols;
        let asked = &mut self.wanted[group.start * cols..group.end * cols];
        let mut by_column = panels(asked, cols, 0..cols);
        let items = by_column.chunks_exact_mut(group.len());
        let (factor, rows) = (&self.part.factor, group);
        self.cpu.for_each(items, |asked| {
            self.cpu.isa().run(Divide { factor, rows: rows.clone(), asked });
        });
        for (panel, at) in by_column.chunks_exact(rows.len()).zip((0..cols).step_by(16)) {
            for (row, panel) in asked.chunks_exact_mut(cols).zip(panel) {
                row[at..at + 16].copy_from_slice(&panel.0);
            }
        }
    }

    /// Rounds the rows of a group to come near to what is wanted.
    fn round_group(&mut self, group: Range<usize>, search: Search) {
        let Self { cpu, part, cols, row_bytes, .. } = *self;
        let rounding = Rounding { search, ..self.rounding };
        let mut bytes = vec![0; group.len() * row_bytes];
        for (i, bytes) in group.clone().zip(bytes.chunks_exact_mut(row_bytes)) {
            bytes.copy_from_slice(&self.out[part.row(i) * row_bytes..][..row_bytes]);
        }
        let mut values = vec![0.0; group.len() * cols];
        let rows = group.len().div_ceil(cpu.threads()).next_multiple_of(16);
        let items = self.wanted[group.start * cols..group.end * cols]
            .chunks(rows * cols)
            .zip(bytes.chunks_mut(rows * row_bytes))
            .zip(values.chunks_mut(rows * cols));
        cpu.for_each(items, |((wanted, bytes), values)| {
            round_rows(cpu.isa(), rounding, wanted, cols, bytes);
            (rounding.ty.traits().dequantize)(bytes, values);
        });
        let n = part.order.len();
        for (k, i) in group.enumerate() {
            let row = part.row(i);
            self.out[row * row_bytes..][..row_bytes]
                .copy_from_slice(&bytes[k * row_bytes..][..row_bytes]);
            let x = self.x[row * cols..][..cols].as_chunks::<16>().0;
            let values = values[k * cols..][..cols].as_chunks::<16>().0;
            for ((x, values), panel) in x.iter().zip(values).zip(self.left.chunks_exact_mut(n)) {
                let left = x.iter().zip(values).zip(&mut panel[i].0);
                left.for_each(|((x, value), left)| *left = x - value);
            }
        }
    }

    /// Adds to what is asked of the rows of some panels of sixteen what the errors of `rows` are times their
    /// `factors`, `[rows]`, of a panel.
    fn add_errors<'f>(
        &'f mut self,
        rows: Range<usize>,
        panels: Range<usize>,
        factors: impl Fn(&'f Part, usize) -> &'f [Row] + Sync,
    ) {
        let Self { cpu, part, cols, ref left, ref mut wanted, .. } = *self;
        let n = part.order.len();
        let wanted = &mut wanted[16 * panels.start * cols..16 * panels.end * cols];
        cpu.for_each(panels.zip(wanted.chunks_exact_mut(16 * cols)), |(panel, wanted)| {
            let (factors, rows) = (factors(part, panel), rows.clone());
            cpu.isa().run(AddErrors { factors, left, n, rows, wanted, cols });
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

/// What is asked of sixteen rows.
struct AddErrors<'a> {
    /// `[rows]`, those of sixteen rows side by side
    factors: &'a [Row],
    /// Sixteen columns side by side, `[cols / 16, n]`
    left: &'a [Row],
    n: usize,
    /// Whose errors are added.
    rows: Range<usize>,
    /// `[16, cols]`
    wanted: &'a mut [f32],
    cols: usize,
}

impl Op for AddErrors<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { factors, left, n, rows, wanted, cols } = self;
        for (at, left) in (0..cols).step_by(16).zip(left.chunks_exact(n)) {
            let mut sums = [Row::default(); 16];
            for (sum, row) in sums.iter_mut().zip(wanted.chunks_exact(cols)) {
                sum.0.copy_from_slice(&row[at..at + 16]);
            }
            add_products(s, &left[rows.clone()], factors, &mut sums);
            for (sum, row) in sums.iter().zip(wanted.chunks_exact_mut(cols)) {
                row[at..at + 16].copy_from_slice(&sum.0);
            }
        }
    }
}
