//! From sums of products to a [`Hessian`]: `H = M D Mᵀ`, from the last column to the first.

use lapidary_formats::quant::{Hessian, Row};

use super::gram::Gram;
use crate::kernels::isa::{Op, Simd};
use crate::kernels::Cpu;

/// What is done to `H` so that it also fits other texts than those that it was measured on, and has a
/// factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// How far `H` is shrunk towards its diagonal: 1 leaves only that.
    pub shrink: f32,
    /// What is added to the diagonal, in units of its mean.
    pub add: f32,
}

impl Damping {
    /// That of the matrices of layers.
    pub const LAYER: Self = Self { shrink: 0.1, add: 0.05 };
    /// That of the output matrix.
    pub const OUTPUT: Self = Self { shrink: 0.1, add: 0.1 };
}

impl Gram {
    /// The mean of the products, damped, in units of a power of two, and its factor. The bits do not
    /// depend on `cpu`.
    pub fn hessian(&self, cpu: &Cpu, damping: Damping) -> Hessian {
        let n = self.columns();
        let h = self.damped(cpu, damping);
        let (m, d) = factor(cpu, n, &h);
        Hessian::new(n, h, m, d)
    }

    /// What the means of products are multiplied with in [`hessian`](Self::hessian).
    pub fn unit(&self) -> f32 {
        unit(self.mean())
    }

    /// The mean square of all columns.
    fn mean(&self) -> f32 {
        let diagonal: f64 = self.diagonal().iter().map(|x| f64::from(*x)).sum();
        (diagonal / (self.columns() * self.rows().max(1)) as f64) as f32
    }

    /// `H` by panels of sixteen columns.
    pub(super) fn damped(&self, cpu: &Cpu, damping: Damping) -> Vec<Row> {
        let n = self.columns();
        let mean = self.mean();
        let unit = unit(mean);
        // Without any input nothing is known.
        let added = if mean > 0.0 { damping.add * (mean * unit) } else { 1.0 };
        let per_row = 1.0 / self.rows().max(1) as f32;
        let value = |k: usize, i: usize| {
            let value = self.at(k.min(i), k.max(i)) * per_row * unit;
            if k == i {
                value + added
            } else {
                value * (1.0 - damping.shrink)
            }
        };
        let mut h = vec![Row::default(); n * n / 16];
        cpu.for_each(h.chunks_exact_mut(n).enumerate(), |(p, panel)| {
            for (k, row) in panel.iter_mut().enumerate() {
                for (i, to) in row.0.iter_mut().enumerate() {
                    *to = value(k, 16 * p + i);
                }
            }
        });
        h
    }
}

/// The power of two that takes `mean` to about 1: then neither errors that are weighted nor what is left
/// of a column leaves the range of single precision, however large or small the inputs are. It is exact,
/// so that nothing else changes.
fn unit(mean: f32) -> f32 {
    let exponent = mean.to_bits() >> 23;
    f32::from_bits((254 - exponent.min(253)) << 23)
}

/// `M` by panels and `D`.
pub(super) fn factor(cpu: &Cpu, n: usize, h: &[Row]) -> (Vec<Row>, Vec<f32>) {
    let mut m = vec![Row::default(); Hessian::panel(n / 16).start];
    let mut d = vec![0.0; n];
    // `D_c M_jc` of the columns `c` after the panel, with the panel's rows `j` side by side.
    let mut w = vec![Row::default(); n];
    for p in (0..n / 16).rev() {
        let place = Hessian::panel(p);
        let (before, after) = m.split_at_mut(place.end);
        let panel = &mut before[place.start..];
        let after = After { p, n, m: after };
        for c in 16 * (p + 1)..n {
            for j in 0..16 {
                w[c].0[j] = d[c] * after.row(c / 16, 16 * p + j).0[c % 16];
            }
        }
        let h = &h[p * n..][..n];
        let (others, own) = panel.split_at_mut(16 * p);
        let rest = |rows: usize| Rest { after, w: &w, h, row: rows };
        let diagonal = Diagonal::new(&cpu.isa().run(rest(16 * p)));
        for j in 0..16 {
            d[16 * p + j] = diagonal.d[j] as f32;
            for (row, m) in own[..j].iter_mut().zip(&diagonal.m) {
                row.0[j] = m[j] as f32;
            }
            own[j].0[j] = 1.0;
        }
        cpu.for_each(others.chunks_exact_mut(16).enumerate(), |(i, rows)| {
            let rest = cpu.isa().run(rest(16 * i));
            for (row, rest) in rows.iter_mut().zip(&rest) {
                *row = diagonal.solve(rest);
            }
        });
    }
    (m, d)
}

/// The panels of `M` after panel `p`.
#[derive(Clone, Copy)]
struct After<'a> {
    p: usize,
    n: usize,
    m: &'a [Row],
}

impl<'a> After<'a> {
    fn panel(&self, p: usize) -> &'a [Row] {
        let skipped = Hessian::panel(self.p).end;
        let place = Hessian::panel(p);
        &self.m[place.start - skipped..place.end - skipped]
    }

    fn row(&self, p: usize, row: usize) -> &'a Row {
        &self.panel(p)[row]
    }
}

/// What is left of sixteen rows of a panel of `H` after the columns behind it are subtracted.
struct Rest<'a> {
    after: After<'a>,
    w: &'a [Row],
    h: &'a [Row],
    row: usize,
}

/// Panels whose products are added in single precision before they are added in double precision.
const PANELS: usize = 16;

impl Op for Rest<'_> {
    type Out = [[f64; 16]; 16];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [[f64; 16]; 16] {
        let Self { after, w, h, row } = self;
        let mut rest = [[0.0; 16]; 16];
        for (rest, h) in rest.iter_mut().zip(&h[row..]) {
            for (rest, h) in rest.iter_mut().zip(h.0) {
                *rest = f64::from(h);
            }
        }
        let panels = after.n / 16;
        for first in (after.p + 1..panels).step_by(PANELS) {
            for half in [0, 8] {
                let mut sums = [s.splat(0.0); 8];
                for p in first..panels.min(first + PANELS) {
                    let rows = &after.panel(p)[row + half..][..8];
                    let w = &w[16 * p..][..16];
                    for c in 0..16 {
                        let w = s.load(&w[c].0);
                        for i in 0..8 {
                            sums[i] = s.add(sums[i], s.mul(s.splat(rows[i].0[c]), w));
                        }
                    }
                }
                for i in 0..8 {
                    for (rest, sum) in rest[half + i].iter_mut().zip(s.to_array(sums[i])) {
                        *rest -= f64::from(sum);
                    }
                }
            }
        }
        rest
    }
}

/// The factor of the sixteen columns of a panel on the diagonal.
struct Diagonal {
    m: [[f64; 16]; 16],
    d: [f64; 16],
}

impl Diagonal {
    fn new(rest: &[[f64; 16]; 16]) -> Self {
        let mut factor = Self { m: [[0.0; 16]; 16], d: [0.0; 16] };
        for j in (0..16).rev() {
            for i in (0..=j).rev() {
                let products = (j + 1..16).map(|k| factor.m[i][k] * factor.d[k] * factor.m[j][k]);
                let left = rest[i][j] - products.sum::<f64>();
                match i == j {
                    // What was added to the diagonal keeps it well above zero; rounding must not
                    // take it there.
                    true => factor.d[j] = left.max(1e-6 * rest[j][j].abs()).max(f64::MIN_POSITIVE),
                    false => factor.m[i][j] = left / factor.d[j],
                }
            }
        }
        factor
    }

    /// A row of `M` before the panel.
    fn solve(&self, rest: &[f64; 16]) -> Row {
        let mut m = [0.0; 16];
        for j in (0..16).rev() {
            let products = (j + 1..16).map(|k| m[k] * self.d[k] * self.m[j][k]);
            m[j] = (rest[j] - products.sum::<f64>()) / self.d[j];
        }
        Row(m.map(|m| m as f32))
    }
}
