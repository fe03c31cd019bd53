//! What a forward pass writes: the KV cache of each sequence, and the activations of one ubatch.

use super::architecture::LayerSpec;
use super::Config;
use crate::kernels::{Activations, KvRows, KvType, Matrix, Partials, Rope, RopeSpec};

/// Default number of positions that are evaluated together. It is large enough to use each weight
/// many times, and small enough that the activations stay small (27B: 512 × 36,864 × 4 B = 75 MB
/// per buffer).
pub const N_UBATCH: usize = 512;

/// Rows of logits that are computed together (for 256,000 pieces, 64 rows take 66 MB).
pub const LOGIT_ROWS: usize = 64;

/// The limits of a sequence, and how it is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateOptions {
    /// Most positions: the length of the context.
    pub n_ctx: usize,
    /// Type of the KV cache.
    pub kv: KvType,
    /// Most positions that are evaluated together, at least 1.
    pub n_ubatch: usize,
    /// Whether local layers keep only the positions that their window needs, in a ring.
    pub rings: bool,
}

impl StateOptions {
    /// Options with ubatches of [`N_UBATCH`] and rings.
    pub fn new(n_ctx: usize, kv: KvType) -> Self {
        Self { n_ctx, kv, n_ubatch: N_UBATCH, rings: true }
    }

    /// Number of positions that the cache of a layer has room for.
    pub(super) fn capacity(&self, layer: &LayerSpec) -> usize {
        match layer.window {
            Some(window) if self.rings => {
                let (window, n_ubatch) = (window.min(self.n_ctx), self.n_ubatch.min(self.n_ctx));
                self.n_ctx.min(KvRows::ring_capacity(window, n_ubatch))
            }
            _ => self.n_ctx,
        }
    }
}

/// One sequence: the keys and values of the tokens evaluated so far.
#[derive(Debug)]
pub struct Sequence {
    pub(super) options: StateOptions,
    /// Positions evaluated so far.
    pub(super) len: usize,
    /// The cache of each layer.
    pub(super) cache: Vec<Cache>,
}

/// The buffers of a pass over the weights. They can be used for one sequence after another, or for
/// many sequences together.
#[derive(Debug)]
pub struct Workspace {
    pub(super) buffers: Buffers,
    pub(super) ropes: Ropes,
}

/// The angles of RoPE, with one table for each different [`RopeSpec`] of the layers.
#[derive(Debug)]
pub(super) struct Ropes(Vec<(RopeSpec, Rope)>);

impl Ropes {
    fn new(config: &Config) -> Self {
        let specs = Self::specs(config).into_iter();
        Self(specs.map(|spec| (spec, Rope::new(config.head_dim, spec))).collect())
    }

    /// The different specifications in the layers of a model.
    fn specs(config: &Config) -> Vec<RopeSpec> {
        let mut specs: Vec<RopeSpec> = Vec::new();
        for layer in &config.layers {
            if !specs.contains(&layer.rope) {
                specs.push(layer.rope);
            }
        }
        specs
    }

    /// Prepares the tables for rows at these positions.
    pub fn prepare(&mut self, positions: impl Iterator<Item = usize> + Clone) {
        self.0.iter_mut().for_each(|(_, rope)| rope.prepare(positions.clone()));
    }

    /// The table of a layer.
    pub fn of(&self, layer: &LayerSpec) -> &Rope {
        let found = self.0.iter().find(|(spec, _)| *spec == layer.rope);
        &found.expect("there is a table for every layer").1
    }
}

/// One sequence, with the buffers to evaluate it.
#[derive(Debug)]
pub struct State {
    pub(super) sequence: Sequence,
    pub(super) work: Workspace,
}

/// The KV cache of one layer.
#[derive(Debug)]
pub(super) struct Cache {
    pub k: KvRows,
    pub v: KvRows,
    /// Number of positions that a query attends to, including its own; `None` for all.
    window: Option<usize>,
}

impl Cache {
    /// The first position that position `pos` attends to.
    pub fn first_for(&self, pos: usize) -> usize {
        self.window.map_or(0, |window| (pos + 1).saturating_sub(window))
    }
}

/// The activations of a ubatch of `n` positions. Every buffer is resized to the ubatch.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The residual stream, `[n, n_embd]`
    pub x: Vec<f32>,
    /// The normed residual stream, which is multiplied with the matrices of attention and
    /// feed-forward: `[n, n_embd]`
    pub input: Activations,
    /// The output of attention or of GeGLU, which is multiplied with `attn_output` or `ffn_down`:
    /// `[n, n_head * head_dim]` or `[n, n_ff]`
    pub inner: Activations,
    /// `[n, n_head * head_dim]`
    pub q: Vec<f32>,
    /// `[n, n_head_kv * head_dim]`
    pub k: Vec<f32>,
    /// `[n, n_head_kv * head_dim]`
    pub v: Vec<f32>,
    /// Attention's partial results, before its spans are combined.
    pub partials: Partials,
    /// What attention or feed-forward adds to the residual stream, before its norm: `[n, n_embd]`
    pub delta: Vec<f32>,
    /// `[number of rows, n_vocab]`
    pub logits: Vec<f32>,
}

impl Sequence {
    /// Starts an empty sequence. The cache grows with the number of positions.
    pub fn new(config: &Config, options: StateOptions) -> Self {
        let rows = |capacity| KvRows::new(options.kv, config.n_head_kv, config.head_dim, capacity);
        let cache = |layer: &LayerSpec| {
            let capacity = options.capacity(layer);
            Cache { k: rows(capacity), v: rows(capacity), window: layer.window }
        };
        Self { options, len: 0, cache: config.layers.iter().map(cache).collect() }
    }

    /// Size of the KV cache in bytes when the context is full.
    pub fn bytes(config: &Config, options: StateOptions) -> usize {
        let positions: usize = config.layers.iter().map(|layer| options.capacity(layer)).sum();
        positions * 2 * config.n_head_kv * options.kv.head_bytes(config.head_dim)
    }

    /// Positions evaluated so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been evaluated.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The options of the sequence.
    pub fn options(&self) -> &StateOptions {
        &self.options
    }

    /// How many positions [`truncate`](Self::truncate) to `len` would keep.
    pub fn keeps(&self, len: usize) -> usize {
        let len = self.len.min(len);
        match self.cache.iter().all(|cache| cache.k.first() <= cache.first_for(len)) {
            true => len,
            false => 0,
        }
    }

    /// Drops all positions from `len` on. If a ring has overwritten what position `len` attends to,
    /// drops the positions before as well; going back by up to a ubatch always works. Returns the
    /// number of positions kept.
    pub fn truncate(&mut self, len: usize) -> usize {
        self.len = self.keeps(len);
        for cache in &mut self.cache {
            cache.k.truncate(self.len);
            cache.v.truncate(self.len);
        }
        self.len
    }

    /// Replaces this sequence with the first `len` positions of `other`, as far as `other`
    /// [`keeps`](Self::keeps) them. Returns their number.
    ///
    /// # Panics
    /// If `other` is of another model or has other options.
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
    /// Creates empty buffers.
    pub fn new(config: &Config) -> Self {
        Self { buffers: Buffers::default(), ropes: Ropes::new(config) }
    }

    /// Size in bytes, without the logits, for passes of at most `rows` positions of `sequences`
    /// sequences with these options. Counted are the fields of `Buffers`: x and delta; q, k, v; the
    /// two inputs of matrices with their quantized forms; and attention's partial results.
    pub fn bytes(config: &Config, options: StateOptions, rows: usize, sequences: usize) -> usize {
        let widest = config.n_ff.max(config.n_embd_q());
        let streams = 2 * config.n_embd + config.n_embd_q() + 2 * config.n_embd_kv();
        let row = streams * size_of::<f32>()
            + Activations::row_bytes(config.n_embd)
            + Activations::row_bytes(widest)
            + Matrix::product_bytes(widest)
            + Ropes::specs(config).len() * Rope::row_bytes(config.head_dim);
        rows * row + sequences * Partials::bytes(options.n_ctx, config.n_head, config.head_dim)
    }
}

impl State {
    /// Starts an empty sequence.
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

    /// The options of the sequence.
    pub fn options(&self) -> &StateOptions {
        &self.sequence.options
    }

    /// The logits that were computed last, `[rows, n_vocab]`. Whoever computed them may have changed
    /// them.
    pub fn logits(&self) -> &[f32] {
        &self.work.buffers.logits
    }

    /// Drops all positions.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// See [`Sequence::truncate`].
    pub fn truncate(&mut self, len: usize) -> usize {
        self.sequence.truncate(len)
    }
}
