//! AVX-512 with VNNI: Intel since 2019, AMD since 2022. Whole registers of 512 bits.

use std::arch::x86_64::*;

use lapidary_formats::quant::Lanes;

use super::ops::{ops, token};
use super::places::{in_order, in_quarters};
use super::x86::{float_ops, int_ops};
use super::{IntOp, Simd, SimdInt};

token!(
    /// AVX-512 F, BW, DQ, VL and VNNI, with AVX2, FMA and F16C.
    Avx512,
    "avx512",
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

/// The sum of the lanes of each half, of `$a` and of `$b`.
macro_rules! half_sums {
    ($a:expr, $b:expr) => {{
        let even = _mm512_shuffle_i64x2::<0b10_00_10_00>($a, $b);
        let odd = _mm512_shuffle_i64x2::<0b11_01_11_01>($a, $b);
        quarter_sums!(_mm512_add_epi32(even, odd))
    }};
}

/// The sum of the lanes of each quarter of `$fours`.
macro_rules! quarter_sums {
    ($fours:expr) => {{
        let fours = $fours;
        let twos = _mm512_add_epi32(fours, _mm512_shuffle_epi32::<0b01_00_11_10>(fours));
        let ones = _mm512_add_epi32(twos, _mm512_shuffle_epi32::<0b10_11_00_01>(twos));
        let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        bytemuck::cast(_mm512_castsi512_si128(_mm512_permutexvar_epi32(first, ones)))
    }};
}

impl Lanes for Avx512 {
    type F = __m512;

    ops! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(x: &[f32; 16]) -> __m512 { _mm512_loadu_ps(x.as_ptr()) }
        fn store(x: __m512, to: &mut [f32; 16]) { _mm512_storeu_ps(to.as_mut_ptr(), x) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn select_less(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
        }
        fn round(a: __m512) -> __m512 { _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(a) }
        fn add_exact_product(sum: __m512, a: __m512, b: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, sum)
        }
        fn swap_halves(a: __m512) -> __m512 { _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a) }
        fn least(a: __m512) -> usize {
            let least = _mm512_set1_ps(_mm512_reduce_min_ps(a));
            let found = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, least);
            found.trailing_zeros() as usize & 15
        }
    }
}

impl Simd for Avx512 {
    const FLOATS: usize = 32;

    float_ops!();

    ops! {
        fn load_f16(x: &[u16; 16]) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))
        }
        fn load_bf16(x: &[u16; 16]) -> __m512 {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
        fn load_i8(x: &[i8; 16]) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
        }
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
            // In the order of `sum`, but of two and then of four registers at once.
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
    }
}

impl Avx512 {
    ops! {
        // The sums of each four products. They fit words: a code is at most 63, and what it is
        // multiplied with at most 127. Each quarter has those of a quarter of the first bytes, and then
        // those of the same quarter of the second bytes.
        fn fours_as_words(w: [__m512i; 2], x: [__m512i; 2]) -> __m512i {
            let zero = _mm512_setzero_si512();
            let first = _mm512_dpbusd_epi32(zero, w[0], x[0]);
            _mm512_packs_epi32(first, _mm512_dpbusd_epi32(zero, w[1], x[1]))
        }
        // Adds the sums of each four products times the last byte of each dword of `scales`.
        fn add_scaled_fours(
            sum: __m512i, w: __m512i, x: __m512i, scales: __m512i
        ) -> __m512i {
            let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x);
            _mm512_add_epi32(sum, _mm512_mullo_epi32(fours, _mm512_srai_epi32::<24>(scales)))
        }
    }
}

impl SimdInt for Avx512 {
    type Bytes = __m512i;
    type Words = __m512i;
    type Sums = __m512i;
    type HalfSums = __m512i;

    int_ops!();

    ops! {
        fn load_bytes(x: &[u8; 64]) -> __m512i { _mm512_loadu_si512(x.as_ptr().cast()) }
        fn load_halves(a: &[u8; 32], b: &[u8; 32]) -> __m512i {
            let (a, b) = (a.as_ptr(), b.as_ptr());
            let a = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
            _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.cast()))
        }
        fn load_quarters(x: [&[u8; 16]; 4]) -> __m512i {
            let [a, b, c, d] = x;
            let q = _mm512_castsi128_si512(_mm_loadu_si128(a.as_ptr().cast()));
            let q = _mm512_inserti32x4::<1>(q, _mm_loadu_si128(b.as_ptr().cast()));
            let q = _mm512_inserti32x4::<2>(q, _mm_loadu_si128(c.as_ptr().cast()));
            _mm512_inserti32x4::<3>(q, _mm_loadu_si128(d.as_ptr().cast()))
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
        fn store_halves(x: __m512i, a: &mut [u8; 32], b: &mut [u8; 32]) {
            _mm256_storeu_si256(a.as_mut_ptr().cast(), _mm512_castsi512_si256(x));
            _mm256_storeu_si256(b.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(x));
        }
        fn store_scales<const Q: i32>(x: __m512i, words: bool, to: &mut [u32; 16]) {
            let x = _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32::<Q>(x));
            // As words, the upper one of each dword is 0.
            let x = _mm512_maskz_mov_epi16(if words { 0x5555_5555 } else { !0 }, x);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), x);
        }
        fn store_words<const Q: i32>(x: __m512i, factor: i16, to: &mut [i16; 16]) {
            let x = _mm256_cvtepi8_epi16(_mm512_extracti32x4_epi32::<Q>(x));
            let x = _mm256_mullo_epi16(x, _mm256_set1_epi16(factor));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x);
        }
        fn splat_byte(x: u8) -> __m512i { _mm512_set1_epi8(x as i8) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn sub_bytes(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi8(a, b) }
        fn shift_halves<const FIRST: i32, const SECOND: i32>(a: __m512i) -> __m512i {
            // Rotated, so that one instruction shifts to both sides: a rotation to the left by n is
            // one to the right by 64 - n.
            let (first, second) = (i64::from(FIRST & 63), i64::from(SECOND & 63));
            let counts = _mm512_setr_epi64(
                first, first, first, first, second, second, second, second,
            );
            if FIRST == 0 && SECOND == 0 { a } else { _mm512_rorv_epi64(a, counts) }
        }
        fn shift_dwords<const A: i32, const B: i32, const C: i32, const D: i32>(
            x: __m512i
        ) -> __m512i {
            if A < 0 || B < 0 || C < 0 || D < 0 {
                let (a, b, c, d) = (A & 31, B & 31, C & 31, D & 31);
                _mm512_rorv_epi32(x, _mm512_set4_epi32(d, c, b, a))
            } else {
                _mm512_srlv_epi32(x, _mm512_set4_epi32(D, C, B, A))
            }
        }
        fn shuffle(x: __m512i, places: &[u8; 64]) -> __m512i {
            // In two loads: LLVM does not see that a longer one is of a constant, and then cannot pick a
            // better shuffle.
            let p = places.as_ptr();
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(p.cast()));
            let places = _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(p.add(32).cast()));
            _mm512_shuffle_epi8(x, places)
        }
        fn lookup(table: &[u8; 16], places: __m512i) -> __m512i {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, places)
        }
        fn broadcast_quarter<const Q: i32>(x: __m512i) -> __m512i {
            match Q {
                0 => _mm512_shuffle_i32x4::<0b00_00_00_00>(x, x),
                1 => _mm512_shuffle_i32x4::<0b01_01_01_01>(x, x),
                2 => _mm512_shuffle_i32x4::<0b10_10_10_10>(x, x),
                _ => _mm512_shuffle_i32x4::<0b11_11_11_11>(x, x),
            }
        }
        fn bit_mask(bits: u64) -> __m512i { _mm512_movm_epi8(bits) }

        fn first_f16_pairs(x: __m512i) -> [[f32; 4]; 2] {
            let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let pairs = _mm512_castsi512_si128(_mm512_permutexvar_epi32(first, x));
            let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            bytemuck::cast(_mm256_cvtph_ps(_mm_shuffle_epi8(pairs, order)))
        }

        fn load_words(x: &[i16; 32]) -> __m512i { _mm512_loadu_si512(x.as_ptr().cast()) }
        fn high_bytes(x: __m512i) -> __m512i { _mm512_srai_epi16::<8>(x) }
        fn merge_words(a: __m512i, b: __m512i) -> __m512i {
            _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, a, _mm512_slli_epi16::<8>(b))
        }
        fn widen_half<const HALF: i32>(x: __m512i) -> __m512i {
            _mm512_cvtepi8_epi16(match HALF {
                0 => _mm512_castsi512_si256(x),
                _ => _mm512_extracti64x4_epi64::<1>(x),
            })
        }

        fn pairs(u: __m512i, s: __m512i) -> __m512i { _mm512_maddubs_epi16(u, s) }
        fn add_products(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            _mm512_dpwssd_epi32(sum, a, b)
        }
        fn products_by_half(a: __m512i, b: __m512i) -> __m512i { _mm512_madd_epi16(a, b) }
        fn products_by_quarter(a: __m512i, b: __m512i) -> [i32; 4] {
            quarter_sums!(_mm512_madd_epi16(a, b))
        }
        fn fold(a: __m512i, b: __m512i) -> __m512i {
            let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b);
            let high = _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b);
            _mm512_add_epi32(low, high)
        }

        fn dot(u: __m512i, s: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, s)
        }
        fn dot_biased(w: __m512i, s: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, s)
        }
        fn half_sums(x: [__m512i; 2]) -> [i32; 4] { half_sums!(x[0], x[1]) }
    }

    #[inline(always)]
    fn words(self, x: __m512i) -> __m512i {
        x
    }

    #[inline(always)]
    fn add_scaled<const GROUP: usize, const PAIR: usize, const SIGNED: bool>(
        self,
        sum: __m512i,
        w: [__m512i; 2],
        x: [__m512i; 2],
        scales: __m512i,
    ) -> __m512i {
        let places = const { &in_quarters(GROUP, PAIR * 128 / GROUP, SIGNED) };
        let scales = self.shuffle(scales, places);
        let scales = if SIGNED { self.high_bytes(scales) } else { scales };
        self.add_products(sum, self.fours_as_words(w, x), scales)
    }

    #[inline(always)]
    fn add_scaled_biased<const GROUP: usize, const PAIR: usize>(
        self,
        sum: __m512i,
        w: [__m512i; 2],
        x: [__m512i; 2],
        scales: __m512i,
    ) -> __m512i {
        let first = const { &in_order(GROUP, PAIR * 128 / GROUP, true) };
        let second = const { &in_order(GROUP, (PAIR * 128 + 64) / GROUP, true) };
        let sum = self.add_scaled_fours(sum, w[0], x[0], self.shuffle(scales, first));
        self.add_scaled_fours(sum, w[1], x[1], self.shuffle(scales, second))
    }

    const COLS: usize = 16;
    const WIDE: bool = true;
    const BIAS: u8 = 128;
    type Columns = __m512i;
    type Steps = __m512i;

    ops! {
        fn splat_u32(x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
        fn splat_u64(x: u64) -> __m512i { _mm512_set1_epi64(x as i64) }
        fn splat_16(x: &[u8; 16]) -> __m512i {
            _mm512_broadcast_i32x4(_mm_loadu_si128(x.as_ptr().cast()))
        }
        fn no_steps() -> __m512i { _mm512_setzero_si512() }
        fn step(sum: __m512i, u: __m512i, s: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, u, s)
        }
        fn flush(sum: __m512i, steps: __m512i, scale: __m512i) -> __m512i {
            _mm512_add_epi32(sum, _mm512_mullo_epi32(steps, scale))
        }
        fn flush_words(sum: __m512i, steps: __m512i, scale: __m512i) -> __m512i {
            // The lower words are the sums. The upper ones, which are their signs, are multiplied with 0.
            _mm512_dpwssd_epi32(sum, steps, scale)
        }
        fn add_steps(sum: __m512i, steps: __m512i) -> __m512i { _mm512_add_epi32(sum, steps) }
        fn step_signed(sum: __m512i, w: __m512i, s: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, w, s)
        }
        fn pair_step(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            // No sum comes close to saturating. LLVM would split the form that wraps into two instructions.
            _mm512_dpwssds_epi32(sum, a, b)
        }
        fn shift_add<const BITS: i32>(a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(_mm512_sllv_epi32(a, _mm512_set1_epi32(BITS)), b)
        }
        fn add_in_pairs(a: __m512i) -> __m512i {
            _mm512_add_epi32(a, _mm512_shuffle_epi32::<0b10_11_00_01>(a))
        }
        fn add_in_fours(a: __m512i) -> __m512i {
            let a = _mm512_add_epi32(a, _mm512_shuffle_epi32::<0b10_11_00_01>(a));
            _mm512_add_epi32(a, _mm512_shuffle_epi32::<0b01_00_11_10>(a))
        }
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
