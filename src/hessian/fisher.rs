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
    /// Calls `store` with the sums of squares of the gradients of logits, and then for each layer, from the
    /// last one, with the sums of the outputs of its matrices; and with those of the embedded tokens. The
    /// first `finished` of these are left out: nothing is summed.
    pub fn take_back(
        mut self,
        model: &Model<'_>,
        state: &mut State,
        last: &[Stream],
        finished: usize,
        store: &mut dyn FnMut(Vec<Collected>) -> Result<(), CollectError>,
        progress: &mut dyn FnMut() -> bool,
    ) -> Result<(), CollectError> {
        let (mut gradients, mut logits) = (Vec::new(), Logits::new(model.config().n_vocab));
        for chunk in &self.chunks {
            let (stream, seed) = (&last[*chunk], *chunk as u64);
            gradients.push(model.sampled_gradient(state, stream, seed, &mut logits)?);
        }
        if finished == 0 {
            store(vec![of_squares(&logits.squares)])?;
        }
        let mut end = model.config().n_layer();
        let to_sum = 0..end - finished.saturating_sub(1);
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
                if layer == 0 {
                    store(vec![embedded(&streams, &gradients, model.config().n_embd)])?;
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

/// The sums of the squares of the values of embedded tokens, each times its gradient: what it would cost if
/// they were lost.
fn embedded(streams: &[Stream], gradients: &[Vec<f32>], n_embd: usize) -> Collected {
    let mut squares = vec![0.0; n_embd];
    for (stream, gradient) in streams.iter().zip(gradients) {
        let rows = stream.x().chunks_exact(n_embd).zip(gradient.chunks_exact(n_embd));
        for (x, gradient) in rows {
            let products = x.iter().zip(gradient).map(|(x, g)| f64::from(*x) * f64::from(*g));
            squares.iter_mut().zip(products).for_each(|(sum, product)| *sum += product * product);
        }
    }
    of_squares(&squares)
}

fn of_squares(squares: &[f64]) -> Collected {
    let squares = squares.iter().map(|sum| *sum as f32).collect();
    Collected { squares, ..Collected::default() }
}

/// The sums of the squares of the gradients of each logit. All their products would be too many.
struct Logits {
    /// `[n_vocab]`
    squares: Vec<f64>,
}

impl Logits {
    fn new(n_vocab: usize) -> Self {
        Self { squares: vec![0.0; n_vocab] }
    }
}

impl GradientObserver for Logits {
    fn logits(&mut self, gradient: &[f32]) {
        for row in gradient.chunks_exact(self.squares.len()) {
            let squares = row.iter().map(|g| f64::from(*g) * f64::from(*g));
            self.squares.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
        }
    }
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
            ..Collected::default()
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
