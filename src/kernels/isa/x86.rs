//! What AVX2 and AVX-512 have in common: rows of codes are taken 32 at a time by both.

/// The operations on rows, for the body of an implementation of `SimdInt`.
macro_rules! row_ops {
    () => {
        type B = __m256i;
        type W = __m256i;
        type I = __m256i;

        ops! {
            fn load_bytes(x: &[u8; 32]) -> __m256i { _mm256_loadu_si256(x.as_ptr().cast()) }
            fn load_twice(x: &[u8; 16]) -> __m256i {
                _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast()))
            }
            fn store_bytes(x: __m256i, to: &mut [u8; 32]) {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), x)
            }
            fn splat_byte(x: u8) -> __m256i { _mm256_set1_epi8(x as i8) }
            fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
            fn or(a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
            fn shr<const N: i32>(a: __m256i) -> __m256i { _mm256_srli_epi16::<N>(a) }
            fn shl<const N: i32>(a: __m256i) -> __m256i { _mm256_slli_epi16::<N>(a) }
            fn nibbles(a: __m256i) -> __m256i {
                let counts = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
                _mm256_and_si256(_mm256_srlv_epi32(a, counts), _mm256_set1_epi8(15))
            }
            fn bit_mask(bits: u32) -> __m256i {
                // Each byte gets the byte of `bits` that its bit is in, then only that bit.
                const BYTE: i64 = 0x0101_0101_0101_0101;
                let spread = _mm256_shuffle_epi8(
                    _mm256_set1_epi32(bits as i32),
                    _mm256_setr_epi64x(0, BYTE, 2 * BYTE, 3 * BYTE),
                );
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
            }

            fn load_words(x: &[i16; 16]) -> __m256i { _mm256_loadu_si256(x.as_ptr().cast()) }
            fn store_words(x: __m256i, to: &mut [i16; 16]) {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), x)
            }
            fn widen(x: &[i8; 16]) -> __m256i {
                _mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast()))
            }
            fn widen_even_odd(x: &[i8; 16]) -> __m256i {
                let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
                let x = _mm_loadu_si128(x.as_ptr().cast());
                _mm256_cvtepi8_epi16(_mm_shuffle_epi8(x, order))
            }
            fn widen_twice(x: [u8; 8]) -> __m256i {
                let x = _mm_set1_epi64x(i64::from_le_bytes(x));
                _mm256_cvtepu8_epi16(x)
            }
            fn widen_doubled(x: [u8; 8]) -> __m256i {
                let x = _mm_cvtsi64_si128(i64::from_le_bytes(x));
                _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, x))
            }
            fn mul_words(a: __m256i, factor: i16) -> __m256i {
                _mm256_mullo_epi16(a, _mm256_set1_epi16(factor))
            }
            fn splat_in_halves<const K: i32>(a: __m256i) -> __m256i {
                _mm256_shuffle_epi8(a, _mm256_set1_epi16((2 * K | (2 * K + 1) << 8) as i16))
            }
            fn pairs(u: __m256i, s: __m256i) -> __m256i { _mm256_maddubs_epi16(u, s) }
            fn pairs_signed(w: __m256i, s: __m256i) -> __m256i {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s, w))
            }

            fn zero() -> __m256i { _mm256_setzero_si256() }
            fn sums(x: [__m256i; 4]) -> [i32; 4] {
                let low = _mm256_hadd_epi32(x[0], x[1]);
                let all = _mm256_hadd_epi32(low, _mm256_hadd_epi32(x[2], x[3]));
                let half = _mm256_extracti128_si256::<1>(all);
                bytemuck::cast(_mm_add_epi32(_mm256_castsi256_si128(all), half))
            }

            fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
    };
}
pub(super) use row_ops;
