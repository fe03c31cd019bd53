//! The unquantized types, as blocks of one value. [`F16`] and [`F32`] are also the fields `d`,
//! `dmin` and `m` of the other blocks.
//!
//! Little-endian, like everything in GGUF:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use bytemuck::{Pod, Zeroable};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::lanes::Lanes;

/// IEEE binary32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct F32([u8; 4]);
const _: () = assert!(size_of::<F32>() == 4);

impl F32 {
    /// The bytes of `x`.
    pub fn from_f32(x: f32) -> Self {
        Self(x.to_le_bytes())
    }

    /// The value.
    pub fn to_f32(self) -> f32 {
        f32::from_le_bytes(self.0)
    }
}

/// IEEE binary16.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16([u8; 2]);
const _: () = assert!(size_of::<F16>() == 2);

impl F16 {
    /// The nearest f16 value. Values out of its range become ±65504: a weight or a scale that is a
    /// little too small does less harm than an infinite one. NaN stays NaN.
    pub fn from_f32(x: f32) -> Self {
        let max = f16::MAX.to_f32_const();
        Self(f16::from_f32(x.clamp(-max, max)).to_le_bytes())
    }

    /// The value with these bits.
    pub(super) fn from_bits(bits: u16) -> Self {
        Self(bits.to_le_bytes())
    }

    /// The exact value.
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }

    /// The bits, for kernels that have an instruction to widen them.
    pub fn to_bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }
}

/// The upper half of an IEEE binary32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct Bf16([u8; 2]);
const _: () = assert!(size_of::<Bf16>() == 2);

impl Bf16 {
    /// The nearest bfloat16, ties to even.
    pub fn from_f32(x: f32) -> Self {
        Self(bf16::from_f32(x).to_le_bytes())
    }

    /// The exact value.
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)
    }
}

impl Block for F32 {
    const LEN: usize = 1;
    type Activation = F32;

    fn dequantize(&self, y: &mut [f32]) {
        y[0] = self.to_f32();
    }

    fn dot_row(w: &[Self], a: &[F32]) -> f32 {
        dot(w, a, |w| w.map(F32::to_f32))
    }
}

impl Quantize for F32 {
    #[inline(always)]
    fn quantize<L: Lanes>(_: L, x: &[f32], _: &[f32], _: Effort) -> Self {
        Self::from_f32(x[0])
    }
}

impl Block for F16 {
    const LEN: usize = 1;
    type Activation = F32;

    fn dequantize(&self, y: &mut [f32]) {
        y[0] = self.to_f32();
    }

    fn dot_row(w: &[Self], a: &[F32]) -> f32 {
        // Converts a slice at a time, for which `half` uses the processor's instruction if there is
        // one.
        dot(w, a, |w| {
            let mut y = [0.0; LANES];
            w.map(|w| f16::from_le_bytes(w.0)).convert_to_f32_slice(&mut y);
            y
        })
    }
}

impl Quantize for F16 {
    #[inline(always)]
    fn quantize<L: Lanes>(_: L, x: &[f32], _: &[f32], _: Effort) -> Self {
        Self::from_f32(x[0])
    }
}

impl Block for Bf16 {
    const LEN: usize = 1;
    type Activation = F32;

    fn dequantize(&self, y: &mut [f32]) {
        y[0] = self.to_f32();
    }

    fn dot_row(w: &[Self], a: &[F32]) -> f32 {
        dot(w, a, |w| w.map(Bf16::to_f32))
    }
}

impl Quantize for Bf16 {
    #[inline(always)]
    fn quantize<L: Lanes>(_: L, x: &[f32], _: &[f32], _: Effort) -> Self {
        Self::from_f32(x[0])
    }
}

/// Number of partial sums in [`dot`]: enough to hide the latency of an addition at any vector width
/// up to 512 bits.
const LANES: usize = 32;

/// The dot product, added up in the same order on every machine: product `i` is added to sum
/// `i % LANES`, then the sums are added pairwise. Products are rounded before they are added.
fn dot<W: Pod>(w: &[W], a: &[F32], widen: impl Fn([W; LANES]) -> [f32; LANES]) -> f32 {
    let mut sums = [0.0; LANES];
    let mut add = |w: [W; LANES], a: [F32; LANES]| {
        let w = widen(w);
        for l in 0..LANES {
            sums[l] += w[l] * a[l].to_f32();
        }
    };
    let (w, w_tail) = w.as_chunks();
    let (a, a_tail) = a.as_chunks();
    for (w, a) in w.iter().zip(a) {
        add(*w, *a);
    }
    if !w_tail.is_empty() {
        add(padded(w_tail), padded(a_tail));
    }
    for n in [16, 8, 4, 2, 1] {
        for l in 0..n {
            sums[l] += sums[l + n];
        }
    }
    sums[0]
}

/// The tail of a row, padded with zeros.
fn padded<W: Pod>(tail: &[W]) -> [W; LANES] {
    let mut y = [W::zeroed(); LANES];
    y[..tail.len()].copy_from_slice(tail);
    y
}
