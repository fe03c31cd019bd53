//! Computes an importance matrix: runs a model over a text and adds up, for every matrix and
//! column, the squares of what the column is multiplied with.
//!
//! The protocol is that of llama.cpp's `llama-imatrix`: the text is cut into disjoint chunks, the
//! first token of each replaced by BOS, and every token counts. Unlike it, the output matrix is part of
//! the result, under the embedding's name where the two are one.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use lapidary_formats::imatrix::{Entry, Imatrix};
use thiserror::Error;

use crate::kernels::{Activations, KvType};
use crate::model::{Model, ModelError, Observer, Readers, State, StateOptions};
use crate::perplexity::chunk;

/// What to compute it from.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens per chunk.
    pub n_ctx: NonZeroUsize,
    /// The first so many chunks; all that the text has if `None`.
    pub chunks: Option<NonZeroUsize>,
    /// What the cache holds.
    pub kv: KvType,
    /// Put in place of the first token of each chunk, if the model wants it.
    pub bos: Option<u32>,
}

/// What a model's activations were like.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Entries for all matrices; the caller may name the text.
    pub imatrix: Imatrix,
    /// How strong the residual stream was, and what was added to it.
    pub energies: Energies,
    /// Tokens that were evaluated.
    pub tokens: usize,
    /// Wall time.
    pub seconds: f64,
}

/// Mean squares over tokens and columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Energies {
    /// By layer: of what attention adds to the stream, after its norm.
    pub attention: Vec<f64>,
    /// By layer: of what feed-forward adds to the stream, after its norm.
    pub feed_forward: Vec<f64>,
    /// Of the stream after the last layer.
    pub stream: f64,
}

/// Why nothing was computed.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The text does not fill a chunk.
    #[error("the text has {tokens} tokens, one chunk needs {n_ctx}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        n_ctx: usize,
    },
    /// The evaluation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Runs `model` over `tokens`, the whole text with BOS in front. `progress` is called after each
/// chunk with the number of chunks so far and of all; it returns whether to go on. The result does
/// not depend on threads and instructions, bit for bit.
///
/// # Errors
/// If the text does not fill a chunk, or holds tokens that the model does not have.
pub fn collect(
    model: &Model<'_>,
    tokens: &[u32],
    options: Options,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Collected, CollectError> {
    let n_ctx = options.n_ctx.get();
    let available = tokens.len() / n_ctx;
    if available == 0 {
        return Err(CollectError::TextTooShort { tokens: tokens.len(), n_ctx });
    }
    let count = options.chunks.map_or(available, |n| n.get().min(available));
    let start = Instant::now();
    let mut collector = Collector::new(model.config().n_layer());
    let mut state = State::new(model.config(), StateOptions::new(n_ctx, options.kv));
    let mut done = 0;
    for i in 0..count {
        let chunk = chunk(tokens, n_ctx, i, options.bos);
        state.truncate(0);
        model.observe(&mut state, &chunk, &mut collector)?;
        done += 1;
        if !progress(done, count) {
            break;
        }
    }
    let tokens = done * n_ctx;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let imatrix = Imatrix {
        datasets: Vec::new(),
        chunk_count: number(done),
        chunk_size: number(n_ctx),
        entries: collector.entries(tokens),
    };
    let energies = collector.energies(tokens * model.config().n_embd);
    Ok(Collected { imatrix, energies, tokens, seconds: start.elapsed().as_secs_f64() })
}

/// Running sums. They are in double precision, and a token is added after the one before it: so
/// they neither lose small numbers in a long text nor depend on how the work is divided. One thread
/// does it, in a fortieth of the time that the pass takes on one.
struct Collector {
    /// Sums of squares by column.
    inputs: BTreeMap<Readers, Vec<f64>>,
    /// Sums of the squares of what each sublayer added: attention and feed-forward in turn.
    added: Vec<f64>,
    /// Sum of the squares of the stream after the last of them.
    stream: f64,
    /// The stream before the current sublayer.
    before: Vec<f32>,
}

impl Collector {
    fn new(n_layer: usize) -> Self {
        Self {
            inputs: BTreeMap::new(),
            added: vec![0.0; 2 * n_layer],
            stream: 0.0,
            before: Vec::new(),
        }
    }

    fn entries(&self, tokens: usize) -> BTreeMap<String, Entry> {
        let named = self.inputs.iter().flat_map(|(readers, sums)| {
            let sums: Vec<f32> = sums.iter().map(|x| *x as f32).collect();
            let entry = Entry { sums, count: tokens as f32 };
            readers.names().into_iter().map(move |name| (name, entry.clone()))
        });
        named.collect()
    }

    /// The means of `n` values each.
    fn energies(&self, n: usize) -> Energies {
        let every_other = |first| self.added.iter().skip(first).step_by(2).map(|x| x / n as f64);
        Energies {
            attention: every_other(0).collect(),
            feed_forward: every_other(1).collect(),
            stream: self.stream / n as f64,
        }
    }
}

impl Observer for Collector {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        let sums = self.inputs.entry(readers).or_insert_with(|| vec![0.0; rows.cols()]);
        for row in rows.x().chunks_exact(rows.cols()) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += square(f64::from(*x)));
        }
    }

    fn stream(&mut self, sublayers: usize, x: &[f32]) {
        if sublayers > 0 {
            let added = x.iter().zip(&self.before).map(|(x, y)| f64::from(*x) - f64::from(*y));
            self.added[sublayers - 1] += added.map(square).sum::<f64>();
        }
        if sublayers == self.added.len() {
            self.stream += x.iter().map(|x| square(f64::from(*x))).sum::<f64>();
        }
        self.before.clear();
        self.before.extend_from_slice(x);
    }
}

fn square(x: f64) -> f64 {
    x * x
}
