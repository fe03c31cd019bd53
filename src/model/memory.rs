//! What a model will hold in memory, computed from its blueprint before anything is allocated.

use super::state::{LOGIT_ROWS, SLICE};
use super::Config;
use crate::kernels::KvType;

/// Bytes that a run needs, by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The mapped file: weights, tokenizer and metadata.
    pub file: u64,
    /// Keys and values of a full context.
    pub kv_cache: u64,
    /// Activations of one slice of a long prompt, and its last position's logits.
    pub buffers: u64,
}

impl Memory {
    /// For a file of `file` bytes and `n_ctx` positions. Every layer keeps every position.
    pub fn new(config: &Config, file: u64, n_ctx: usize, kv: KvType) -> Self {
        // A head's row in the cache fills whole registers.
        let kv_row = config.n_head_kv * config.head_dim.next_multiple_of(16);
        let kv_values = 2 * config.n_layer * n_ctx * kv_row;
        let rows = n_ctx.min(SLICE);
        let widest = config.n_ff.max(config.n_embd_q());
        // As in `Buffers`: x and delta; q, k, v; the two inputs of matrices, each with a quantized
        // form of at most a byte and a quarter for each f32 (Q8_0 in panels).
        let inputs = config.n_embd + widest;
        let per_row = 2 * config.n_embd
            + config.n_embd_q()
            + 2 * config.n_embd_kv()
            + inputs
            + (inputs * 5).div_ceil(16);
        let logits = LOGIT_ROWS.min(rows) * config.n_vocab;
        Self {
            file,
            kv_cache: (kv_values * kv.bytes()) as u64,
            buffers: ((rows * per_row + logits) * size_of::<f32>()) as u64,
        }
    }

    /// All parts together.
    pub fn total(&self) -> u64 {
        self.file + self.kv_cache + self.buffers
    }
}
