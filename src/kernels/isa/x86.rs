//! What AVX2 and AVX-512 do alike: registers of 128 bits.

/// The part of `Simd` that both have.
macro_rules! float_ops {
    () => {
        ops! {
            fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
            fn half(bits: u16) -> f32 {
                _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
            }
            fn halves(bits: [u16; 4]) -> [f32; 4] {
                let [a, b, c, d] = bits;
                let bits = i64::from(a) | i64::from(b) << 16 | i64::from(c) << 32 | i64::from(d) << 48;
                bytemuck::cast(_mm_cvtph_ps(_mm_cvtsi64_si128(bits)))
            }
        }
    };
}
pub(super) use float_ops;

/// The part of `SimdInt` that both have.
macro_rules! int_ops {
    () => {
        ops! {
            fn affine(
                a: &[f32; 4], d: [f32; 4], p: [i32; 4], dmin: [f32; 4], m: [i32; 4]
            ) -> [f32; 4] {
                let p = _mm_mul_ps(bytemuck::cast(d), _mm_cvtepi32_ps(bytemuck::cast(p)));
                let m = _mm_mul_ps(bytemuck::cast(dmin), _mm_cvtepi32_ps(bytemuck::cast(m)));
                bytemuck::cast(_mm_mul_ps(_mm_loadu_ps(a.as_ptr()), _mm_sub_ps(p, m)))
            }
            fn symmetric(
                a: &[f32; 4], d: [f32; 4], p: [i32; 4], offset: i32, m: [i32; 4]
            ) -> [f32; 4] {
                let m = _mm_mullo_epi32(_mm_set1_epi32(offset), bytemuck::cast(m));
                let p = _mm_cvtepi32_ps(_mm_sub_epi32(bytemuck::cast(p), m));
                let scale = _mm_mul_ps(_mm_loadu_ps(a.as_ptr()), bytemuck::cast(d));
                bytemuck::cast(_mm_mul_ps(scale, p))
            }
        }
    };
}
pub(super) use int_ops;
