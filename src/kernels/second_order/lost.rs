//! Rows that make up for what the matrices before them have lost.
//!
//! Let `x` be the inputs of a matrix in the original model, and `x̂` those in the model whose matrices before
//! it are rounded already. Of all matrices, `W + W B (E[x̂ x̂ᵀ])⁻¹` with `B = E[(x - x̂) x̂ᵀ]` comes nearest to
//! the original outputs in the mean of squares. It fits noise too, so rows get half of the correction, and
//! the damped `H` of the original inputs stands for `E[x̂ x̂ᵀ]`.

use lapidary_formats::quant::{add_products, Hessian, Row};

use crate::kernels::isa::{Op, Simd};
use crate::kernels::Cpu;

/// How much of the correction is applied.
const SHARE: f32 = 0.5;

/// `Σ (x - x̂) x̂ᵀ` of some columns.
#[derive(Debug)]
pub struct Lost {
    n: usize,
    /// By sixteen columns of `x̂` side by side, the rows of all columns of `x - x̂`: `[n / 16, n]`.
    sums: Vec<Row>,
    /// The number of inputs that were added.
    inputs: usize,
}

impl Lost {
    /// The sum of no inputs of `n` columns, a multiple of 16.
    pub fn new(n: usize) -> Self {
        Self { n, sums: vec![Row::default(); n / 16 * n], inputs: 0 }
    }

    /// Adds inputs, of which `lost` and `left` have `x - x̂` and `x̂`, sixteen columns each,
    /// `[n / 16, inputs]`. The bits do not depend on `cpu`.
    pub fn add(&mut self, cpu: &Cpu, lost: &[Row], left: &[Row]) {
        let inputs = 16 * left.len() / self.n;
        self.inputs += inputs;
        let items = self.sums.chunks_exact_mut(self.n).zip(left.chunks_exact(inputs));
        cpu.for_each(items, |(sums, left)| cpu.isa().run(Add { sums, lost, left }));
    }

    /// Makes rows up for what their inputs have lost in the columns from `start` on. `x` is `[rows, cols]`,
    /// and `hessian` is that of these columns, in units of `unit`: see `Gram::unit`. The bits do not depend on `cpu`.
    pub fn make_up(
        &self,
        cpu: &Cpu,
        hessian: &Hessian,
        unit: f32,
        x: &mut [f32],
        cols: usize,
        start: usize,
    ) {
        let scale = SHARE * unit / self.inputs.max(1) as f32;
        cpu.for_each(x.chunks_mut(16 * cols), |x| {
            let mut tile = vec![Row::default(); self.n];
            for (lane, row) in x.chunks_exact(cols).enumerate() {
                for (to, x) in tile.iter_mut().zip(&row[start..]) {
                    to.0[lane] = *x;
                }
            }
            let change = cpu.isa().run(Change { lost: self, hessian, scale, tile: &tile });
            for (lane, row) in x.chunks_exact_mut(cols).enumerate() {
                for (x, change) in row[start..].iter_mut().zip(&change) {
                    *x += change.0[lane];
                }
            }
        });
    }
}

/// The sums of sixteen columns.
struct Add<'a> {
    /// `[n]`
    sums: &'a mut [Row],
    /// `[n / 16, inputs]`
    lost: &'a [Row],
    /// `[inputs]`
    left: &'a [Row],
}

impl Op for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { sums, lost, left } = self;
        for (sums, lost) in
            sums.as_chunks_mut::<16>().0.iter_mut().zip(lost.chunks_exact(left.len()))
        {
            let mut new = [Row::default(); 16];
            add_products(s, left, lost, &mut new);
            for (sum, new) in sums.iter_mut().zip(&new) {
                s.store(s.add(s.load(&sum.0), s.load(&new.0)), &mut sum.0);
            }
        }
    }
}

/// What is added to sixteen rows, side by side.
struct Change<'a> {
    lost: &'a Lost,
    hessian: &'a Hessian,
    scale: f32,
    /// `[n]`
    tile: &'a [Row],
}

impl Op for Change<'_> {
    type Out = Vec<Row>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<Row> {
        let Self { lost, hessian, scale, tile } = self;
        let mut y = vec![Row::default(); lost.n];
        for (y, sums) in y.as_chunks_mut::<16>().0.iter_mut().zip(lost.sums.chunks_exact(lost.n)) {
            add_products(s, tile, sums, y);
        }
        let scale = s.splat(scale);
        y.iter_mut().for_each(|y| s.store(s.mul(s.load(&y.0), scale), &mut y.0));
        // `z H = y` with `H = M D Mᵀ`: from the last column to the first by `Mᵀ`, and back by `M`.
        for p in (0..lost.n / 16).rev() {
            let m = hessian.m(p);
            for i in (0..16).rev() {
                let last = s.load(&y[16 * p + i].0);
                for (y, m) in y[16 * p..16 * p + i].iter_mut().zip(&m[16 * p..]) {
                    s.store(s.sub(s.load(&y.0), s.mul(s.splat(m.0[i]), last)), &mut y.0);
                }
            }
            let (before, panel) = y.split_at_mut(16 * p);
            for (y, m) in before.iter_mut().zip(m) {
                let mut rest = s.load(&y.0);
                for (panel, m) in panel.iter().zip(&m.0) {
                    rest = s.sub(rest, s.mul(s.splat(*m), s.load(&panel.0)));
                }
                s.store(rest, &mut y.0);
            }
        }
        for (y, d) in y.iter_mut().zip(hessian.d()) {
            s.store(s.div(s.load(&y.0), s.splat(*d)), &mut y.0);
        }
        for p in 0..lost.n / 16 {
            let m = hessian.m(p);
            let (before, panel) = y.split_at_mut(16 * p);
            let mut sums = [Row::default(); 16];
            add_products(s, before, &m[..16 * p], &mut sums);
            for i in 0..16 {
                let mut z = s.sub(s.load(&panel[i].0), s.load(&sums[i].0));
                for (before, m) in panel[..i].iter().zip(&m[16 * p..]) {
                    z = s.sub(z, s.mul(s.splat(m.0[i]), s.load(&before.0)));
                }
                s.store(z, &mut panel[i].0);
            }
        }
        y
    }
}
