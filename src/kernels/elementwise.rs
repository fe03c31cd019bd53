//! What is done to each element or each row by itself.

use super::isa::{Isa, Op, Simd};
use super::math;

/// A function of one element (and of those that stand beside it in other rows).
pub(super) trait Lanes<const N: usize> {
    fn apply<S: Simd>(&self, s: S, x: [S::F; N]) -> S::F;
}

/// `out = f(inputs)`, element by element.
#[inline(always)]
fn map<S: Simd, const N: usize>(s: S, f: &impl Lanes<N>, inputs: [&[f32]; N], out: &mut [f32]) {
    let whole = out.len() / 16 * 16;
    let (chunks, rest) = out.as_chunks_mut::<16>();
    for (i, out) in chunks.iter_mut().enumerate() {
        let mut x = [s.splat(0.0); N];
        for k in 0..N {
            x[k] = s.load(inputs[k][16 * i..].first_chunk().expect("inputs are as long"));
        }
        s.store(f.apply(s, x), out);
    }
    if !rest.is_empty() {
        let (mut x, mut y) = ([s.splat(0.0); N], [0.0; 16]);
        for k in 0..N {
            let mut padded = [0.0; 16];
            padded[..rest.len()].copy_from_slice(&inputs[k][whole..][..rest.len()]);
            x[k] = s.load(&padded);
        }
        s.store(f.apply(s, x), &mut y);
        rest.copy_from_slice(&y[..rest.len()]);
    }
}

/// An [`Op`] that maps inputs to an output of the same length.
struct Map<'a, F, const N: usize> {
    f: F,
    inputs: [&'a [f32]; N],
    out: &'a mut [f32],
}

impl<F: Lanes<N>, const N: usize> Op for Map<'_, F, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map(s, &self.f, self.inputs, self.out);
    }
}

/// `out = f(inputs)`, element by element; all are as long.
pub(super) fn map_rows<F: Lanes<N>, const N: usize>(
    isa: Isa,
    f: F,
    inputs: [&[f32]; N],
    out: &mut [f32],
) {
    isa.run(Map { f, inputs, out });
}

/// An [`Op`] that changes a row in place, sixteen elements at a time.
struct InPlace<'a, F> {
    f: F,
    x: &'a mut [f32],
}

impl<F: Lanes<1>> Op for InPlace<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (chunks, rest) = self.x.as_chunks_mut::<16>();
        for x in chunks {
            s.store(self.f.apply(s, [s.load(x)]), x);
        }
        let mut padded = [0.0; 16];
        padded[..rest.len()].copy_from_slice(rest);
        s.store(self.f.apply(s, [s.load(&padded)]), &mut padded);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

/// The sum of squares of a row: element `i` goes to sum `i % 16`, and the sums are added in halves.
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    let (chunks, rest) = x.as_chunks::<16>();
    for x in chunks {
        let x = s.load(x);
        sum = s.add(sum, s.mul(x, x));
    }
    let mut padded = [0.0; 16];
    padded[..rest.len()].copy_from_slice(rest);
    let x = s.load(&padded);
    s.sum(s.add(sum, s.mul(x, x)))
}

/// `x * scale * weight`
struct Scaled(f32);

impl Lanes<2> for Scaled {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, [x, weight]: [S::F; 2]) -> S::F {
        s.mul(s.mul(x, s.splat(self.0)), weight)
    }
}

/// `y + x * scale * weight`
struct AddScaled(f32);

impl Lanes<3> for AddScaled {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, [x, weight, y]: [S::F; 3]) -> S::F {
        s.add(y, s.mul(s.mul(x, s.splat(self.0)), weight))
    }
}

/// See [`rms_norm`].
struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = rms_scale(s, self.x, self.eps);
        map(s, &Scaled(scale), [self.x, self.weight], self.out);
    }
}

/// See [`add_rms_norm`].
struct AddRmsNorm<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    /// What `y` was.
    buffer: &'a mut Vec<f32>,
}

impl Op for AddRmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = rms_scale(s, self.x, self.eps);
        self.buffer.clear();
        self.buffer.extend_from_slice(self.y);
        map(s, &AddScaled(scale), [self.x, self.weight, self.buffer], self.y);
    }
}

#[inline(always)]
fn rms_scale<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(s, x) / x.len() as f32 + eps).sqrt()
}

/// `out = x / rms(x) * weight` for one row; `weight` is the multiplier, 1 + w.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    isa.run(RmsNorm { x, weight, eps, out });
}

/// `y += x / rms(x) * weight` for one row. `buffer` is overwritten.
pub fn add_rms_norm(
    isa: Isa,
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    buffer: &mut Vec<f32>,
) {
    isa.run(AddRmsNorm { y, x, weight, eps, buffer });
}

/// `x += y`.
pub fn add_assign(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// cap · tanh(x / cap)
struct Softcap(f32);

impl Lanes<1> for Softcap {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, [x]: [S::F; 1]) -> S::F {
        math::softcap(s, x, self.0)
    }
}

/// Squashes every element to ± `cap`: cap · tanh(x / cap).
pub fn softcap(isa: Isa, x: &mut [f32], cap: f32) {
    isa.run(InPlace { f: Softcap(cap), x });
}

/// The constants of the tanh form of GELU: √(2/π), and the factor of the cube.
pub(super) const GELU_ROOT: f32 = 0.797_884_6;
pub(super) const GELU_CUBE: f32 = 0.044_715;

/// gelu(gate) * up
struct Geglu;

impl Lanes<2> for Geglu {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, [x, up]: [S::F; 2]) -> S::F {
        let cube = s.mul(s.mul(s.mul(s.splat(GELU_CUBE), x), x), x);
        let tanh = math::tanh(s, s.mul(s.splat(GELU_ROOT), s.add(x, cube)));
        let gelu = s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), tanh));
        s.mul(gelu, up)
    }
}

/// `out = gelu(gate) * up`, with the tanh form of GELU that Gemma was trained with.
pub fn geglu(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    map_rows(isa, Geglu, [gate, up], out);
}

/// See [`log_sum_exp`].
struct LogSumExp<'a>(&'a [f32]);

impl Op for LogSumExp<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        /// Elements whose sum is formed in single precision.
        const PART: usize = 1024;
        let (chunks, rest) = self.0.as_chunks::<16>();
        let mut padded = [f32::NEG_INFINITY; 16];
        padded[..rest.len()].copy_from_slice(rest);
        let mut largest = s.load(&padded);
        for x in chunks {
            largest = s.max(s.load(x), largest);
        }
        let max = s.largest(largest);
        let mut sum: f64 = rest.iter().map(|x| f64::from(x - max).exp()).sum();
        for part in chunks.chunks(PART / 16) {
            let mut partial = s.splat(0.0);
            for x in part {
                partial = s.add(partial, math::exp(s, s.sub(s.load(x), s.splat(max))));
            }
            sum += f64::from(s.sum(partial));
        }
        f64::from(max) + sum.ln()
    }
}

/// log Σ exp(x).
pub fn log_sum_exp(isa: Isa, x: &[f32]) -> f64 {
    isa.run(LogSumExp(x))
}
