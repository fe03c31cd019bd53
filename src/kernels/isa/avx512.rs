//! AVX-512 with VNNI: Intel since 2019, AMD since 2022. Whole registers of 512 bits.

use std::arch::x86_64::*;

use super::ops::{ops, token};
use super::{IntOp, Simd, SimdInt};

token!(
    /// AVX-512 F, BW, DQ, VL and VNNI, with AVX2, FMA and F16C.
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
);

/// The sums of the halves of `$a` and of `$b`.
macro_rules! quarters {
    ($a:expr, $b:expr) => {{
        let even = _mm512_shuffle_i64x2::<0b10_00_10_00>($a, $b);
        let odd = _mm512_shuffle_i64x2::<0b11_01_11_01>($a, $b);
        let fours = _mm512_add_epi32(even, odd);
        let twos = _mm512_add_epi32(fours, _mm512_shuffle_epi32::<0b01_00_11_10>(fours));
        let ones = _mm512_add_epi32(twos, _mm512_shuffle_epi32::<0b10_11_00_01>(twos));
        let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        bytemuck::cast(_mm512_castsi512_si128(_mm512_permutexvar_epi32(first, ones)))
    }};
}

impl Simd for Avx512 {
    type F = __m512;
    const FLOATS: usize = 32;

    ops! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(x: &[f32; 16]) -> __m512 { _mm512_loadu_ps(x.as_ptr()) }
        fn store(x: __m512, to: &mut [f32; 16]) { _mm512_storeu_ps(to.as_mut_ptr(), x) }
        fn load_f16(x: &[u16; 16]) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))
        }
        fn load_bf16(x: &[u16; 16]) -> __m512 {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
        fn copy_sign(a: __m512, sign: __m512) -> __m512 {
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign))
        }
        fn zero_nan(a: __m512) -> __m512 {
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a)
        }
        fn exp2_of_rounded(t: __m512) -> __m512 {
            let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(shifted, one))
        }
        fn to_i8(a: __m512) -> [i8; 16] {
            bytemuck::cast(_mm512_cvtsepi32_epi8(_mm512_cvttps_epi32(a)))
        }
        fn sum_each(x: [__m512; 4]) -> [f32; 4] {
            // Halves are added in the order of `sum`, but for two and then four registers at once.
            let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(x[0], x[1]);
            let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(x[0], x[1]);
            let a = _mm512_add_ps(low, high);
            let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(x[2], x[3]);
            let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(x[2], x[3]);
            let b = _mm512_add_ps(low, high);
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            let fours = _mm512_add_ps(even, odd);
            let twos = _mm512_add_ps(fours, _mm512_permute_ps::<0b01_00_11_10>(fours));
            let ones = _mm512_add_ps(twos, _mm512_permute_ps::<0b10_11_00_01>(twos));
            let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            bytemuck::cast(_mm512_castps512_ps128(_mm512_permutexvar_ps(first, ones)))
        }
        fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        fn half(bits: u16) -> f32 {
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
        }
    }
}

impl SimdInt for Avx512 {
    type B = __m512i;
    type W = __m512i;
    type M = __m256i;
    type I = __m512i;
    type D = __m512i;

    ops! {
        fn load_bytes(x: &[u8; 64]) -> __m512i { _mm512_loadu_si512(x.as_ptr().cast()) }
        fn load_halves(a: &[u8; 32], b: &[u8; 32]) -> __m512i {
            let (a, b) = (a.as_ptr(), b.as_ptr());
            let a = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
            _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.cast()))
        }
        fn load_twice(x: &[u8; 32]) -> __m512i {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(x.as_ptr().cast()))
        }
        fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> __m512i {
            let a = _mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let b = _mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()));
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            let counts = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
            _mm512_and_si512(_mm512_srlv_epi64(both, counts), _mm512_set1_epi8(15))
        }
        fn store_bytes(x: __m512i, to: &mut [u8; 64]) {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), x)
        }
        fn splat_byte(x: u8) -> __m512i { _mm512_set1_epi8(x as i8) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn shift_halves<const FIRST: i32, const SECOND: i32>(a: __m512i) -> __m512i {
            // Rotated, so that one instruction shifts to both sides: a left rotation by n is a
            // right one by 64 - n, and what comes in is for the caller to mask.
            let (first, second) = (i64::from(FIRST & 63), i64::from(SECOND & 63));
            let counts = _mm512_setr_epi64(
                first, first, first, first, second, second, second, second,
            );
            if FIRST == 0 && SECOND == 0 { a } else { _mm512_rorv_epi64(a, counts) }
        }
        fn bit_mask(bits: u64) -> __m512i { _mm512_movm_epi8(bits) }

        fn scales_16(x: &[i8; 16]) -> __m512i {
            let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast()));
            let order = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, 1, 5, 9, 13, -1, -1, -1, -1,
                2, 6, 10, 14, -1, -1, -1, -1, 3, 7, 11, 15, -1, -1, -1, -1,
            );
            _mm512_cvtepi8_epi16(_mm256_shuffle_epi8(x, order))
        }
        fn scales_32(x: [u8; 8]) -> __m512i {
            let x = _mm256_set1_epi64x(i64::from_le_bytes(x));
            let order = _mm256_setr_epi8(
                0, 2, 4, 6, -1, -1, -1, -1, 0, 2, 4, 6, -1, -1, -1, -1,
                1, 3, 5, 7, -1, -1, -1, -1, 1, 3, 5, 7, -1, -1, -1, -1,
            );
            _mm512_cvtepu8_epi16(_mm256_shuffle_epi8(x, order))
        }
        fn scale<const U: i32>(scales: __m512i) -> __m512i {
            let word = _mm512_set1_epi16(((2 * U) | ((2 * U + 1) << 8)) as i16);
            _mm512_shuffle_epi8(scales, word)
        }
        fn store_scales(x: __m512i, to: &mut [i16; 32]) {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), x)
        }

        fn widen(x: &[i8; 16]) -> __m256i {
            _mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast()))
        }
        fn widen_doubled(x: [u8; 8]) -> __m256i {
            let x = _mm_cvtsi64_si128(i64::from_le_bytes(x));
            _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, x))
        }
        fn mul_words(a: __m256i, factor: i16) -> __m256i {
            _mm256_mullo_epi16(a, _mm256_set1_epi16(factor))
        }
        fn store_words(x: __m256i, to: &mut [i16; 16]) {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x)
        }

        fn pairs(u: __m512i, s: __m512i) -> __m512i { _mm512_maddubs_epi16(u, s) }
        fn zero() -> __m512i { _mm512_setzero_si512() }
        fn add_products(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            _mm512_dpwssd_epi32(sum, a, b)
        }
        fn add_mins(sum: __m512i, a: __m256i, b: &[i16; 16]) -> __m512i {
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            _mm512_dpwssd_epi32(sum, _mm512_zextsi256_si512(a), _mm512_zextsi256_si512(b))
        }
        fn sums(x: [__m512i; 4]) -> [i32; 4] {
            // Halves of two registers, then of four, are added at once.
            let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(x[0], x[1]);
            let high = _mm512_shuffle_i64x2::<0b11_10_11_10>(x[0], x[1]);
            let a = _mm512_add_epi32(low, high);
            let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(x[2], x[3]);
            let high = _mm512_shuffle_i64x2::<0b11_10_11_10>(x[2], x[3]);
            let b = _mm512_add_epi32(low, high);
            quarters!(a, b)
        }

        fn dot(u: __m512i, s: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, s)
        }
        fn dot_signed(w: __m512i, s: __m512i) -> __m512i {
            let negative = _mm512_movepi8_mask(w);
            let s = _mm512_mask_sub_epi8(s, negative, _mm512_setzero_si512(), s);
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_abs_epi8(w), s)
        }
        fn half_sums(x: [__m512i; 2]) -> [i32; 4] { quarters!(x[0], x[1]) }
    }

    const COLS: usize = 16;
    const WIDE: bool = true;
    type V = __m512i;
    type A = __m512i;

    #[inline(always)]
    fn scale_bits(scale: i16) -> u32 {
        i32::from(scale) as u32
    }

    ops! {
        fn splat_v(x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
        fn no_steps() -> __m512i { _mm512_setzero_si512() }
        fn step(sum: __m512i, u: __m512i, s: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, u, s)
        }
        fn flush(sum: __m512i, steps: __m512i, scale: __m512i) -> __m512i {
            _mm512_add_epi32(sum, _mm512_mullo_epi32(steps, scale))
        }
        fn step_signed(sum: __m512i, w: __m512i, s: __m512i) -> __m512i {
            // There is no sign instruction here: the products with w + 128, less those with 128.
            let high = _mm512_set1_epi8(-128);
            let offset = _mm512_dpbusd_epi32(_mm512_setzero_si512(), high, s);
            _mm512_sub_epi32(_mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, high), s), offset)
        }
        fn pair_step(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            _mm512_dpwssd_epi32(sum, a, b)
        }
        fn sub_v(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn to_float(a: __m512i) -> __m512i { _mm512_castps_si512(_mm512_cvtepi32_ps(a)) }
        fn add_f(a: __m512i, b: __m512i) -> __m512i {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(_mm512_add_ps(a, b))
        }
        fn sub_f(a: __m512i, b: __m512i) -> __m512i {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(_mm512_sub_ps(a, b))
        }
        fn mul_f(a: __m512i, b: __m512i) -> __m512i {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(_mm512_mul_ps(a, b))
        }
    }
}
