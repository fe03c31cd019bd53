//! AVX-512 with VNNI: Intel since 2019, AMD since 2022. Rows of codes are taken 32 at a time with
//! the 256-bit forms; columns and floats fill whole registers.

use std::arch::x86_64::*;

use super::ops::{ops, token};
use super::x86::row_ops;
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
        fn half(bits: u16) -> f32 {
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
        }
    }
}

impl SimdInt for Avx512 {
    row_ops!();

    ops! {
        fn add_products(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            _mm256_dpwssd_epi32(sum, a, b)
        }
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
