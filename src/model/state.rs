//! What a forward pass writes: the KV cache of each sequence, and the activations of one ubatch.

use super::architecture::LayerSpec;
use super::Config;
use crate::kernels::{Activations, KvRows, KvType, Matrix, Partials, Rope, RopeSpec};

/// Positions that are evaluated together: long enough to reuse each weight many times, short
/// enough that their activations stay small (27B: 512 × 36,864 × 4 B = 75 MB a buffer).
pub const N_UBATCH: usize = 512;

/// Rows of logits that are computed together (256,000 pieces: 64 rows are 66 MB).
pub const LOGIT_ROWS: usize = 64;

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

/// One sequence: the keys and values of what was read so far.
#[derive(Debug)]
pub struct Sequence {
    pub(super) options: StateOptions,
    /// Positions in the cache.
    pub(super) len: usize,
    /// By layer.
    pub(super) cache: Vec<Cache>,
}

/// What a pass over the weights works in, for one sequence after another or for many together.
#[derive(Debug)]
pub struct Workspace {
    pub(super) buffers: Buffers,
    pub(super) ropes: Ropes,
}

/// The angles of RoPE, one table for each way in which layers turn.
#[derive(Debug)]
pub(super) struct Ropes(Vec<(RopeSpec, Rope)>);

impl Ropes {
    fn new(config: &Config) -> Self {
        let specs = Self::specs(config).into_iter();
        Self(specs.map(|spec| (spec, Rope::new(config.head_dim, spec))).collect())
    }

    /// The ways in which the layers of a model turn.
    fn specs(config: &Config) -> Vec<RopeSpec> {
        let mut specs: Vec<RopeSpec> = Vec::new();
        for layer in &config.layers {
            if !specs.contains(&layer.rope) {
                specs.push(layer.rope);
            }
        }
        specs
    }

    /// Prepares for a row at each of `positions`.
    pub fn prepare(&mut self, positions: impl Iterator<Item = usize> + Clone) {
        self.0.iter_mut().for_each(|(_, rope)| rope.prepare(positions.clone()));
    }

    /// The table of a layer.
    pub fn of(&self, layer: &LayerSpec) -> &Rope {
        let found = self.0.iter().find(|(spec, _)| *spec == layer.rope);
        &found.expect("there is a table for every layer").1
    }
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
    /// Positions that a query attends to, its own included.
    window: Option<usize>,
}

impl Cache {
    /// The first position that position `pos` attends to.
    pub fn first_for(&self, pos: usize) -> usize {
        self.window.map_or(0, |window| (pos + 1).saturating_sub(window))
    }
}

/// The activations of a ubatch of `n` positions; every buffer is resized to the ubatch.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The residual stream, `[n, n_embd]`
    pub x: Vec<f32>,
    /// The normed stream, which the matrices of attention and feed-forward read: `[n, n_embd]`
    pub input: Activations,
    /// The output of attention or of GeGLU, which the matrix back to the stream reads:
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
    /// What attention or feed-forward adds to the stream, before its norm: `[n, n_embd]`
    pub delta: Vec<f32>,
    /// `[rows wanted, n_vocab]`
    pub logits: Vec<f32>,
}

impl Sequence {
    /// An empty sequence. The cache grows as positions come.
    pub fn new(config: &Config, options: StateOptions) -> Self {
        let rows = |capacity| KvRows::new(options.kv, config.n_head_kv, config.head_dim, capacity);
        let cache = |layer: &LayerSpec| {
            let capacity = options.capacity(layer);
            Cache { k: rows(capacity), v: rows(capacity), window: layer.window }
        };
        Self { options, len: 0, cache: config.layers.iter().map(cache).collect() }
    }

    /// Bytes of the cache of one whose context is full.
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

    /// What it may take.
    pub fn options(&self) -> &StateOptions {
        &self.options
    }

    /// The positions that [`truncate`](Self::truncate) would keep.
    pub fn keeps(&self, len: usize) -> usize {
        let len = self.len.min(len);
        match self.cache.iter().all(|cache| cache.k.first() <= cache.first_for(len)) {
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
        Self { buffers: Buffers::default(), ropes: Ropes::new(config) }
    }

    /// Bytes that it grows to, but for the logits: for passes of up to `rows` positions of `sequences`
    /// sequences, each of which has `options`. As in `Buffers`: x and delta; q, k, v; the two inputs of
    /// matrices with their quantized forms; attention's spans.
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
