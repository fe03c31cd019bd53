//! The block types that weights and activations are stored in.
//!
//! Each type is one file of this folder that implements [`Block`]: the layout, and how one block
//! is dequantized and multiplied. Types that are written implement `Quantize` too. `registry` has one
//! row per type, and the rest of the program looks types up there. The functions here are the scalar
//! reference that every faster kernel is tested against.
//!
//! The types with 256 weights a block share their arithmetic: `affine` and `symmetric` work on
//! unpacked blocks, and the files of the types only pack and unpack them. `search` chooses scales. It is written in terms of
//! [`Lanes`], which other crates implement with faster instructions.
//!
//! Layouts are those of [ggml](https://github.com/ggml-org/ggml), whose names (`d`, `dmin`,
//! `scales`, `qs`, `qh`) are kept.

mod affine;
mod block;
mod effort;
mod grids;
mod iq4;
mod lanes;
mod range;
mod registry;
mod search;
mod second_order;
mod symmetric;

mod float;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod q8_k;
mod tq1_0;
mod tq2_0;

pub use block::Block;
pub use effort::Effort;
pub use lanes::{Lanes, Plain, LANES};
pub use registry::{QuantType, QuantizeFn, Traits};
pub use second_order::{add_products, Fit, Hessian, Row, Rows, Search, Start};

/// The typed blocks, for kernels that read them directly.
pub mod blocks {
    pub use super::float::{Bf16, F16, F32};
    pub use super::iq4::IQ4_VALUES;
    pub use super::{affine::Affine, symmetric::Symmetric, symmetric::Unpack};
    pub use super::{
        iq1_m::BlockIQ1M, iq1_s::BlockIQ1S, iq2_s::BlockIQ2S, iq2_xs::BlockIQ2XS,
        iq2_xxs::BlockIQ2XXS, iq3_s::BlockIQ3S, iq3_xxs::BlockIQ3XXS, iq4_nl::BlockIQ4NL,
        iq4_xs::BlockIQ4XS, mxfp4::BlockMXFP4, tq1_0::BlockTQ1_0, tq2_0::BlockTQ2_0,
    };
    pub use super::{q2_k::BlockQ2K, q3_k::BlockQ3K, q4_0::BlockQ4_0, q4_1::BlockQ4_1};
    pub use super::{
        q4_k::BlockQ4K, q4_k::Scales, q5_0::BlockQ5_0, q5_1::BlockQ5_1, q5_k::BlockQ5K,
    };
    pub use super::{q6_k::BlockQ6K, q8_0::BlockQ8_0, q8_k::BlockQ8K};
}
