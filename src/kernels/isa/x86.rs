//! What AVX2 and AVX-512 do alike, in registers of 128 bits.

/// The part of `Simd` that both have.
macro_rules! float_ops {
    () => {
        ops! {
            fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
            fn widen_f16(bits: u16) -> f32 {
                _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
            }
            fn widen_f16s(bits: [u16; 4]) -> [f32; 4] {
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
            fn to_f32_4(a: [i32; 4]) -> [f32; 4] {
                bytemuck::cast(_mm_cvtepi32_ps(bytemuck::cast(a)))
            }
            fn mul_4(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
                bytemuck::cast(_mm_mul_ps(bytemuck::cast(a), bytemuck::cast(b)))
            }
            fn add_4(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
                bytemuck::cast(_mm_add_ps(bytemuck::cast(a), bytemuck::cast(b)))
            }
            fn sub_4(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
                bytemuck::cast(_mm_sub_ps(bytemuck::cast(a), bytemuck::cast(b)))
            }
            fn sub_product_4(a: [i32; 4], factor: i32, b: [i32; 4]) -> [i32; 4] {
                let product = _mm_mullo_epi32(_mm_set1_epi32(factor), bytemuck::cast(b));
                bytemuck::cast(_mm_sub_epi32(bytemuck::cast(a), product))
            }
        }
    };
}
pub(super) use int_ops;
