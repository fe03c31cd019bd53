//! What a model will hold in memory, computed from its blueprint before anything is allocated.

use super::state::LOGIT_ROWS;
use super::{Config, StateOptions};

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
    /// For a file of `file` bytes and a sequence that fills what it may take.
    pub fn new(config: &Config, file: u64, options: StateOptions) -> Self {
        let positions: usize = (0..config.n_layer).map(|l| options.capacity(config, l)).sum();
        let kv_position = 2 * config.n_head_kv * options.kv.head_bytes(config.head_dim);
        let rows = options.n_ctx.min(options.slice);
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
            kv_cache: (positions * kv_position) as u64,
            buffers: ((rows * per_row + logits) * size_of::<f32>()) as u64,
        }
    }

    /// All parts together.
    pub fn total(&self) -> u64 {
        self.file + self.kv_cache + self.buffers
    }
}
