//! The types of one value a block.

use lapidary_formats::quant::blocks::{Bf16, F16, F32};

use super::Float;
use crate::kernels::isa::Simd;

impl Float for F32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F {
        s.load(&bytemuck::cast(*x))
    }
}

impl Float for F16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F {
        s.load_f16(&bytemuck::cast(*x))
    }
}

impl Float for Bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F {
        s.load_bf16(&bytemuck::cast(*x))
    }
}
