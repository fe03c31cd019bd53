//! Activations to Q8_K and Q8_0, with the same codes as the reference.

use lapidary_formats::quant::blocks::F16;

use super::isa::{Op, Simd};

/// A block of activations: `x = d * q`.
#[derive(Clone, Copy)]
pub struct Quantized<const N: usize> {
    /// The codes, within ±127.
    pub qs: [i8; N],
    /// The scale.
    pub d: f32,
}

impl Quantized<256> {
    /// The sums of every 16 codes.
    #[inline(always)]
    pub fn bsums(&self) -> [i16; 16] {
        let sum = |qs: &[i8; 16]| qs.iter().map(|q| i16::from(*q)).sum::<i16>();
        let (groups, _) = self.qs.as_chunks::<16>();
        std::array::from_fn(|i| sum(&groups[i]))
    }
}

impl Quantized<32> {
    /// The sum of the codes.
    #[inline(always)]
    pub fn sum(&self) -> i32 {
        self.qs.iter().map(|q| i32::from(*q)).sum()
    }
}

/// Quantizes one block.
pub struct QuantizeBlock<'a, const N: usize>(pub &'a [f32; N]);

/// Quantizes several blocks.
pub struct Quantizer<'a, const N: usize>(pub &'a [[f32; N]]);

impl Op for QuantizeBlock<'_, 256> {
    type Out = Quantized<256>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Quantized<256> {
        k(s, self.0)
    }
}

impl Op for QuantizeBlock<'_, 32> {
    type Out = Quantized<32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Quantized<32> {
        block_32(s, self.0)
    }
}

impl Op for Quantizer<'_, 256> {
    type Out = Vec<Quantized<256>>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        let mut all = Vec::with_capacity(self.0.len());
        for x in self.0 {
            all.push(k(s, x));
        }
        all
    }
}

impl Op for Quantizer<'_, 32> {
    type Out = Vec<Quantized<32>>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        let mut all = Vec::with_capacity(self.0.len());
        for x in self.0 {
            all.push(block_32(s, x));
        }
        all
    }
}

/// As `BlockQ8K::quantize`: codes are rounded half to even.
#[inline(always)]
fn k<S: Simd>(s: S, x: &[f32; 256]) -> Quantized<256> {
    quantize::<S, 256, false>(s, x)
}

/// As `BlockQ8_0::quantize`: codes are rounded half away from zero, and computed with the scale before
/// that is rounded to f16.
#[inline(always)]
pub(super) fn block_32<S: Simd>(s: S, x: &[f32; 32]) -> Quantized<32> {
    let y = quantize::<S, 32, true>(s, x);
    Quantized { d: F16::from_f32(y.d).to_f32(), ..y }
}

/// The codes of a block and its scale, the largest magnitude / 127.
#[inline(always)]
fn quantize<S: Simd, const N: usize, const HALF_AWAY: bool>(s: S, x: &[f32; N]) -> Quantized<N> {
    let (x, _) = x.as_chunks::<16>();
    let mut largest = s.splat(0.0);
    for x in x {
        largest = s.max(s.abs(finite(s, s.load(x))), largest);
    }
    let d = s.largest(largest) / 127.0;
    let inverse = s.splat(if d < f32::MIN_POSITIVE { 0.0 } else { 1.0 / d });
    let (low, high) = (s.splat(-127.0), s.splat(127.0));
    // Floats from 2^23 on are integers, so the addition rounds.
    let round = s.splat(1.5 * (1 << 23) as f32);
    // The largest float below 0.5: truncating after adding it rounds.
    let below_half = s.splat(0.499_999_97);
    let mut qs = [0; N];
    let (groups, _) = qs.as_chunks_mut::<16>();
    for (qs, x) in groups.iter_mut().zip(x) {
        let code = s.min(s.max(s.mul(finite(s, s.load(x)), inverse), low), high);
        *qs = s.to_i8(if HALF_AWAY {
            s.add(code, s.copy_sign(below_half, code))
        } else {
            s.sub(s.add(code, round), round)
        });
    }
    Quantized { qs, d }
}

/// NaN as 0, and magnitudes limited as the reference limits them.
#[inline(always)]
fn finite<S: Simd>(s: S, x: S::F) -> S::F {
    let limit = (1 << 28) as f32;
    s.min(s.max(s.zero_nan(x), s.splat(-limit)), s.splat(limit))
}
