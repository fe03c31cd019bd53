//! NEON: every 64-bit Arm. Only the instructions that all of them have, so none for dot products and
//! none that compute with f16.

// On targets that always have NEON most intrinsics are safe, and the blocks in `ops` need no `unsafe`.
#![allow(unused_unsafe)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use lapidary_formats::quant::Lanes;

use super::ops::{ops, token};
use super::{IntOp, Simd, SimdInt};

token!(
    /// NEON, also known as Advanced SIMD.
    Neon,
    "neon",
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

/// Sums of two products each of sixteen signed bytes. Those of `s`, or those of `w`, are at least -127.
#[target_feature(enable = "neon")]
#[inline]
fn pairs(w: uint8x16_t, s: uint8x16_t) -> int16x8_t {
    let (w, s) = (vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(s));
    vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(s)), w, s)
}

/// The products of eight words, each in one of four sums.
#[target_feature(enable = "neon")]
#[inline]
fn products(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    vmlal_high_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), a, b)
}

/// Sums of four products each, within each half.
#[target_feature(enable = "neon")]
#[inline]
fn dot(w: Bytes, s: Bytes) -> [int32x4_t; 2] {
    let (first, second) = (vpaddlq_s16(pairs(w[0], s[0])), vpaddlq_s16(pairs(w[2], s[2])));
    [vpadalq_s16(first, pairs(w[1], s[1])), vpadalq_s16(second, pairs(w[3], s[3]))]
}

impl Lanes for Neon {
    type F = Floats;

    ops! {
        fn splat(x: f32) -> Floats { [vdupq_n_f32(x); 4] }
        fn load(x: &[f32; 16]) -> Floats { four!(I => vld1q_f32(x[4 * I..].as_ptr())) }
        fn store(x: Floats, to: &mut [f32; 16]) {
            four!(I => vst1q_f32(to[4 * I..].as_mut_ptr(), x[I]));
        }
        fn add(a: Floats, b: Floats) -> Floats { four!(I => vaddq_f32(a[I], b[I])) }
        fn sub(a: Floats, b: Floats) -> Floats { four!(I => vsubq_f32(a[I], b[I])) }
        fn mul(a: Floats, b: Floats) -> Floats { four!(I => vmulq_f32(a[I], b[I])) }
        fn div(a: Floats, b: Floats) -> Floats { four!(I => vdivq_f32(a[I], b[I])) }
        // Not the instructions for maximum and minimum, which give NaN if either operand is NaN.
        fn max(a: Floats, b: Floats) -> Floats {
            four!(I => vbslq_f32(vcgtq_f32(a[I], b[I]), a[I], b[I]))
        }
        fn min(a: Floats, b: Floats) -> Floats {
            four!(I => vbslq_f32(vcltq_f32(a[I], b[I]), a[I], b[I]))
        }
        fn select_less(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats {
            four!(I => vbslq_f32(vcltq_f32(a[I], b[I]), x[I], y[I]))
        }
        fn round(a: Floats) -> Floats { four!(I => vrndnq_f32(a[I])) }
        fn add_exact_product(sum: Floats, a: Floats, b: Floats) -> Floats {
            four!(I => vfmaq_f32(sum[I], a[I], b[I]))
        }
        fn swap_halves(a: Floats) -> Floats { [a[2], a[3], a[0], a[1]] }
    }
}

impl Simd for Neon {
    const FLOATS: usize = 8;

    ops! {
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
        fn widen_f16(bits: u16) -> f32 {
            let y;
            asm!(
                "fcvt {y:s}, {x:h}",
                x = in(vreg) bits,
                y = lateout(vreg) y,
                options(pure, nomem, nostack, preserves_flags),
            );
            y
        }
        fn widen_f16s(bits: [u16; 4]) -> [f32; 4] {
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
            // A hint: any address is allowed, and no state changes that a program could see.
            let p = p.addr();
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags));
        }
    }
}

impl SimdInt for Neon {
    type Bytes = Bytes;
    type Words = Words;
    type Sums = [int32x4_t; 2];
    type HalfSums = [int32x4_t; 2];

    ops! {
        fn load_bytes(x: &[u8; 64]) -> Bytes { four!(I => vld1q_u8(x[16 * I..].as_ptr())) }
        fn load_halves(a: &[u8; 32], b: &[u8; 32]) -> Bytes {
            four!(I => vld1q_u8([a, b][I / 2][16 * (I % 2)..].as_ptr()))
        }
        fn load_quarters(x: [&[u8; 16]; 4]) -> Bytes { four!(I => vld1q_u8(x[I].as_ptr())) }
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
        fn store_halves(x: Bytes, a: &mut [u8; 32], b: &mut [u8; 32]) {
            two!(I => {
                let to = [a.as_mut_ptr(), b.as_mut_ptr()][I];
                vst1q_u8(to, x[2 * I]);
                vst1q_u8(to.add(16), x[2 * I + 1]);
            });
        }
        fn store_scales<const Q: i32>(x: Bytes, _words: bool, to: &mut [u32; 16]) {
            let x = vreinterpretq_s8_u8(x[Q as usize]);
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            let to: *mut i32 = to.as_mut_ptr().cast();
            vst1q_s32(to, vmovl_s16(vget_low_s16(low)));
            vst1q_s32(to.add(4), vmovl_high_s16(low));
            vst1q_s32(to.add(8), vmovl_s16(vget_low_s16(high)));
            vst1q_s32(to.add(12), vmovl_high_s16(high));
        }
        fn store_words<const Q: i32>(x: Bytes, factor: i16, to: &mut [i16; 16]) {
            let x = vreinterpretq_s8_u8(x[Q as usize]);
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            vst1q_s16(to.as_mut_ptr(), vmulq_n_s16(low, factor));
            vst1q_s16(to[8..].as_mut_ptr(), vmulq_n_s16(high, factor));
        }
        fn splat_byte(x: u8) -> Bytes { [vdupq_n_u8(x); 4] }
        fn and(a: Bytes, b: Bytes) -> Bytes { four!(I => vandq_u8(a[I], b[I])) }
        fn or(a: Bytes, b: Bytes) -> Bytes { four!(I => vorrq_u8(a[I], b[I])) }
        fn sub_bytes(a: Bytes, b: Bytes) -> Bytes { four!(I => vsubq_u8(a[I], b[I])) }
        fn shift_halves<const FIRST: i32, const SECOND: i32>(a: Bytes) -> Bytes {
            // Shifting left by a negative count shifts right.
            let counts = [vdupq_n_s8(-FIRST as i8), vdupq_n_s8(-SECOND as i8)];
            four!(I => vshlq_u8(a[I], counts[I / 2]))
        }
        fn shift_dwords<const A: i32, const B: i32, const C: i32, const D: i32>(
            x: Bytes
        ) -> Bytes {
            let (a, b, c, d) = (-A as i8, -B as i8, -C as i8, -D as i8);
            let counts = [a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d];
            let counts = vld1q_s8(counts.as_ptr());
            four!(I => vshlq_u8(x[I], counts))
        }
        fn shuffle(x: Bytes, places: &[u8; 64]) -> Bytes {
            four!(I => vqtbl1q_u8(x[I], vld1q_u8(places[16 * I..].as_ptr())))
        }
        fn lookup(table: &[u8; 16], places: Bytes) -> Bytes {
            let table = vld1q_u8(table.as_ptr());
            four!(I => vqtbl1q_u8(table, places[I]))
        }
        fn broadcast_quarter<const Q: i32>(x: Bytes) -> Bytes { [x[Q as usize]; 4] }
        fn bit_mask(bits: u64) -> Bytes {
            // Each byte becomes the byte of `bits` that its bit is in, and is tested for that bit.
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let bytes = bits.to_le_bytes();
            four!(I => {
                let spread = vcombine_u8(vdup_n_u8(bytes[2 * I]), vdup_n_u8(bytes[2 * I + 1]));
                vtstq_u8(spread, bit)
            })
        }

        fn load_words(x: &[i16; 32]) -> Words { four!(I => vld1q_s16(x[8 * I..].as_ptr())) }
        fn words(x: Bytes) -> Words { four!(I => vreinterpretq_s16_u8(x[I])) }
        fn high_bytes(x: Bytes) -> Words {
            four!(I => vshrq_n_s16::<8>(vreinterpretq_s16_u8(x[I])))
        }
        fn merge_words(a: Words, b: Words) -> Bytes {
            four!(I => {
                let (a, b) = (vreinterpretq_u8_s16(a[I]), vreinterpretq_u8_s16(b[I]));
                vtrn1q_u8(a, b)
            })
        }
        fn widen_half<const HALF: i32>(x: Bytes) -> Words {
            let (first, second) = (2 * HALF as usize, 2 * HALF as usize + 1);
            let (a, b) = (vreinterpretq_s8_u8(x[first]), vreinterpretq_s8_u8(x[second]));
            let (low_a, low_b) = (vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_low_s8(b)));
            [low_a, vmovl_high_s8(a), low_b, vmovl_high_s8(b)]
        }

        // An unsigned byte of at most 127 is the same as a signed one.
        fn pairs(u: Bytes, s: Bytes) -> Words { four!(I => pairs(u[I], s[I])) }
        fn add_products(sum: [int32x4_t; 2], a: Words, b: Words) -> [int32x4_t; 2] {
            let [mut low, mut high] = sum;
            four!(I => {
                low = vmlal_s16(low, vget_low_s16(a[I]), vget_low_s16(b[I]));
                high = vmlal_high_s16(high, a[I], b[I]);
            });
            [low, high]
        }
        fn products_by_half(a: Words, b: Words) -> [int32x4_t; 2] {
            two!(I => vaddq_s32(products(a[2 * I], b[2 * I]), products(a[2 * I + 1], b[2 * I + 1])))
        }
        fn products_by_quarter(a: Words, b: Words) -> [i32; 4] {
            let [q0, q1, q2, q3] = four!(I => products(a[I], b[I]));
            bytemuck::cast(vpaddq_s32(vpaddq_s32(q0, q1), vpaddq_s32(q2, q3)))
        }
        fn fold(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
            [vaddq_s32(a[0], a[1]), vaddq_s32(b[0], b[1])]
        }

        fn dot(u: Bytes, s: Bytes) -> [int32x4_t; 2] { dot(u, s) }
        fn dot_biased(w: Bytes, s: Bytes) -> [int32x4_t; 2] { dot(w, s) }
        fn half_sums(x: [[int32x4_t; 2]; 2]) -> [i32; 4] {
            let (x, y) = (vpaddq_s32(x[0][0], x[0][1]), vpaddq_s32(x[1][0], x[1][1]));
            bytemuck::cast(vpaddq_s32(x, y))
        }

        fn to_f32_4(a: [i32; 4]) -> [f32; 4] { bytemuck::cast(vcvtq_f32_s32(bytemuck::cast(a))) }
        fn mul_4(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            bytemuck::cast(vmulq_f32(bytemuck::cast(a), bytemuck::cast(b)))
        }
        fn add_4(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            bytemuck::cast(vaddq_f32(bytemuck::cast(a), bytemuck::cast(b)))
        }
        fn sub_4(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            bytemuck::cast(vsubq_f32(bytemuck::cast(a), bytemuck::cast(b)))
        }
        fn sub_product_4(a: [i32; 4], factor: i32, b: [i32; 4]) -> [i32; 4] {
            bytemuck::cast(vmlsq_n_s32(bytemuck::cast(a), bytemuck::cast(b), factor))
        }
    }

    #[inline(always)]
    fn add_scaled_biased<const GROUP: usize, const PAIR: usize>(
        self,
        sum: [int32x4_t; 2],
        w: [Bytes; 2],
        x: [Bytes; 2],
        scales: Bytes,
    ) -> [int32x4_t; 2] {
        // It takes signed bytes as well.
        self.add_scaled::<GROUP, PAIR, true>(sum, w, x, scales)
    }

    #[inline(always)]
    fn first_f16_pairs(self, x: Bytes) -> [[f32; 4]; 2] {
        let mut y = [[0.0; 4]; 2];
        for (i, x) in x.into_iter().enumerate() {
            let [a, b, c, d, ..]: [u8; 16] = bytemuck::cast(x);
            y[0][i] = self.widen_f16(u16::from_le_bytes([a, b]));
            y[1][i] = self.widen_f16(u16::from_le_bytes([c, d]));
        }
        y
    }

    const COLS: usize = 4;
    const WIDE: bool = false;
    const BIAS: u8 = 0;
    type Columns = int32x4_t;
    /// For each column four sums: those of the first two columns, and those of the others.
    type Steps = [int16x8_t; 2];

    ops! {
        fn splat_u32(x: u32) -> int32x4_t { vdupq_n_s32(x as i32) }
        fn splat_u64(x: u64) -> int32x4_t { vreinterpretq_s32_u64(vdupq_n_u64(x)) }
        fn splat_16(x: &[u8; 16]) -> int32x4_t { vreinterpretq_s32_u8(vld1q_u8(x.as_ptr())) }
        fn no_steps() -> [int16x8_t; 2] { [vdupq_n_s16(0); 2] }
        fn step(sum: [int16x8_t; 2], u: int32x4_t, s: int32x4_t) -> [int16x8_t; 2] {
            let (u, s) = (vreinterpretq_s8_s32(u), vreinterpretq_s8_s32(s));
            [vmlal_s8(sum[0], vget_low_s8(u), vget_low_s8(s)), vmlal_high_s8(sum[1], u, s)]
        }
        fn step_signed(sum: [int16x8_t; 2], w: int32x4_t, s: int32x4_t) -> [int16x8_t; 2] {
            let (w, s) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(s));
            [vmlal_s8(sum[0], vget_low_s8(w), vget_low_s8(s)), vmlal_high_s8(sum[1], w, s)]
        }
        fn flush(sum: int32x4_t, steps: [int16x8_t; 2], scale: int32x4_t) -> int32x4_t {
            let steps = vpaddlq_s16(vpaddq_s16(steps[0], steps[1]));
            vmlaq_s32(sum, steps, scale)
        }
        fn add_steps(sum: int32x4_t, steps: [int16x8_t; 2]) -> int32x4_t {
            vpadalq_s16(sum, vpaddq_s16(steps[0], steps[1]))
        }
        fn pair_step(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
        fn add_in_pairs(a: int32x4_t) -> int32x4_t { vaddq_s32(a, vrev64q_s32(a)) }
        fn add_in_fours(a: int32x4_t) -> int32x4_t { vdupq_n_s32(vaddvq_s32(a)) }
        fn shift_add<const BITS: i32>(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            vaddq_s32(vshlq_n_s32::<BITS>(a), b)
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
