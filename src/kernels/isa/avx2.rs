//! AVX2 with FMA and F16C: Intel since 2013, AMD since 2015.

use std::arch::x86_64::*;

use super::ops::{ops, token};
use super::x86::row_ops;
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
        fn half(bits: u16) -> f32 {
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
        }
    }
}

impl SimdInt for Avx2 {
    row_ops!();

    ops! {
        fn add_products(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
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
