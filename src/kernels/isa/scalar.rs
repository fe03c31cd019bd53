//! The reference, [`Plain`]: arrays of sixteen floats, for any machine.

use half::{bf16, f16};
use lapidary_formats::quant::Plain;

use super::Simd;

impl Simd for Plain {
    const FLOATS: usize = 1;

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
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copy_sign(self, a: [f32; 16], sign: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|l| a[l].copysign(sign[l]))
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
    fn widen_f16(self, bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }
    #[inline(always)]
    fn widen_f16s(self, bits: [u16; 4]) -> [f32; 4] {
        bits.map(|bits| self.widen_f16(bits))
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
