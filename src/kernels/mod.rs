//! The arithmetic of the forward pass on plain slices; knows blocks and nothing of the model.
//!
//! What is here is the scalar reference on a thread pool. [`matmul`](Team::matmul) is the one
//! place that picks a kernel for a type.

mod activations;
mod attention;
mod elementwise;
mod matmul;
mod rope;
mod team;

pub use activations::Activations;
pub use attention::{Attention, KvRows, KvType};
pub use elementwise::{add, geglu, rms_norm, scale, softcap};
pub use matmul::Matrix;
pub use rope::Rope;
pub use team::{Team, TeamError};
