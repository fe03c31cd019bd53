//! NEON: every 64-bit Arm. No instruction newer than the first such machines, so neither those for
//! dot products nor arithmetic on halves.

// Where a target has NEON to begin with, most intrinsics are safe, and `ops` has nothing to allow.
#![allow(unused_unsafe)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::ops::{ops, token};
use super::simd::{Q3_HIGH, Q3_LOW};
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
        fn load_i8(x: &[i8; 16]) -> Floats {
            let x = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
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
        fn select_less(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats {
            four!(I => vbslq_f32(vcltq_f32(a[I], b[I]), x[I], y[I]))
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
        fn halves(bits: [u16; 4]) -> [f32; 4] {
            let y: float32x4_t;
            asm!(
                "fcvtl {y:v}.4s, {x:v}.4h",
                x = in(vreg) vld1_u16(bits.as_ptr()),
                y = lateout(vreg) y,
                options(pure, nomem, nostack, preserves_flags),
            );
            bytemuck::cast(y)
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
    type H = Bytes;
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

        fn load_heads(x: [&[u8; 16]; 4]) -> Bytes { four!(I => vld1q_u8(x[I].as_ptr())) }
        fn nibble_heads(x: Bytes, high: bool) -> Bytes {
            let low = vdupq_n_u8(15);
            four!(I => if high { vshrq_n_u8::<4>(x[I]) } else { vandq_u8(x[I], low) })
        }
        fn six_bit_heads(x: Bytes) -> Bytes {
            // The low parts of scales and minimums, from where they lie; then the high bits of the
            // last four of each, which the first four carry.
            const PLACES: [u8; 16] = [4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
            const SHIFTS: [i8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -4, -4, -4, -4];
            const MASKS: [u8; 16] =
                [63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15];
            const HIGH: [u8; 16] = [255, 255, 255, 255, 4, 5, 6, 7, 255, 255, 255, 255, 8, 9, 10, 11];
            let (places, high) = (vld1q_u8(PLACES.as_ptr()), vld1q_u8(HIGH.as_ptr()));
            let (shifts, masks) = (vld1q_s8(SHIFTS.as_ptr()), vld1q_u8(MASKS.as_ptr()));
            four!(I => {
                let low = vandq_u8(vshlq_u8(vqtbl1q_u8(x[I], places), shifts), masks);
                let high = vshrq_n_u8::<2>(vqtbl1q_u8(x[I], high));
                vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30)))
            })
        }
        fn signed_six_bit_heads(x: Bytes) -> Bytes {
            const RIGHT: [i8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, -4, -4, -4, -4, -4, -4, -4, -4];
            const LEFT: [i8; 16] = [4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0, -2, -2, -2, -2];
            let (low, high) = (vld1q_u8(Q3_LOW.as_ptr()), vld1q_u8(Q3_HIGH.as_ptr()));
            let (right, left) = (vld1q_s8(RIGHT.as_ptr()), vld1q_s8(LEFT.as_ptr()));
            four!(I => {
                let low = vandq_u8(vshlq_u8(vqtbl1q_u8(x[I], low), right), vdupq_n_u8(15));
                let high = vandq_u8(vshlq_u8(vqtbl1q_u8(x[I], high), left), vdupq_n_u8(0x30));
                vsubq_u8(vorrq_u8(low, high), vdupq_n_u8(32))
            })
        }
        fn scale_32<const B: i32, const U: i32>(x: Bytes) -> Words {
            // What lies beyond the table is zero.
            let place = |i: i32| vreinterpretq_u8_u16(vdupq_n_u16(0xff00 | (2 * U + i) as u16));
            let x = x[B as usize];
            let [a, b] =
                two!(I => vreinterpretq_s16_u8(vqtbl1q_u8(x, place(I as i32))));
            [a, a, b, b]
        }
        fn scale_16<const B: i32, const U: i32>(x: Bytes) -> Words {
            // To the upper byte of each word, and down with the sign.
            let place = |g: i32| vreinterpretq_u8_u16(vdupq_n_u16((((4 * U + g) << 8) | 0xff) as u16));
            let x = x[B as usize];
            four!(I => vshrq_n_s16::<8>(vreinterpretq_s16_u8(vqtbl1q_u8(x, place(I as i32)))))
        }
        fn products_32(x: Bytes, sums: &[[i16; 8]; 4]) -> [i32; 4] {
            four!(I => {
                let (x, s) = (vmovl_high_u8(x[I]), vld1q_s16(sums[I].as_ptr()));
                let x = vreinterpretq_s16_u16(x);
                let low = vmull_s16(vget_low_s16(x), vget_low_s16(s));
                vaddvq_s32(vmlal_high_s16(low, x, s))
            })
        }
        fn products_16(x: Bytes, sums: &[[i16; 16]; 4]) -> [i32; 4] {
            four!(I => {
                let x = vreinterpretq_s8_u8(x[I]);
                let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
                let (a, b) = (vld1q_s16(sums[I].as_ptr()), vld1q_s16(sums[I][8..].as_ptr()));
                let sum = vmull_s16(vget_low_s16(low), vget_low_s16(a));
                let sum = vmlal_high_s16(sum, low, a);
                let sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(b));
                vaddvq_s32(vmlal_high_s16(sum, high, b))
            })
        }

        // Not of neighbours, but within a group order is not seen. And up to 127, an unsigned byte
        // is a signed one.
        fn pairs(u: Bytes, s: Bytes) -> Words { four!(I => pairs(u[I], s[I])) }
        fn add_products(sum: [int32x4_t; 2], a: Words, b: Words) -> [int32x4_t; 2] {
            let [mut low, mut high] = sum;
            four!(I => {
                low = vmlal_s16(low, vget_low_s16(a[I]), vget_low_s16(b[I]));
                high = vmlal_high_s16(high, a[I], b[I]);
            });
            [low, high]
        }
        fn fold(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
            [vaddq_s32(a[0], a[1]), vaddq_s32(b[0], b[1])]
        }

        fn affine(
            a: &[f32; 4], d: [f32; 4], p: [i32; 4], dmin: [f32; 4], m: [i32; 4]
        ) -> [f32; 4] {
            let p = vmulq_f32(bytemuck::cast(d), vcvtq_f32_s32(bytemuck::cast(p)));
            let m = vmulq_f32(bytemuck::cast(dmin), vcvtq_f32_s32(bytemuck::cast(m)));
            bytemuck::cast(vmulq_f32(vld1q_f32(a.as_ptr()), vsubq_f32(p, m)))
        }
        fn symmetric(
            a: &[f32; 4], d: [f32; 4], p: [i32; 4], offset: i32, m: [i32; 4]
        ) -> [f32; 4] {
            let p = vmlsq_n_s32(bytemuck::cast(p), bytemuck::cast(m), offset);
            let scale = vmulq_f32(vld1q_f32(a.as_ptr()), bytemuck::cast(d));
            bytemuck::cast(vmulq_f32(scale, vcvtq_f32_s32(p)))
        }

        fn dot(u: Bytes, s: Bytes) -> [int32x4_t; 2] { dot(u, s) }
        fn dot_signed(w: Bytes, s: Bytes) -> [int32x4_t; 2] { dot(w, s) }
        fn half_sums(x: [[int32x4_t; 2]; 2]) -> [i32; 4] {
            let (x, y) = (vpaddq_s32(x[0][0], x[0][1]), vpaddq_s32(x[1][0], x[1][1]));
            bytemuck::cast(vpaddq_s32(x, y))
        }
    }

    #[inline(always)]
    fn products(self, a: Words, b: Words) -> [int32x4_t; 2] {
        self.add_products(bytemuck::Zeroable::zeroed(), a, b)
    }

    #[inline(always)]
    fn first_halves(self, x: Bytes) -> [[f32; 4]; 2] {
        let mut y = [[0.0; 4]; 2];
        for (i, x) in x.into_iter().enumerate() {
            let [a, b, c, d, ..]: [u8; 16] = bytemuck::cast(x);
            y[0][i] = self.half(u16::from_le_bytes([a, b]));
            y[1][i] = self.half(u16::from_le_bytes([c, d]));
        }
        y
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
        fn add_steps(sum: int32x4_t, steps: [int16x8_t; 2]) -> int32x4_t {
            vpadalq_s16(sum, vpaddq_s16(steps[0], steps[1]))
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
