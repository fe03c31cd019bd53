//! What a forward pass writes: the key/value cache and the activations of one slice.

use super::Config;
use crate::kernels::{Activations, KvRows, KvType, Partials, Rope};

/// Positions that are evaluated together: long enough to reuse each weight many times, short
/// enough that their activations stay small (27B: 512 × 36,864 × 4 B = 75 MB a buffer).
pub const SLICE: usize = 512;

/// Rows of logits that are computed together (256,000 pieces: 64 rows are 66 MB).
pub(super) const LOGIT_ROWS: usize = 64;

/// What a sequence may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateOptions {
    /// The most positions.
    pub n_ctx: usize,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// The most positions that are evaluated together, at least 1.
    pub slice: usize,
    /// Whether local layers keep only what their window needs.
    pub rings: bool,
}

impl StateOptions {
    /// With slices of [`SLICE`], and rings.
    pub fn new(n_ctx: usize, kv: KvType) -> Self {
        Self { n_ctx, kv, slice: SLICE, rings: true }
    }

    /// Positions that a layer has room for.
    pub(super) fn capacity(&self, config: &Config, layer: usize) -> usize {
        if !(self.rings && config.is_local(layer)) {
            return self.n_ctx;
        }
        let (window, slice) = (config.sliding_window.min(self.n_ctx), self.slice.min(self.n_ctx));
        self.n_ctx.min(KvRows::ring_capacity(window, slice))
    }
}

/// One sequence on its way through a model.
#[derive(Debug)]
pub struct State {
    pub(super) options: StateOptions,
    /// Positions that a local layer sees, its own included.
    window: usize,
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
    /// An empty sequence. The cache grows as positions come.
    pub fn new(config: &Config, options: StateOptions) -> Self {
        let rows = |capacity| KvRows::new(options.kv, config.n_head_kv, config.head_dim, capacity);
        let cache = |layer| {
            let capacity = options.capacity(config, layer);
            Cache { k: rows(capacity), v: rows(capacity) }
        };
        Self {
            options,
            window: config.sliding_window,
            len: 0,
            cache: (0..config.n_layer).map(cache).collect(),
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

    /// What it may take.
    pub fn options(&self) -> &StateOptions {
        &self.options
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all positions from `len` on, and those before as well if a ring has written over what
    /// position `len` would see: rings go back by a slice, at least. Gives the positions kept.
    pub fn truncate(&mut self, len: usize) -> usize {
        self.len = self.len.min(len);
        let seen = (self.len + 1).saturating_sub(self.window);
        if self.cache.iter().any(|cache| cache.k.first() > seen) {
            self.len = 0;
        }
        for cache in &mut self.cache {
            cache.k.truncate(self.len);
            cache.v.truncate(self.len);
        }
        self.len
    }
}
