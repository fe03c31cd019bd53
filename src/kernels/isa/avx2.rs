//! AVX2 with FMA and F16C: Intel since 2013, AMD since 2015.

use std::arch::x86_64::*;

use lapidary_formats::quant::Lanes;

use super::ops::{ops, token};
use super::places::in_order;
use super::x86::{float_ops, int_ops};
use super::{IntOp, Simd, SimdInt};

token!(
    /// AVX2 with FMA and F16C.
    Avx2,
    "avx2",
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

/// The sum of the lanes of each of four registers.
macro_rules! sums {
    ($x:expr) => {{
        let x = $x;
        let low = _mm256_hadd_epi32(x[0], x[1]);
        let all = _mm256_hadd_epi32(low, _mm256_hadd_epi32(x[2], x[3]));
        let half = _mm256_extracti128_si256::<1>(all);
        bytemuck::cast(_mm_add_epi32(_mm256_castsi256_si128(all), half))
    }};
}

/// A quarter of 64 bytes.
macro_rules! quarter {
    ($q:expr, $x:expr) => {
        match $q {
            0 => _mm256_castsi256_si128($x[0]),
            1 => _mm256_extracti128_si256::<1>($x[0]),
            2 => _mm256_castsi256_si128($x[1]),
            _ => _mm256_extracti128_si256::<1>($x[1]),
        }
    };
}

impl Lanes for Avx2 {
    type F = Floats;

    #[inline(always)]
    fn swap_halves(self, a: Floats) -> Floats {
        [a[1], a[0]]
    }

    ops! {
        fn splat(x: f32) -> Floats { [_mm256_set1_ps(x); 2] }
        fn load(x: &[f32; 16]) -> Floats {
            [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x[8..].as_ptr())]
        }
        fn store(x: Floats, to: &mut [f32; 16]) {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), x[1]);
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
        fn select_less(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats {
            let low = _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]));
            [low, _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]))]
        }
        fn round(a: Floats) -> Floats {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])]
        }
        fn add_exact_product(sum: Floats, a: Floats, b: Floats) -> Floats {
            [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])]
        }
        fn least(a: Floats) -> usize {
            let eight = _mm256_min_ps(a[0], a[1]);
            let eight = _mm256_min_ps(eight, _mm256_permute2f128_ps::<1>(eight, eight));
            let four = _mm256_min_ps(eight, _mm256_permute_ps::<0b01_00_11_10>(eight));
            let least = _mm256_min_ps(four, _mm256_permute_ps::<0b10_11_00_01>(four));
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a[0], least));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a[1], least));
            (low | high << 8).trailing_zeros() as usize & 15
        }
    }
}

impl Simd for Avx2 {
    const FLOATS: usize = 8;

    float_ops!();

    ops! {
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
        fn load_i8(x: &[i8; 16]) -> Floats {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x));
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(high)]
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
    }
}

impl Avx2 {
    ops! {
        // `pairs` of signed bytes.
        fn signed_pairs(w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
            let (first, second) = (_mm256_sign_epi8(x[0], w[0]), _mm256_sign_epi8(x[1], w[1]));
            let first = _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), first);
            [first, _mm256_maddubs_epi16(_mm256_abs_epi8(w[1]), second)]
        }
        fn ones() -> [__m256i; 2] { [_mm256_set1_epi16(1); 2] }
    }
}

impl SimdInt for Avx2 {
    type Bytes = [__m256i; 2];
    type Words = [__m256i; 2];
    type Sums = __m256i;
    type HalfSums = [__m256i; 2];

    int_ops!();

    ops! {
        fn load_bytes(x: &[u8; 64]) -> Self::Bytes {
            let p = x.as_ptr();
            [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
        }
        fn load_halves(a: &[u8; 32], b: &[u8; 32]) -> Self::Bytes {
            let (a, b) = (a.as_ptr(), b.as_ptr());
            [_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast())]
        }
        fn load_quarters(x: [&[u8; 16]; 4]) -> Self::Bytes {
            let [a, b, c, d] = x;
            let first = _mm256_castsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let second = _mm256_castsi128_si256(_mm_loadu_si128(c.as_ptr().cast()));
            let (b, d) = (_mm_loadu_si128(b.as_ptr().cast()), _mm_loadu_si128(d.as_ptr().cast()));
            [_mm256_inserti128_si256::<1>(first, b), _mm256_inserti128_si256::<1>(second, d)]
        }
        fn load_twice(x: &[u8; 32]) -> Self::Bytes {
            [_mm256_loadu_si256(x.as_ptr().cast()); 2]
        }
        fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> Self::Bytes {
            let counts = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
            let low = _mm256_set1_epi8(15);
            let a = _mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let b = _mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()));
            let (a, b) = (_mm256_srlv_epi32(a, counts), _mm256_srlv_epi32(b, counts));
            [_mm256_and_si256(a, low), _mm256_and_si256(b, low)]
        }
        fn store_bytes(x: Self::Bytes, to: &mut [u8; 64]) {
            let p = to.as_mut_ptr();
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(32).cast(), x[1]);
        }
        fn store_halves(x: Self::Bytes, a: &mut [u8; 32], b: &mut [u8; 32]) {
            _mm256_storeu_si256(a.as_mut_ptr().cast(), x[0]);
            _mm256_storeu_si256(b.as_mut_ptr().cast(), x[1]);
        }
        fn store_scales<const Q: i32>(x: Self::Bytes, _words: bool, to: &mut [u32; 16]) {
            let twice = _mm256_setr_epi8(
                0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13,
                0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13,
            );
            let x = quarter!(Q, x);
            let (low, high) = (_mm256_cvtepi8_epi32(x), _mm_unpackhi_epi64(x, x));
            let low = _mm256_shuffle_epi8(low, twice);
            let high = _mm256_shuffle_epi8(_mm256_cvtepi8_epi32(high), twice);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(to[8..].as_mut_ptr().cast(), high);
        }
        fn store_words<const Q: i32>(x: Self::Bytes, factor: i16, to: &mut [i16; 16]) {
            let x = _mm256_cvtepi8_epi16(quarter!(Q, x));
            let x = _mm256_mullo_epi16(x, _mm256_set1_epi16(factor));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x);
        }
        fn splat_byte(x: u8) -> Self::Bytes { [_mm256_set1_epi8(x as i8); 2] }
        fn and(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]
        }
        fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
        }
        fn sub_bytes(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
            [_mm256_sub_epi8(a[0], b[0]), _mm256_sub_epi8(a[1], b[1])]
        }
        fn shift_halves<const FIRST: i32, const SECOND: i32>(a: Self::Bytes) -> Self::Bytes {
            [shift!(FIRST, a[0]), shift!(SECOND, a[1])]
        }
        fn shift_dwords<const A: i32, const B: i32, const C: i32, const D: i32>(
            x: Self::Bytes
        ) -> Self::Bytes {
            let n = [A.max(0), B.max(0), C.max(0), D.max(0)];
            let right = _mm256_setr_epi32(n[0], n[1], n[2], n[3], n[0], n[1], n[2], n[3]);
            let n = [(-A).max(0), (-B).max(0), (-C).max(0), (-D).max(0)];
            let left = _mm256_setr_epi32(n[0], n[1], n[2], n[3], n[0], n[1], n[2], n[3]);
            let mut y = x;
            for y in &mut y {
                if A < 0 || B < 0 || C < 0 || D < 0 {
                    *y = _mm256_sllv_epi32(*y, left);
                }
                *y = _mm256_srlv_epi32(*y, right);
            }
            y
        }
        fn shuffle(x: Self::Bytes, places: &[u8; 64]) -> Self::Bytes {
            let p = places.as_ptr();
            let first = _mm256_shuffle_epi8(x[0], _mm256_loadu_si256(p.cast()));
            [first, _mm256_shuffle_epi8(x[1], _mm256_loadu_si256(p.add(32).cast()))]
        }
        fn lookup(table: &[u8; 16], places: Self::Bytes) -> Self::Bytes {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, places[0]), _mm256_shuffle_epi8(table, places[1])]
        }
        fn broadcast_quarter<const Q: i32>(x: Self::Bytes) -> Self::Bytes {
            [match Q {
                0 => _mm256_permute4x64_epi64::<0b01_00_01_00>(x[0]),
                1 => _mm256_permute4x64_epi64::<0b11_10_11_10>(x[0]),
                2 => _mm256_permute4x64_epi64::<0b01_00_01_00>(x[1]),
                _ => _mm256_permute4x64_epi64::<0b11_10_11_10>(x[1]),
            }; 2]
        }
        fn bit_mask(bits: u64) -> Self::Bytes {
            // Each byte becomes the byte of `bits` that its bit is in, and then only that bit.
            const BYTE: i64 = 0x0101_0101_0101_0101;
            let order = _mm256_setr_epi64x(0, BYTE, 2 * BYTE, 3 * BYTE);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let low = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), order);
            let high = _mm256_shuffle_epi8(_mm256_set1_epi32((bits >> 32) as i32), order);
            let low = _mm256_cmpeq_epi8(_mm256_and_si256(low, bit), bit);
            [low, _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit)]
        }

        fn first_f16_pairs(x: Self::Bytes) -> [[f32; 4]; 2] {
            let low = _mm256_unpacklo_epi32(x[0], x[1]);
            // The first dwords of quarters 0, 2, 1, 3.
            let pairs = _mm_unpacklo_epi64(
                _mm256_castsi256_si128(low),
                _mm256_extracti128_si256::<1>(low),
            );
            let order = _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15);
            bytemuck::cast(_mm256_cvtph_ps(_mm_shuffle_epi8(pairs, order)))
        }

        fn load_words(x: &[i16; 32]) -> Self::Words {
            let p = x.as_ptr();
            [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(16).cast())]
        }
        fn high_bytes(x: Self::Bytes) -> Self::Words {
            [_mm256_srai_epi16::<8>(x[0]), _mm256_srai_epi16::<8>(x[1])]
        }
        fn merge_words(a: Self::Words, b: Self::Words) -> Self::Bytes {
            let odd = _mm256_set1_epi16(-256);
            let first = _mm256_blendv_epi8(a[0], _mm256_slli_epi16::<8>(b[0]), odd);
            [first, _mm256_blendv_epi8(a[1], _mm256_slli_epi16::<8>(b[1]), odd)]
        }
        fn widen_half<const HALF: i32>(x: Self::Bytes) -> Self::Words {
            let x = x[HALF as usize];
            let second = _mm256_extracti128_si256::<1>(x);
            [_mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)), _mm256_cvtepi8_epi16(second)]
        }

        fn pairs(u: Self::Bytes, s: Self::Bytes) -> Self::Words {
            [_mm256_maddubs_epi16(u[0], s[0]), _mm256_maddubs_epi16(u[1], s[1])]
        }
        fn add_products(sum: __m256i, a: Self::Words, b: Self::Words) -> __m256i {
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a[0], b[0]));
            _mm256_add_epi32(sum, _mm256_madd_epi16(a[1], b[1]))
        }
        fn products_by_half(a: Self::Words, b: Self::Words) -> Self::HalfSums {
            [_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1])]
        }
        fn products_by_quarter(a: Self::Words, b: Self::Words) -> [i32; 4] {
            let (first, second) = (_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1]));
            // Quarters 0 and 2 lie in the lower halves, 1 and 3 in the upper ones.
            let twos = _mm256_hadd_epi32(first, second);
            let ones = _mm256_hadd_epi32(twos, twos);
            let high = _mm256_extracti128_si256::<1>(ones);
            bytemuck::cast(_mm_unpacklo_epi32(_mm256_castsi256_si128(ones), high))
        }

        fn dot(u: Self::Bytes, s: Self::Bytes) -> Self::HalfSums {
            let ones = _mm256_set1_epi16(1);
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(u[0], s[0]), ones);
            [first, _mm256_madd_epi16(_mm256_maddubs_epi16(u[1], s[1]), ones)]
        }
        fn half_sums(x: [Self::HalfSums; 2]) -> [i32; 4] { sums!([x[0][0], x[0][1], x[1][0], x[1][1]]) }
    }

    #[inline(always)]
    fn words(self, x: Self::Bytes) -> Self::Words {
        x
    }

    #[inline(always)]
    fn add_scaled_biased<const GROUP: usize, const PAIR: usize>(
        self,
        sum: __m256i,
        w: [Self::Bytes; 2],
        x: [Self::Bytes; 2],
        scales: Self::Bytes,
    ) -> __m256i {
        let first = const { &in_order(GROUP, PAIR * 128 / GROUP, true) };
        let second = const { &in_order(GROUP, (PAIR * 128 + 64) / GROUP, true) };
        let words = |places| self.high_bytes(self.shuffle(scales, places));
        let sum = self.add_products(sum, self.signed_pairs(w[0], x[0]), words(first));
        self.add_products(sum, self.signed_pairs(w[1], x[1]), words(second))
    }

    #[inline(always)]
    fn dot_biased(self, w: Self::Bytes, s: Self::Bytes) -> Self::HalfSums {
        self.products_by_half(self.signed_pairs(w, s), self.ones())
    }

    #[inline(always)]
    fn fold(self, a: __m256i, b: __m256i) -> Self::HalfSums {
        [a, b]
    }

    const COLS: usize = 8;
    const WIDE: bool = false;
    const BIAS: u8 = 0;
    type Columns = __m256i;
    type Steps = __m256i;

    ops! {
        fn splat_u32(x: u32) -> __m256i { _mm256_set1_epi32(x as i32) }
        fn splat_u64(x: u64) -> __m256i { _mm256_set1_epi64x(x as i64) }
        fn splat_16(x: &[u8; 16]) -> __m256i {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast()))
        }
        fn no_steps() -> __m256i { _mm256_setzero_si256() }
        fn step(sum: __m256i, u: __m256i, s: __m256i) -> __m256i {
            _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s))
        }
        fn step_signed(sum: __m256i, w: __m256i, s: __m256i) -> __m256i {
            let words = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s, w));
            _mm256_add_epi16(sum, words)
        }
        fn flush(sum: __m256i, steps: __m256i, scale: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(steps, scale))
        }
        fn add_steps(sum: __m256i, steps: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(steps, _mm256_set1_epi16(1)))
        }
        fn pair_step(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
        fn add_in_pairs(a: __m256i) -> __m256i {
            _mm256_add_epi32(a, _mm256_shuffle_epi32::<0b10_11_00_01>(a))
        }
        fn add_in_fours(a: __m256i) -> __m256i {
            let a = _mm256_add_epi32(a, _mm256_shuffle_epi32::<0b10_11_00_01>(a));
            _mm256_add_epi32(a, _mm256_shuffle_epi32::<0b01_00_11_10>(a))
        }
        fn shift_add<const BITS: i32>(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(_mm256_slli_epi32::<BITS>(a), b)
        }
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
