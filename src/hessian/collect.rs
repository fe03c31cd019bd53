//! Takes a text through a model and sums.

use std::num::NonZeroUsize;

use half::bf16;

use super::fisher::{self, Snapshots};
use super::Inputs;
use crate::calibration::{chunk_count, CollectError};
use crate::kernels::second_order::{panels, Gram};
use crate::kernels::{Activations, Cpu, KvType};
use crate::model::{Model, Observer, Readers, State, StateOptions};
use crate::perplexity::chunk;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens per chunk.
    pub n_ctx: NonZeroUsize,
    /// How many chunks to evaluate, from the first; all if `None`.
    pub chunks: Option<NonZeroUsize>,
    /// Replaces the first token of each chunk, if the model needs it.
    pub bos: Option<u32>,
    /// Columns whose products with each other are summed, at most.
    pub limit: usize,
    /// Whether the Fisher information of the outputs is collected too.
    pub fisher: bool,
}

impl Options {
    /// How many columns can be taken together if their sums, `H` and its factor may take `memory` bytes:
    /// two triangles and a square of single precision.
    pub fn columns_within(memory: u64) -> usize {
        (memory / 8).isqrt() as usize
    }
}

/// Every so many chunks, the last one is held out.
const HELD_OUT: usize = 8;

/// Rows of the chunks that are held out that are stored, at most.
const ROWS: usize = 1024;

/// What was collected of the inputs of some matrices, or of the outputs of one.
#[derive(Debug, Default)]
pub struct Collected {
    /// By part of the columns, or of the rows.
    pub grams: Vec<Gram>,
    /// Rows of the chunks that were held out, `[rows, cols]`.
    pub held_out: Vec<bf16>,
    /// Sums of squares where there are no others, `[rows]`.
    pub squares: Vec<f32>,
}

/// How much of a text is collected.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub chunks: usize,
    pub n_ctx: usize,
}

impl Extent {
    /// What there is of a text of so many tokens.
    pub fn new(tokens: usize, options: &Options) -> Result<Self, CollectError> {
        let chunks = chunk_count(tokens, options.n_ctx, options.chunks)?;
        Ok(Self { chunks, n_ctx: options.n_ctx.get() })
    }

    /// Number of tokens that are summed.
    pub fn tokens(&self) -> usize {
        (self.chunks - self.chunks / HELD_OUT) * self.n_ctx
    }

    /// Rows that are stored of those that are held out.
    pub fn held_out_rows(&self) -> usize {
        self.chunks / HELD_OUT * self.n_ctx.div_ceil(self.stride())
    }

    /// Of the rows of a chunk that is held out, every so many are stored.
    fn stride(&self) -> usize {
        (self.chunks / HELD_OUT * self.n_ctx).div_ceil(ROWS).max(1)
    }

    pub fn is_held_out(chunk: usize) -> bool {
        chunk % HELD_OUT == HELD_OUT - 1
    }
}

/// Runs `model` over `tokens`, the whole text with BOS first. Calls `store` with what was collected of the
/// inputs of each layer and of those of the output matrix, in the order of [`Inputs::of`]; then, if it is
/// asked for, with the Fisher information of the logits, of the outputs of each layer, from the last one, in
/// the order of `Outputs::of`, and of the embedded tokens. The first `finished` of these groups are left out: the text is taken through their layers
/// all the same, but nothing is summed. Calls `progress` with the parts of the work that are done and
/// their number; it returns whether to continue. Nothing depends on the number of threads or the
/// instruction set, bit for bit.
///
/// # Errors
/// If the text does not fill a chunk or has tokens that the model does not have, if values are not
/// finite, if `progress` says so, and those of `store`.
pub fn collect(
    model: &Model<'_>,
    tokens: &[u32],
    options: Options,
    finished: usize,
    store: &mut dyn FnMut(Vec<Collected>) -> Result<(), CollectError>,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<(), CollectError> {
    let extent = Extent::new(tokens.len(), &options)?;
    let n_layer = model.config().n_layer();
    if finished > n_layer + if options.fisher { n_layer + 2 } else { 0 } {
        return Ok(());
    }
    // A chunk is taken through a layer in one piece.
    let options_of_state =
        StateOptions { n_ubatch: extent.n_ctx, ..StateOptions::new(extent.n_ctx, KvType::F16) };
    let mut state = State::new(model.config(), options_of_state);
    let mut streams = Vec::new();
    for i in 0..extent.chunks {
        let chunk = chunk(tokens, extent.n_ctx, i, options.bos);
        streams.push(model.embedded(&mut state, &chunk)?);
    }
    let all = Inputs::of(model.config(), model.output_kind());
    let mut snapshots = options.fisher.then(|| Snapshots::new(n_layer, &extent));
    let back = if options.fisher { fisher::tokens(&extent) } else { 0 };
    let (mut done, total) = (0, (n_layer + 1) * streams.len() + n_layer * back / extent.n_ctx);
    for layer in 0..=n_layer {
        let of_layer: Vec<Inputs> = all
            .iter()
            .filter(|inputs| inputs.layer() == (layer < n_layer).then_some(layer))
            .filter(|_| layer >= finished)
            .copied()
            .collect();
        if let Some(snapshots) = snapshots.as_mut().filter(|_| layer < n_layer) {
            snapshots.reached(layer, &streams);
        }
        let mut collector = Collector::new(&of_layer, model.cpu(), options.limit, extent);
        for (i, stream) in streams.iter_mut().enumerate() {
            collector.held_out = Extent::is_held_out(i);
            match layer == n_layer {
                true => model.show_output(&mut state, stream, &mut collector),
                false => model.take_through(&mut state, layer, stream, &mut collector)?,
            }
            done += 1;
            if !progress(done, total) {
                return Err(CollectError::Cancelled);
            }
        }
        if layer >= finished {
            store(collector.collected)?;
        }
    }
    let Some(snapshots) = snapshots else { return Ok(()) };
    let finished = finished.saturating_sub(n_layer + 1);
    snapshots.take_back(model, &mut state, &streams, finished, store, &mut || {
        done += 1;
        progress(done, total)
    })
}

struct Collector<'a> {
    inputs: &'a [Inputs],
    cpu: &'a Cpu,
    limit: usize,
    stride: usize,
    held_out: bool,
    collected: Vec<Collected>,
}

impl<'a> Collector<'a> {
    fn new(inputs: &'a [Inputs], cpu: &'a Cpu, limit: usize, extent: Extent) -> Self {
        let collected = inputs.iter().map(|inputs| Collected {
            grams: inputs.parts(limit).iter().map(|part| Gram::new(part.len())).collect(),
            // At once: what grows while other memory comes and goes leaves holes behind, in each layer more.
            held_out: Vec::with_capacity(extent.held_out_rows() * inputs.cols),
            ..Collected::default()
        });
        let (stride, collected) = (extent.stride(), collected.collect());
        Self { inputs, cpu, limit, stride, held_out: false, collected }
    }
}

impl Observer for Collector<'_> {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        let Some(at) = self.inputs.iter().position(|inputs| inputs.readers == readers) else {
            return;
        };
        let (collected, cols) = (&mut self.collected[at], rows.cols());
        if self.held_out {
            let rows = rows.x().chunks_exact(cols).step_by(self.stride);
            collected.held_out.extend(rows.flatten().map(|x| bf16::from_f32(*x)));
            return;
        }
        for (part, gram) in self.inputs[at].parts(self.limit).into_iter().zip(&mut collected.grams)
        {
            gram.add(self.cpu, &panels(rows.x(), cols, part));
        }
    }
}
