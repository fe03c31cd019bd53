//! What a forward pass writes: the key/value cache of each sequence, and the activations of one ubatch.

use super::Config;
use crate::kernels::{Activations, KvRows, KvType, Partials, Rope};

/// Positions that are evaluated together: long enough to reuse each weight many times, short
/// enough that their activations stay small (27B: 512 × 36,864 × 4 B = 75 MB a buffer).
pub const N_UBATCH: usize = 512;

/// Rows of logits that are computed together (256,000 pieces: 64 rows are 66 MB).
pub(super) const LOGIT_ROWS: usize = 64;

/// What a sequence may take, and the ubatches that it is evaluated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateOptions {
    /// The most positions.
    pub n_ctx: usize,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// The most positions that are evaluated together, at least 1.
    pub n_ubatch: usize,
    /// Whether local layers keep only what their window needs.
    pub rings: bool,
}

impl StateOptions {
    /// With ubatches of [`N_UBATCH`], and rings.
    pub fn new(n_ctx: usize, kv: KvType) -> Self {
        Self { n_ctx, kv, n_ubatch: N_UBATCH, rings: true }
    }

    /// Positions that a layer has room for.
    pub(super) fn capacity(&self, config: &Config, layer: usize) -> usize {
        if !(self.rings && config.is_local(layer)) {
            return self.n_ctx;
        }
        let (window, n_ubatch) =
            (config.sliding_window.min(self.n_ctx), self.n_ubatch.min(self.n_ctx));
        self.n_ctx.min(KvRows::ring_capacity(window, n_ubatch))
    }
}

/// One sequence: the keys and values of what was read so far.
#[derive(Debug)]
pub struct Sequence {
    pub(super) options: StateOptions,
    /// Positions that a local layer sees, its own included.
    window: usize,
    /// Positions in the cache.
    pub(super) len: usize,
    /// By layer.
    pub(super) cache: Vec<Cache>,
}

/// What a pass over the weights works in, for one sequence after another or for many together.
#[derive(Debug)]
pub struct Workspace {
    pub(super) buffers: Buffers,
    pub(super) rope: Rope,
}

/// One sequence on its way through a model by itself.
#[derive(Debug)]
pub struct State {
    pub(super) sequence: Sequence,
    pub(super) work: Workspace,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct Cache {
    pub k: KvRows,
    pub v: KvRows,
}

/// The activations of a ubatch of `n` positions; every buffer is resized to the ubatch.
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

impl Sequence {
    /// An empty sequence. The cache grows as positions come.
    pub fn new(config: &Config, options: StateOptions) -> Self {
        let rows = |capacity| KvRows::new(options.kv, config.n_head_kv, config.head_dim, capacity);
        let cache = |layer| {
            let capacity = options.capacity(config, layer);
            Cache { k: rows(capacity), v: rows(capacity) }
        };
        let cache = (0..config.n_layer).map(cache).collect();
        Self { options, window: config.sliding_window, len: 0, cache }
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

    /// The positions that [`truncate`](Self::truncate) would keep.
    pub fn keeps(&self, len: usize) -> usize {
        let len = self.len.min(len);
        let seen = (len + 1).saturating_sub(self.window);
        match self.cache.iter().all(|cache| cache.k.first() <= seen) {
            true => len,
            false => 0,
        }
    }

    /// Forgets all positions from `len` on, and those before as well if a ring has written over what
    /// position `len` would see: rings go back by a ubatch, at least. Gives the positions kept.
    pub fn truncate(&mut self, len: usize) -> usize {
        self.len = self.keeps(len);
        for cache in &mut self.cache {
            cache.k.truncate(self.len);
            cache.v.truncate(self.len);
        }
        self.len
    }

    /// Holds the first `len` positions of `other` from now on, as far as it
    /// [`keeps`](Self::keeps) them, and nothing else; gives how many those are.
    ///
    /// # Panics
    /// If the other one is of another model, or has other options.
    pub fn copy_from(&mut self, other: &Self, len: usize) -> usize {
        assert_eq!(self.options, other.options, "sequences of one kind");
        self.len = other.keeps(len);
        for (cache, other) in self.cache.iter_mut().zip(&other.cache) {
            cache.k.copy_from(&other.k, self.len);
            cache.v.copy_from(&other.v, self.len);
        }
        self.len
    }
}

impl Workspace {
    /// One that has grown for nothing yet.
    pub fn new(config: &Config) -> Self {
        let rope = Rope::new(config.head_dim, config.rope_freq_base);
        Self { buffers: Buffers::default(), rope }
    }
}

impl State {
    /// An empty sequence.
    pub fn new(config: &Config, options: StateOptions) -> Self {
        Self { sequence: Sequence::new(config, options), work: Workspace::new(config) }
    }

    /// Positions evaluated so far.
    pub fn len(&self) -> usize {
        self.sequence.len
    }

    /// Whether nothing has been evaluated.
    pub fn is_empty(&self) -> bool {
        self.sequence.is_empty()
    }

    /// What it may take.
    pub fn options(&self) -> &StateOptions {
        &self.sequence.options
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// As [`Sequence::truncate`].
    pub fn truncate(&mut self, len: usize) -> usize {
        self.sequence.truncate(len)
    }
}
