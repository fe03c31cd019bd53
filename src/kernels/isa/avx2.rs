//! AVX2 with FMA and F16C: Intel since 2013, AMD since 2015.

use std::arch::x86_64::*;

use super::ops::{ops, token};
use super::{IntOp, Simd, SimdInt};

token!(
    /// AVX2 with FMA and F16C.
    Avx2,
    "avx2,fma,f16c",
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
);

type Floats = [__m256; 2];

/// 16-bit lanes shifted right, or left by a negative count.
macro_rules! shift {
    ($n:expr, $a:expr) => {
        match $n {
            -4 => _mm256_slli_epi16::<4>($a),
            -3 => _mm256_slli_epi16::<3>($a),
            -2 => _mm256_slli_epi16::<2>($a),
            -1 => _mm256_slli_epi16::<1>($a),
            0 => $a,
            1 => _mm256_srli_epi16::<1>($a),
            2 => _mm256_srli_epi16::<2>($a),
            3 => _mm256_srli_epi16::<3>($a),
            4 => _mm256_srli_epi16::<4>($a),
            5 => _mm256_srli_epi16::<5>($a),
            _ => _mm256_srli_epi16::<6>($a),
        }
    };
}

impl Simd for Avx2 {
    type F = Floats;
    const FLOATS: usize = 8;

    ops! {
        fn splat(x: f32) -> Floats { [_mm256_set1_ps(x); 2] }
        fn load(x: &[f32; 16]) -> Floats {
            [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x[8..].as_ptr())]
        }
        fn store(x: Floats, to: &mut [f32; 16]) {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), x[1]);
        }
        fn load_f16(x: &[u16; 16]) -> Floats {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_loadu_si128(x[8..].as_ptr().cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
        fn load_bf16(x: &[u16; 16]) -> Floats {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x[8..].as_ptr().cast()));
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
        fn add(a: Floats, b: Floats) -> Floats {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        fn sub(a: Floats, b: Floats) -> Floats {
            [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
        }
        fn mul(a: Floats, b: Floats) -> Floats {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        fn div(a: Floats, b: Floats) -> Floats {
            [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
        }
        fn max(a: Floats, b: Floats) -> Floats {
            [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
        }
        fn min(a: Floats, b: Floats) -> Floats {
            [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
        }
        fn abs(a: Floats) -> Floats {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
        fn copy_sign(a: Floats, sign: Floats) -> Floats {
            let bit = _mm256_set1_ps(-0.0);
            let (low, high) = (_mm256_and_ps(bit, sign[0]), _mm256_and_ps(bit, sign[1]));
            let [a, b] = [_mm256_andnot_ps(bit, a[0]), _mm256_andnot_ps(bit, a[1])];
            [_mm256_or_ps(a, low), _mm256_or_ps(b, high)]
        }
        fn zero_nan(a: Floats) -> Floats {
            let low = _mm256_and_ps(a[0], _mm256_cmp_ps::<_CMP_ORD_Q>(a[0], a[0]));
            [low, _mm256_and_ps(a[1], _mm256_cmp_ps::<_CMP_ORD_Q>(a[1], a[1]))]
        }
        fn exp2_of_rounded(t: Floats) -> Floats {
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(t[0]));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(t[1]));
            let (low, high) = (_mm256_add_epi32(low, one), _mm256_add_epi32(high, one));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
        fn to_i8(a: Floats) -> [i8; 16] {
            let (a, b) = (_mm256_cvttps_epi32(a[0]), _mm256_cvttps_epi32(a[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
            let low = _mm256_castsi256_si128(words);
            let bytes = _mm_packs_epi16(low, _mm256_extracti128_si256::<1>(words));
            let mut y = [0; 16];
            _mm_storeu_si128(y.as_mut_ptr().cast(), bytes);
            y
        }
        fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        fn half(bits: u16) -> f32 {
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
        }
    }
}

impl SimdInt for Avx2 {
    type B = [__m256i; 2];
    type W = [__m256i; 2];
    type M = __m256i;
    type I = __m256i;
    type D = [__m256i; 2];

    ops! {
        fn load_bytes(x: &[u8; 64]) -> Self::B {
            let p = x.as_ptr();
            [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
        }
        fn load_halves(a: &[u8; 32], b: &[u8; 32]) -> Self::B {
            let (a, b) = (a.as_ptr(), b.as_ptr());
            [_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast())]
        }
        fn load_twice(x: &[u8; 32]) -> Self::B {
            [_mm256_loadu_si256(x.as_ptr().cast()); 2]
        }
        fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> Self::B {
            let counts = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
            let low = _mm256_set1_epi8(15);
            let a = _mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let b = _mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()));
            let (a, b) = (_mm256_srlv_epi32(a, counts), _mm256_srlv_epi32(b, counts));
            [_mm256_and_si256(a, low), _mm256_and_si256(b, low)]
        }
        fn store_bytes(x: Self::B, to: &mut [u8; 64]) {
            let p = to.as_mut_ptr();
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(32).cast(), x[1]);
        }
        fn splat_byte(x: u8) -> Self::B { [_mm256_set1_epi8(x as i8); 2] }
        fn and(a: Self::B, b: Self::B) -> Self::B {
            [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]
        }
        fn or(a: Self::B, b: Self::B) -> Self::B {
            [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
        }
        fn shift_halves<const FIRST: i32, const SECOND: i32>(a: Self::B) -> Self::B {
            [shift!(FIRST, a[0]), shift!(SECOND, a[1])]
        }
        fn bit_mask(bits: u64) -> Self::B {
            // Each byte gets the byte of `bits` that its bit is in, then only that bit.
            const BYTE: i64 = 0x0101_0101_0101_0101;
            let order = _mm256_setr_epi64x(0, BYTE, 2 * BYTE, 3 * BYTE);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let low = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), order);
            let high = _mm256_shuffle_epi8(_mm256_set1_epi32((bits >> 32) as i32), order);
            let low = _mm256_cmpeq_epi8(_mm256_and_si256(low, bit), bit);
            [low, _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit)]
        }

        fn scales_16(x: &[i8; 16]) -> Self::W {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            let first = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, 1, 5, 9, 13, -1, -1, -1, -1);
            let second = _mm_setr_epi8(2, 6, 10, 14, -1, -1, -1, -1, 3, 7, 11, 15, -1, -1, -1, -1);
            let first = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(x, first));
            [first, _mm256_cvtepi8_epi16(_mm_shuffle_epi8(x, second))]
        }
        fn scales_32(x: [u8; 8]) -> Self::W {
            let x = _mm_cvtsi64_si128(i64::from_le_bytes(x));
            let even = _mm_setr_epi8(0, 2, 4, 6, -1, -1, -1, -1, 0, 2, 4, 6, -1, -1, -1, -1);
            let odd = _mm_setr_epi8(1, 3, 5, 7, -1, -1, -1, -1, 1, 3, 5, 7, -1, -1, -1, -1);
            let even = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(x, even));
            [even, _mm256_cvtepu8_epi16(_mm_shuffle_epi8(x, odd))]
        }
        fn scale<const U: i32>(scales: Self::W) -> Self::W {
            let word = _mm256_set1_epi16(((2 * U) | ((2 * U + 1) << 8)) as i16);
            [_mm256_shuffle_epi8(scales[0], word), _mm256_shuffle_epi8(scales[1], word)]
        }
        fn store_scales(x: Self::W, to: &mut [i16; 32]) {
            let p = to.as_mut_ptr();
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(16).cast(), x[1]);
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

        fn pairs(u: Self::B, s: Self::B) -> Self::W {
            [_mm256_maddubs_epi16(u[0], s[0]), _mm256_maddubs_epi16(u[1], s[1])]
        }
        fn zero() -> __m256i { _mm256_setzero_si256() }
        fn add_products(sum: __m256i, a: Self::W, b: Self::W) -> __m256i {
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a[0], b[0]));
            _mm256_add_epi32(sum, _mm256_madd_epi16(a[1], b[1]))
        }
        fn add_mins(sum: __m256i, a: __m256i, b: &[i16; 16]) -> __m256i {
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
        fn sums(x: [__m256i; 4]) -> [i32; 4] {
            let low = _mm256_hadd_epi32(x[0], x[1]);
            let all = _mm256_hadd_epi32(low, _mm256_hadd_epi32(x[2], x[3]));
            let half = _mm256_extracti128_si256::<1>(all);
            bytemuck::cast(_mm_add_epi32(_mm256_castsi256_si128(all), half))
        }

        fn dot(u: Self::B, s: Self::B) -> Self::D {
            let ones = _mm256_set1_epi16(1);
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(u[0], s[0]), ones);
            [first, _mm256_madd_epi16(_mm256_maddubs_epi16(u[1], s[1]), ones)]
        }
        fn dot_signed(w: Self::B, s: Self::B) -> Self::D {
            let ones = _mm256_set1_epi16(1);
            let s = [_mm256_sign_epi8(s[0], w[0]), _mm256_sign_epi8(s[1], w[1])];
            let first = _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), s[0]);
            let second = _mm256_maddubs_epi16(_mm256_abs_epi8(w[1]), s[1]);
            [_mm256_madd_epi16(first, ones), _mm256_madd_epi16(second, ones)]
        }
    }

    #[inline(always)]
    fn half_sums(self, x: [Self::D; 2]) -> [i32; 4] {
        self.sums([x[0][0], x[0][1], x[1][0], x[1][1]])
    }

    const COLS: usize = 8;
    const WIDE: bool = false;
    type V = __m256i;
    type A = __m256i;

    #[inline(always)]
    fn scale_bits(scale: i16) -> u32 {
        u32::from(scale as u16) * 0x1_0001
    }

    ops! {
        fn splat_v(x: u32) -> __m256i { _mm256_set1_epi32(x as i32) }
        fn no_steps() -> __m256i { _mm256_setzero_si256() }
        fn step(sum: __m256i, u: __m256i, s: __m256i) -> __m256i {
            _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s))
        }
        fn flush(sum: __m256i, steps: __m256i, scale: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(steps, scale))
        }
        fn step_signed(sum: __m256i, w: __m256i, s: __m256i) -> __m256i {
            let words = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
        }
        fn pair_step(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
        fn sub_v(a: __m256i, b: __m256i) -> __m256i { _mm256_sub_epi32(a, b) }
        fn to_float(a: __m256i) -> __m256i { _mm256_castps_si256(_mm256_cvtepi32_ps(a)) }
        fn add_f(a: __m256i, b: __m256i) -> __m256i {
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            _mm256_castps_si256(_mm256_add_ps(a, b))
        }
        fn sub_f(a: __m256i, b: __m256i) -> __m256i {
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            _mm256_castps_si256(_mm256_sub_ps(a, b))
        }
        fn mul_f(a: __m256i, b: __m256i) -> __m256i {
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            _mm256_castps_si256(_mm256_mul_ps(a, b))
        }
    }
}
