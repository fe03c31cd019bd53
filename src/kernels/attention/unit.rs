//! How keys and values are stored, 32 values at a time.

use bytemuck::{Pod, Zeroable};
use half::f16;
use half::slice::HalfFloatSliceExt;
use lapidary_formats::quant::blocks::{BlockQ8_0, F16};

use crate::kernels::isa::Simd;
use crate::kernels::quantize;

/// Values in a unit.
pub const UNIT: usize = 32;

/// 32 values of a head in the cache.
pub trait Unit: Pod + Send + Sync {
    /// Whether units come from the cache of keys and values, which is in memory.
    const FROM_MEMORY: bool = true;

    /// From single precision.
    fn store<S: Simd>(s: S, x: &[f32; UNIT]) -> Self;
    /// The first sixteen values (`half` is 0) or the last (1), widened.
    fn load<S: Simd>(&self, s: S, half: usize) -> S::F;
    /// The same with little-endian bytes, as in files, or back again.
    fn to_le(self) -> Self;
}

/// 32 values in single precision, on whole cache lines.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Wide([f32; UNIT]);

impl Wide {
    /// The values of a unit.
    #[inline(always)]
    pub fn of<S: Simd>(s: S, unit: &impl Unit) -> Self {
        let mut wide = Self([0.0; UNIT]);
        let halves = wide.0.as_chunks_mut().0;
        s.store(unit.load(s, 0), &mut halves[0]);
        s.store(unit.load(s, 1), &mut halves[1]);
        wide
    }

    /// At most 32 values, and zeros.
    pub fn padded(x: &[f32]) -> Self {
        let mut wide = Self([0.0; UNIT]);
        wide.0[..x.len()].copy_from_slice(x);
        wide
    }
}

impl Unit for Wide {
    const FROM_MEMORY: bool = false;

    #[inline(always)]
    fn store<S: Simd>(_: S, x: &[f32; UNIT]) -> Self {
        Self(*x)
    }

    #[inline(always)]
    fn load<S: Simd>(&self, s: S, half: usize) -> S::F {
        self.0.load(s, half)
    }

    fn to_le(self) -> Self {
        Self(self.0.to_le())
    }
}

impl Unit for [u16; UNIT] {
    #[inline(always)]
    fn store<S: Simd>(_: S, x: &[f32; UNIT]) -> Self {
        let mut y = [f16::ZERO; UNIT];
        y.convert_from_f32_slice(x);
        // Not infinite: values outside of a query's causal range are multiplied by 0, which must
        // give 0.
        y.map(|x| if x.is_infinite() { f16::MAX.copysign(x) } else { x }.to_bits())
    }

    #[inline(always)]
    fn load<S: Simd>(&self, s: S, half: usize) -> S::F {
        s.load_f16(&self.as_chunks().0[half])
    }

    fn to_le(self) -> Self {
        self.map(u16::to_le)
    }
}

impl Unit for [f32; UNIT] {
    #[inline(always)]
    fn store<S: Simd>(_: S, x: &[f32; UNIT]) -> Self {
        *x
    }

    #[inline(always)]
    fn load<S: Simd>(&self, s: S, half: usize) -> S::F {
        s.load(&self.as_chunks().0[half])
    }

    fn to_le(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits().to_le()))
    }
}

impl Unit for BlockQ8_0 {
    #[inline(always)]
    fn store<S: Simd>(s: S, x: &[f32; UNIT]) -> Self {
        let block = quantize::block_32(s, x);
        Self { d: F16::from_f32(block.d), qs: block.qs }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, s: S, half: usize) -> S::F {
        let d = s.splat(s.widen_f16(self.d.to_bits()));
        s.mul(s.load_i8(&self.qs.as_chunks().0[half]), d)
    }

    fn to_le(self) -> Self {
        // It consists of bytes.
        self
    }
}
