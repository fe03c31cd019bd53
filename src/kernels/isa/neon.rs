//! NEON: every 64-bit Arm. No instruction newer than the first such machines, so neither those for
//! dot products nor arithmetic on halves.

// Where a target has NEON to begin with, most intrinsics are safe, and `ops` has nothing to allow.
#![allow(unused_unsafe)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::ops::{ops, token};
use super::{IntOp, Simd, SimdInt};

token!(
    /// NEON, also known as Advanced SIMD.
    Neon,
    "neon",
    is_aarch64_feature_detected!("neon")
);

type Floats = [float32x4_t; 4];
type Bytes = [uint8x16_t; 4];
type Words = [int16x8_t; 4];

/// An array of expressions, each with its own constant.
macro_rules! each {
    ($i:ident in $($n:literal)*: $e:expr) => {
        [$({
            const $i: usize = $n;
            $e
        }),*]
    };
}

/// An expression for each of two registers.
macro_rules! two {
    ($i:ident => $e:expr) => {
        each!($i in 0 1: $e)
    };
}

/// An expression for each of four registers.
macro_rules! four {
    ($i:ident => $e:expr) => {
        each!($i in 0 1 2 3: $e)
    };
}

/// Sums of two of the products of sixteen signed bytes. `s` is at least -127, or `w` is.
#[target_feature(enable = "neon")]
#[inline]
fn pairs(w: uint8x16_t, s: uint8x16_t) -> int16x8_t {
    let (w, s) = (vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(s));
    vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(s)), w, s)
}

/// Sums of four of the products of each half.
#[target_feature(enable = "neon")]
#[inline]
fn dot(w: Bytes, s: Bytes) -> [int32x4_t; 2] {
    let (first, second) = (vpaddlq_s16(pairs(w[0], s[0])), vpaddlq_s16(pairs(w[2], s[2])));
    [vpadalq_s16(first, pairs(w[1], s[1])), vpadalq_s16(second, pairs(w[3], s[3]))]
}

impl Simd for Neon {
    type F = Floats;
    const FLOATS: usize = 8;

    ops! {
        fn splat(x: f32) -> Floats { [vdupq_n_f32(x); 4] }
        fn load(x: &[f32; 16]) -> Floats { four!(I => vld1q_f32(x[4 * I..].as_ptr())) }
        fn store(x: Floats, to: &mut [f32; 16]) {
            four!(I => vst1q_f32(to[4 * I..].as_mut_ptr(), x[I]));
        }
        fn load_f16(x: &[u16; 16]) -> Floats {
            four!(I => {
                let y: float32x4_t;
                asm!(
                    "fcvtl {y:v}.4s, {x:v}.4h",
                    x = in(vreg) vld1_u16(x[4 * I..].as_ptr()),
                    y = lateout(vreg) y,
                    options(pure, nomem, nostack, preserves_flags),
                );
                y
            })
        }
        fn load_bf16(x: &[u16; 16]) -> Floats {
            four!(I => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x[4 * I..].as_ptr()))))
        }
        fn add(a: Floats, b: Floats) -> Floats { four!(I => vaddq_f32(a[I], b[I])) }
        fn sub(a: Floats, b: Floats) -> Floats { four!(I => vsubq_f32(a[I], b[I])) }
        fn mul(a: Floats, b: Floats) -> Floats { four!(I => vmulq_f32(a[I], b[I])) }
        fn div(a: Floats, b: Floats) -> Floats { four!(I => vdivq_f32(a[I], b[I])) }
        // Not the instructions for maximum and minimum, which give NaN if either one is.
        fn max(a: Floats, b: Floats) -> Floats {
            four!(I => vbslq_f32(vcgtq_f32(a[I], b[I]), a[I], b[I]))
        }
        fn min(a: Floats, b: Floats) -> Floats {
            four!(I => vbslq_f32(vcltq_f32(a[I], b[I]), a[I], b[I]))
        }
        fn abs(a: Floats) -> Floats { four!(I => vabsq_f32(a[I])) }
        fn copy_sign(a: Floats, sign: Floats) -> Floats {
            let bit = vdupq_n_u32(1 << 31);
            four!(I => vbslq_f32(bit, sign[I], a[I]))
        }
        fn zero_nan(a: Floats) -> Floats {
            let zero = vdupq_n_f32(0.0);
            four!(I => vbslq_f32(vceqq_f32(a[I], a[I]), a[I], zero))
        }
        fn exp2_of_rounded(t: Floats) -> Floats {
            let one = vreinterpretq_s32_f32(vdupq_n_f32(1.0));
            four!(I => {
                let shifted = vshlq_n_s32::<23>(vreinterpretq_s32_f32(t[I]));
                vreinterpretq_f32_s32(vaddq_s32(shifted, one))
            })
        }
        fn to_i8(a: Floats) -> [i8; 16] {
            let words = four!(I => vqmovn_s32(vcvtq_s32_f32(a[I])));
            let (low, high) = (vcombine_s16(words[0], words[1]), vcombine_s16(words[2], words[3]));
            bytemuck::cast(vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)))
        }
        fn half(bits: u16) -> f32 {
            let y;
            asm!(
                "fcvt {y:s}, {x:h}",
                x = in(vreg) bits,
                y = lateout(vreg) y,
                options(pure, nomem, nostack, preserves_flags),
            );
            y
        }
        fn prefetch(p: *const u8) {
            // A hint: no address is an error, and nothing that a program could see changes.
            let p = p.addr();
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags));
        }
    }
}

impl SimdInt for Neon {
    type B = Bytes;
    type W = Words;
    type M = [int16x8_t; 2];
    type I = [int32x4_t; 2];
    type D = [int32x4_t; 2];

    ops! {
        fn load_bytes(x: &[u8; 64]) -> Bytes { four!(I => vld1q_u8(x[16 * I..].as_ptr())) }
        fn load_halves(a: &[u8; 32], b: &[u8; 32]) -> Bytes {
            four!(I => vld1q_u8([a, b][I / 2][16 * (I % 2)..].as_ptr()))
        }
        fn load_twice(x: &[u8; 32]) -> Bytes {
            four!(I => vld1q_u8(x[16 * (I % 2)..].as_ptr()))
        }
        fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> Bytes {
            let (a, b) = (vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr()));
            let low = vdupq_n_u8(15);
            [vandq_u8(a, low), vshrq_n_u8::<4>(a), vandq_u8(b, low), vshrq_n_u8::<4>(b)]
        }
        fn store_bytes(x: Bytes, to: &mut [u8; 64]) {
            four!(I => vst1q_u8(to[16 * I..].as_mut_ptr(), x[I]));
        }
        fn splat_byte(x: u8) -> Bytes { [vdupq_n_u8(x); 4] }
        fn and(a: Bytes, b: Bytes) -> Bytes { four!(I => vandq_u8(a[I], b[I])) }
        fn or(a: Bytes, b: Bytes) -> Bytes { four!(I => vorrq_u8(a[I], b[I])) }
        fn shift_halves<const FIRST: i32, const SECOND: i32>(a: Bytes) -> Bytes {
            // To the left by a negative count is to the right.
            let counts = [vdupq_n_s8(-FIRST as i8), vdupq_n_s8(-SECOND as i8)];
            four!(I => vshlq_u8(a[I], counts[I / 2]))
        }
        fn bit_mask(bits: u64) -> Bytes {
            // Each byte gets the byte of `bits` that its bit is in, and is tested for that bit.
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let bytes = bits.to_le_bytes();
            four!(I => {
                let spread = vcombine_u8(vdup_n_u8(bytes[2 * I]), vdup_n_u8(bytes[2 * I + 1]));
                vtstq_u8(spread, bit)
            })
        }

        fn scales_16(x: &[i8; 16]) -> Words {
            const ORDER: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
            let x = vqtbl1q_s8(vld1q_s8(x.as_ptr()), vld1q_u8(ORDER.as_ptr()));
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            // The upper halves are never seen.
            [low, vextq_s16::<4>(low, low), high, vextq_s16::<4>(high, high)]
        }
        fn scales_32(x: [u8; 8]) -> Words {
            let x = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(x.as_ptr())));
            let (even, odd) = (vuzp1q_s16(x, x), vuzp2q_s16(x, x));
            [even, even, odd, odd]
        }
        fn scale<const U: i32>(scales: Words) -> Words {
            four!(I => vdupq_laneq_s16::<U>(scales[I]))
        }
        fn store_scales(x: Words, to: &mut [i16; 32]) {
            four!(I => vst1q_s16(to[8 * I..].as_mut_ptr(), x[I]));
        }

        fn widen(x: &[i8; 16]) -> [int16x8_t; 2] {
            two!(I => vmovl_s8(vld1_s8(x[8 * I..].as_ptr())))
        }
        fn widen_doubled(x: [u8; 8]) -> [int16x8_t; 2] {
            let x = vld1_u8(x.as_ptr());
            let doubled = [vzip1_u8(x, x), vzip2_u8(x, x)];
            two!(I => vreinterpretq_s16_u16(vmovl_u8(doubled[I])))
        }
        fn mul_words(a: [int16x8_t; 2], factor: i16) -> [int16x8_t; 2] {
            two!(I => vmulq_n_s16(a[I], factor))
        }
        fn store_words(x: [int16x8_t; 2], to: &mut [i16; 16]) {
            two!(I => vst1q_s16(to[8 * I..].as_mut_ptr(), x[I]));
        }

        // Not of neighbours, but within a group order is not seen. And up to 127, an unsigned byte
        // is a signed one.
        fn pairs(u: Bytes, s: Bytes) -> Words { four!(I => pairs(u[I], s[I])) }
        fn zero() -> [int32x4_t; 2] { [vdupq_n_s32(0); 2] }
        fn add_products(sum: [int32x4_t; 2], a: Words, b: Words) -> [int32x4_t; 2] {
            let [mut low, mut high] = sum;
            four!(I => {
                low = vmlal_s16(low, vget_low_s16(a[I]), vget_low_s16(b[I]));
                high = vmlal_high_s16(high, a[I], b[I]);
            });
            [low, high]
        }
        fn add_mins(sum: [int32x4_t; 2], a: [int16x8_t; 2], b: &[i16; 16]) -> [int32x4_t; 2] {
            let [mut low, mut high] = sum;
            two!(I => {
                let b = vld1q_s16(b[8 * I..].as_ptr());
                low = vmlal_s16(low, vget_low_s16(a[I]), vget_low_s16(b));
                high = vmlal_high_s16(high, a[I], b);
            });
            [low, high]
        }
        fn sums(x: [[int32x4_t; 2]; 4]) -> [i32; 4] {
            let x = four!(I => vaddq_s32(x[I][0], x[I][1]));
            bytemuck::cast(vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3])))
        }

        fn dot(u: Bytes, s: Bytes) -> [int32x4_t; 2] { dot(u, s) }
        fn dot_signed(w: Bytes, s: Bytes) -> [int32x4_t; 2] { dot(w, s) }
        fn half_sums(x: [[int32x4_t; 2]; 2]) -> [i32; 4] {
            let (x, y) = (vpaddq_s32(x[0][0], x[0][1]), vpaddq_s32(x[1][0], x[1][1]));
            bytemuck::cast(vpaddq_s32(x, y))
        }
    }

    const COLS: usize = 4;
    const WIDE: bool = false;
    type V = int32x4_t;
    /// Products of the first two columns and of the others, four lanes each.
    type A = [int16x8_t; 2];

    #[inline(always)]
    fn scale_bits(scale: i16) -> u32 {
        i32::from(scale) as u32
    }

    ops! {
        fn splat_v(x: u32) -> int32x4_t { vdupq_n_s32(x as i32) }
        fn no_steps() -> [int16x8_t; 2] { [vdupq_n_s16(0); 2] }
        fn step(sum: [int16x8_t; 2], u: int32x4_t, s: int32x4_t) -> [int16x8_t; 2] {
            let (u, s) = (vreinterpretq_s8_s32(u), vreinterpretq_s8_s32(s));
            [vmlal_s8(sum[0], vget_low_s8(u), vget_low_s8(s)), vmlal_high_s8(sum[1], u, s)]
        }
        fn flush(sum: int32x4_t, steps: [int16x8_t; 2], scale: int32x4_t) -> int32x4_t {
            let steps = vpaddlq_s16(vpaddq_s16(steps[0], steps[1]));
            vmlaq_s32(sum, steps, scale)
        }
        fn step_signed(sum: int32x4_t, w: int32x4_t, s: int32x4_t) -> int32x4_t {
            let (w, s) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(s));
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(s));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w, s)))
        }
        fn pair_step(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
        fn sub_v(a: int32x4_t, b: int32x4_t) -> int32x4_t { vsubq_s32(a, b) }
        fn to_float(a: int32x4_t) -> int32x4_t { vreinterpretq_s32_f32(vcvtq_f32_s32(a)) }
        fn add_f(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            let (a, b) = (vreinterpretq_f32_s32(a), vreinterpretq_f32_s32(b));
            vreinterpretq_s32_f32(vaddq_f32(a, b))
        }
        fn sub_f(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            let (a, b) = (vreinterpretq_f32_s32(a), vreinterpretq_f32_s32(b));
            vreinterpretq_s32_f32(vsubq_f32(a, b))
        }
        fn mul_f(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            let (a, b) = (vreinterpretq_f32_s32(a), vreinterpretq_f32_s32(b));
            vreinterpretq_s32_f32(vmulq_f32(a, b))
        }
    }
}
