//! The Fisher information of the matrices' outputs: sums of the products of every two gradients of the
//! log-likelihood of tokens that are drawn from the model's predictions. It says which outputs' errors
//! make up for each other.

use std::ops::Range;

use super::collect::{Collected, Extent};
use super::{Outputs, ROWS};
use crate::calibration::CollectError;
use crate::kernels::second_order::{panels, Gram};
use crate::kernels::Cpu;
use crate::model::{GradientObserver, Model, State, Stream, TensorKind};

/// Tokens whose gradients are taken, at most.
const TOKENS: usize = 1 << 14;

/// The numbers of the chunks of a text whose gradients are taken.
fn chunks(extent: &Extent) -> Vec<usize> {
    let summed: Vec<usize> = (0..extent.chunks).filter(|i| !Extent::is_held_out(*i)).collect();
    let step = summed.len().div_ceil((TOKENS / extent.n_ctx).max(1)).max(1);
    summed.into_iter().step_by(step).collect()
}

/// Number of tokens of a text whose gradients are taken.
pub(super) fn tokens(extent: &Extent) -> usize {
    chunks(extent).len() * extent.n_ctx
}

/// The streams that the gradients are taken back through: of some chunks, before every few layers. Those
/// before the other layers are computed again when they are needed.
pub(super) struct Snapshots {
    /// Layers from one snapshot to the next.
    every: usize,
    /// The numbers of the chunks.
    chunks: Vec<usize>,
    /// By snapshot, `[chunks]`.
    streams: Vec<Vec<Stream>>,
}

impl Snapshots {
    /// Of a text of this extent.
    pub fn new(n_layer: usize, extent: &Extent) -> Self {
        let every = n_layer.isqrt().max(1);
        Self { every, chunks: chunks(extent), streams: Vec::new() }
    }

    /// Shows it the streams of all chunks before `layer`.
    pub fn reached(&mut self, layer: usize, streams: &[Stream]) {
        if layer.is_multiple_of(self.every) {
            self.streams.push(self.chunks.iter().map(|i| streams[*i].clone()).collect());
        }
    }

    /// Takes gradients back through all layers, from `last`, the streams of all chunks after the last one.
    /// Calls `store` for each layer, from the last one, with the sums of the outputs of its matrices. For the
    /// first `finished` layers, nothing is summed.
    pub fn take_back(
        mut self,
        model: &Model<'_>,
        state: &mut State,
        last: &[Stream],
        finished: usize,
        store: &mut dyn FnMut(Vec<Collected>) -> Result<(), CollectError>,
        progress: &mut dyn FnMut() -> bool,
    ) -> Result<(), CollectError> {
        let mut gradients = Vec::new();
        for chunk in &self.chunks {
            gradients.push(model.sampled_gradient(state, &last[*chunk], *chunk as u64)?);
        }
        let mut end = model.config().n_layer();
        let to_sum = 0..end.saturating_sub(finished);
        while let Some(streams) = self.streams.pop() {
            let layers = self.streams.len() * self.every..end;
            end = layers.start;
            if layers.is_empty() {
                continue;
            }
            let before = forth(model, state, streams, layers.clone())?;
            for (layer, streams) in layers.zip(before).rev() {
                let outputs = match to_sum.contains(&layer) {
                    true => Outputs::of(model.config(), layer),
                    false => Vec::new(),
                };
                let mut collector = Collector::new(model.cpu(), outputs);
                for (stream, gradient) in streams.iter().zip(&mut gradients) {
                    model.take_back(state, layer, stream, gradient, &mut collector)?;
                    if !progress() {
                        return Err(CollectError::Cancelled);
                    }
                }
                if to_sum.contains(&layer) {
                    store(collector.collected)?;
                }
            }
        }
        Ok(())
    }
}

/// The streams before each of `layers`, from those before the first.
fn forth(
    model: &Model<'_>,
    state: &mut State,
    streams: Vec<Stream>,
    layers: Range<usize>,
) -> Result<Vec<Vec<Stream>>, CollectError> {
    let mut all = vec![streams];
    for layer in layers.start..layers.end - 1 {
        let mut next = all[all.len() - 1].clone();
        for stream in &mut next {
            model.take_through(state, layer, stream, &mut ())?;
        }
        all.push(next);
    }
    Ok(all)
}

struct Collector<'a> {
    cpu: &'a Cpu,
    outputs: Vec<Outputs>,
    /// By output.
    collected: Vec<Collected>,
}

impl<'a> Collector<'a> {
    fn new(cpu: &'a Cpu, outputs: Vec<Outputs>) -> Self {
        let collected = outputs.iter().map(|outputs| Collected {
            grams: outputs.parts(ROWS).iter().map(|part| Gram::new(part.len())).collect(),
            held_out: Vec::new(),
        });
        Self { cpu, collected: collected.collect(), outputs }
    }
}

impl GradientObserver for Collector<'_> {
    fn output(&mut self, kind: TensorKind, _layer: usize, gradient: &[f32]) {
        let Some(at) = self.outputs.iter().position(|outputs| outputs.kind == kind) else { return };
        let outputs = self.outputs[at];
        let grams = &mut self.collected[at].grams;
        for (part, gram) in outputs.parts(ROWS).into_iter().zip(grams) {
            gram.add(self.cpu, &panels(gradient, outputs.rows, part));
        }
    }
}
