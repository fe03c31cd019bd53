//! What a forward pass writes: the key/value cache and the activations of one slice.

use super::Config;
use crate::kernels::{Activations, KvRows, KvType, Partials, Rope};

/// Positions that are evaluated together: long enough to reuse each weight many times, short
/// enough that their activations stay small (27B: 512 × 36,864 × 4 B = 75 MB a buffer).
pub const SLICE: usize = 512;

/// Rows of logits that are computed together (256,000 pieces: 64 rows are 66 MB).
pub(super) const LOGIT_ROWS: usize = 64;

/// One sequence on its way through a model.
#[derive(Debug)]
pub struct State {
    pub(super) n_ctx: usize,
    /// Positions in the cache.
    pub(super) len: usize,
    /// By layer.
    pub(super) cache: Vec<Cache>,
    pub(super) buffers: Buffers,
    pub(super) rope: Rope,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct Cache {
    pub k: KvRows,
    pub v: KvRows,
}

/// The activations of a slice of `n` positions; every buffer is resized to the slice.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The residual stream, `[n, n_embd]`
    pub x: Vec<f32>,
    /// The normed stream, which the matrices of a layer half read: `[n, n_embd]`
    pub input: Activations,
    /// Attention's or GeGLU's output, which the last matrix of a layer half reads:
    /// `[n, n_head * head_dim]` or `[n, n_ff]`
    pub inner: Activations,
    /// `[n, n_head * head_dim]`
    pub q: Vec<f32>,
    /// `[n, n_head_kv * head_dim]`
    pub k: Vec<f32>,
    /// `[n, n_head_kv * head_dim]`
    pub v: Vec<f32>,
    /// Attention's, while spans are apart.
    pub partials: Partials,
    /// What a layer half adds to the stream, before and after its norm: `[n, n_embd]`
    pub delta: Vec<f32>,
    /// `[rows wanted, n_vocab]`
    pub logits: Vec<f32>,
}

impl State {
    /// An empty sequence of at most `n_ctx` positions. The cache grows as positions come.
    pub fn new(config: &Config, n_ctx: usize, kv: KvType) -> Self {
        let rows = || KvRows::new(kv, config.n_head_kv, config.head_dim);
        let cache = || Cache { k: rows(), v: rows() };
        Self {
            n_ctx,
            len: 0,
            cache: (0..config.n_layer).map(|_| cache()).collect(),
            buffers: Buffers::default(),
            rope: Rope::new(config.head_dim, config.rope_freq_base),
        }
    }

    /// Positions evaluated so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been evaluated.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most positions it takes.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for cache in &mut self.cache {
            cache.k.truncate(self.len);
            cache.v.truncate(self.len);
        }
    }
}
