//! The arithmetic of the forward pass on plain slices; knows blocks and nothing of the model.
//!
//! - [`isa`]: instruction sets, and the vector operations that kernels are written in.
//! - `unpack`: what a block type tells the kernels.
//! - `matmul`: matrices × columns.
//! - `attention`: over the cache.
//! - `backward`: gradients.
//! - `weights`: quantizing them, for conversion.
//! - [`second_order`]: quantizing them so that the outputs of a matrix keep their values.
//! - `cpu`: threads and instructions as one, and the operations that a model asks of them.
//! - `thread_pool`: the threads.
//!
//! Results do not depend on the instruction set or the threads, bit for bit; [`Isa::SCALAR`] runs
//! the reference.

mod activations;
mod attention;
mod backward;
mod buffer;
mod cpu;
mod divergence;
mod elementwise;
pub mod isa;
mod math;
mod matmul;
mod quantize;
mod rope;
pub mod second_order;
mod thread_pool;
mod unpack;
mod weights;

pub use activations::Activations;
pub use attention::{Attention, CausalRange, KvRows, KvType, Partials};
pub use backward::Prediction;
pub use buffer::refit;
pub use cpu::{all_finite, Cpu};
pub use divergence::{argmax, kl_divergence};
pub use elementwise::log_sum_exp;
pub use isa::Isa;
pub use matmul::{Matrix, Product};
pub use rope::{Rope, RopeSpec};
use thread_pool::ThreadPool;
pub use thread_pool::{default_threads, processors, ThreadPoolError};
pub use weights::{largest, weighted_error, Quantize};
