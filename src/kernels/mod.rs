//! The arithmetic of the forward pass on plain slices; knows blocks and nothing of the model.
//!
//! - [`isa`]: instruction sets, and the vector operations that kernels are written in.
//! - `unpack`: what a block type tells the kernels.
//! - `matmul`: matrices × columns.
//! - `attention`: over the cache.
//! - `weights`: quantizing them, for conversion.
//! - `thread_pool`: the threads.
//!
//! Results do not depend on the instruction set or the threads, bit for bit; [`Isa::SCALAR`] runs
//! the reference.

mod activations;
mod attention;
mod buffer;
mod divergence;
mod elementwise;
pub mod isa;
mod math;
mod matmul;
mod quantize;
mod rope;
mod thread_pool;
mod unpack;
mod weights;

use std::num::NonZeroUsize;
use std::sync::Arc;

pub use activations::Activations;
pub use attention::{Attention, CausalRange, KvRows, KvType, Partials};
pub use buffer::refit;
pub use divergence::{argmax, kl_divergence};
pub use elementwise::{add_rms_norm, geglu, log_sum_exp, rms_norm, scale, softcap};
pub use isa::Isa;
pub use matmul::{Matrix, Product};
pub use rope::Rope;
pub use thread_pool::{default_threads, ThreadPool, ThreadPoolError};
pub use weights::{largest, weighted_error, Requantize};

/// What kernels run on: threads, and the instructions that they use. Clones share the threads.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// The threads.
    pub pool: Arc<ThreadPool>,
    /// The instructions.
    pub isa: Isa,
}

impl Cpu {
    /// `threads`, or as many as there are physical cores, and `isa`.
    pub fn new(threads: Option<NonZeroUsize>, isa: Isa) -> Result<Self, ThreadPoolError> {
        Ok(Self { pool: Arc::new(ThreadPool::new(threads)?), isa })
    }
}
