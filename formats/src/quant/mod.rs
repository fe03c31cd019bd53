//! The block types that weights and activations are stored in.
//!
//! Each type is one file of this folder that implements [`Block`]: the layout, and how one block
//! is quantized, dequantized and multiplied. `registry` has one row per type, and the rest of the
//! program looks types up there. The functions here are the scalar reference that every faster
//! kernel is tested against.
//!
//! The k-quants share their arithmetic: `affine` and `symmetric` work on unpacked blocks, and the
//! files of the types only pack and unpack them. `search` chooses scales. It is written in terms of
//! [`Lanes`], which other crates implement with faster instructions.
//!
//! Layouts are those of [ggml](https://github.com/ggml-org/ggml), whose names (`d`, `dmin`,
//! `scales`, `qs`, `qh`) are kept.

mod affine;
mod block;
mod effort;
mod lanes;
mod range;
mod registry;
mod search;
mod symmetric;

mod float;
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

pub use block::Block;
pub use effort::Effort;
pub use lanes::{Lanes, Plain, LANES};
pub use registry::{QuantType, Traits};

/// The typed blocks, for kernels that read them directly.
pub mod blocks {
    pub use super::float::{Bf16, F16, F32};
    pub use super::{affine::Affine, symmetric::Symmetric};
    pub use super::{q2_k::BlockQ2K, q3_k::BlockQ3K, q4_0::BlockQ4_0, q4_1::BlockQ4_1};
    pub use super::{
        q4_k::BlockQ4K, q4_k::Scales, q5_0::BlockQ5_0, q5_1::BlockQ5_1, q5_k::BlockQ5K,
    };
    pub use super::{q6_k::BlockQ6K, q8_0::BlockQ8_0, q8_k::BlockQ8K};
}
