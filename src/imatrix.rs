//! Computes an importance matrix: runs a model over a text and sums, for every column of every
//! matrix, the squares of the activations that the column is multiplied with.
//!
//! The text is processed as in llama.cpp's `llama-imatrix`: it is split into disjoint chunks, the
//! first token of each chunk is replaced by BOS, and all tokens count. Unlike there, the output
//! matrix gets an entry too; if it is the embedding, under the embedding's name.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use lapidary_formats::imatrix::{Entry, Imatrix};

use crate::calibration::{chunk_count, CollectError};
use crate::kernels::{Activations, KvType};
use crate::model::{Model, Observer, Readers, State, StateOptions};
use crate::perplexity::chunk;

/// How to compute it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens per chunk.
    pub n_ctx: NonZeroUsize,
    /// How many chunks to evaluate, from the first; all if `None`.
    pub chunks: Option<NonZeroUsize>,
    /// Type of the KV cache.
    pub kv: KvType,
    /// Replaces the first token of each chunk, if the model needs it.
    pub bos: Option<u32>,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Entries for all matrices. The caller may add the name of the text.
    pub imatrix: Imatrix,
    /// Magnitude of the residual stream and of what the layers add to it.
    pub energies: Energies,
    /// Tokens that were evaluated.
    pub tokens: usize,
    /// Wall time.
    pub seconds: f64,
}

/// Mean squares over tokens and columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Energies {
    /// What attention adds to the residual stream, after its norm; by layer.
    pub attention: Vec<f64>,
    /// What feed-forward adds to the residual stream, after its norm; by layer.
    pub feed_forward: Vec<f64>,
    /// The residual stream after the last layer.
    pub stream: f64,
}

/// Runs `model` over `tokens`, the whole text with BOS first. Calls `progress` after each chunk
/// with the number of chunks so far and the total number; it returns whether to continue. The
/// result does not depend on the number of threads or the instruction set, bit for bit.
///
/// # Errors
/// If the text does not fill a chunk, or has tokens that the model does not have.
pub fn collect(
    model: &Model<'_>,
    tokens: &[u32],
    options: Options,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Collected, CollectError> {
    let n_ctx = options.n_ctx.get();
    let count = chunk_count(tokens.len(), options.n_ctx, options.chunks)?;
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

/// Running sums. They are in double precision, and tokens are added one after the other. They
/// therefore do not lose small values in a long text and do not depend on how the work is divided.
/// One thread does this, in a fortieth of the time that the pass takes on one thread.
struct Collector {
    /// Sums of squares, by column.
    inputs: BTreeMap<Readers, Vec<f64>>,
    /// Sums of the squares of what each sublayer added; attention and feed-forward alternate.
    added: Vec<f64>,
    /// Sum of the squares of the residual stream after the last sublayer.
    stream: f64,
    /// The residual stream before the current sublayer.
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

    /// The means; each sum has `n` values.
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
