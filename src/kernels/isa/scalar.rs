//! The reference: arrays of sixteen floats, for any machine.

use half::{bf16, f16};

use super::Simd;

/// No vector instructions but those that the compiler finds.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn zip(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|l| f(a[l], b[l]))
}

impl Simd for Scalar {
    type F = [f32; 16];
    const FLOATS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, x: [f32; 16], to: &mut [f32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> [f32; 16] {
        x.map(|x| f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> [f32; 16] {
        x.map(|x| bf16::from_bits(x).to_f32())
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> [f32; 16] {
        x.map(f32::from)
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, a: [f32; 16], b: [f32; 16], x: [f32; 16], y: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copy_sign(self, a: [f32; 16], sign: [f32; 16]) -> [f32; 16] {
        zip(a, sign, f32::copysign)
    }
    #[inline(always)]
    fn zero_nan(self, a: [f32; 16]) -> [f32; 16] {
        a.map(|a| if a.is_nan() { 0.0 } else { a })
    }
    #[inline(always)]
    fn exp2_of_rounded(self, t: [f32; 16]) -> [f32; 16] {
        t.map(|t| f32::from_bits((t.to_bits() << 23).wrapping_add(1f32.to_bits())))
    }
    #[inline(always)]
    fn to_i8(self, a: [f32; 16]) -> [i8; 16] {
        a.map(|a| a as i8)
    }
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }
    #[inline(always)]
    fn halves(self, bits: [u16; 4]) -> [f32; 4] {
        bits.map(|bits| self.half(bits))
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
