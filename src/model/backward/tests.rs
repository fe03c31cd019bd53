//! Gradients against differences of the log-likelihood that the forward pass gives.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;

use super::*;
use crate::kernels::{log_sum_exp, Activations, KvType, Matrix};
use crate::model::{Layer, Observer, Readers, Source, StateOptions};
use crate::sampling::rng::SplitMix64;

const MODELS: [&str; 4] = ["micro-gemma1", "micro-gemma2", "micro-gemma3", "micro-vaultgemma"];

const MATRICES: [TensorKind; 7] = [
    TensorKind::AttnQ,
    TensorKind::AttnK,
    TensorKind::AttnV,
    TensorKind::AttnOutput,
    TensorKind::FfnGate,
    TensorKind::FfnUp,
    TensorKind::FfnDown,
];

/// More than the windows of 16, and no multiple of 16.
const TOKENS: usize = 27;

/// How much each step should change the log-likelihood, in nats.
const CHANGE: f64 = 0.1;

/// How far a difference may be from the gradient. The log-likelihood is the sum of 27 numbers of about 10,
/// each rounded to 1e-6 and computed in single precision, so a difference of 0.2 is known to some 1e-4 of
/// itself. What is left of the third derivative is less.
const TOLERANCE: f64 = 1e-3;

fn opened(name: &str) -> Source {
    Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn state(model: &Model<'_>) -> State {
    State::new(model.config(), StateOptions::new(TOKENS, KvType::F32))
}

fn tokens(n_vocab: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..TOKENS).map(|_| (rng.unit() * n_vocab as f64) as u32).collect()
}

/// The sum of the log-likelihoods of `labels`, from `stream`, which is before layer `from`.
fn log_likelihood(model: &Model<'_>, from: usize, stream: &Stream, labels: &[u32]) -> f64 {
    let (mut state, mut stream) = (state(model), stream.clone());
    for layer in from..model.config().n_layer() {
        model.take_through(&mut state, layer, &mut stream, &mut ()).unwrap();
    }
    state.work.buffers.x.clone_from(&stream.x);
    let logits = model.output(&mut state.work, 0..labels.len()).unwrap();
    let rows = logits.chunks(model.config().n_vocab).zip(labels);
    rows.map(|(row, label)| f64::from(row[*label as usize]) - log_sum_exp(model.isa(), row)).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Compares `gradient` with differences along random halves of itself. `value` is the log-likelihood when
/// `x` is replaced.
fn check(what: &str, x: &[f32], gradient: &[f32], mut value: impl FnMut(&[f32]) -> f64) {
    let mut rng = SplitMix64::new(1);
    for half in 0..3 {
        let direction: Vec<f32> =
            gradient.iter().map(|g| if rng.unit() < 0.5 { *g } else { 0.0 }).collect();
        let step = (CHANGE / dot(&direction, gradient)) as f32;
        assert!(step.is_finite(), "{what}: the gradient is 0");
        let moved = |step: f32| -> Vec<f32> {
            x.iter().zip(&direction).map(|(x, d)| x + step * d).collect()
        };
        let (ahead, behind) = (moved(step), moved(-step));
        // What the steps really are, once they are rounded.
        let between: Vec<f32> = ahead.iter().zip(&behind).map(|(a, b)| a - b).collect();
        let (found, expected) = (value(&ahead) - value(&behind), dot(&between, gradient));
        let error = (found - expected).abs() / expected;
        println!("{what}, half {half}: off by {error:.1e}");
        assert!(
            error <= TOLERANCE,
            "{what}, half {half}: {found} for {expected}, off by {error:e}"
        );
    }
}

/// What the matrices are multiplied with, and the gradients of what they give.
#[derive(Default)]
struct Seen {
    inputs: BTreeMap<Readers, Vec<f32>>,
    gradients: BTreeMap<(usize, TensorKind), Vec<f32>>,
}

impl Observer for Seen {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        self.inputs.insert(readers, rows.x().to_vec());
    }
}

impl GradientObserver for Seen {
    fn output(&mut self, kind: TensorKind, layer: usize, gradient: &[f32]) {
        self.gradients.insert((layer, kind), gradient.to_vec());
    }
}

impl Seen {
    /// The gradient with respect to a matrix, `[rows, cols]`.
    fn of_matrix(&self, layer: usize, kind: TensorKind) -> Vec<f32> {
        let readers = match kind {
            TensorKind::AttnOutput => Readers::AttnOut(layer),
            TensorKind::FfnGate | TensorKind::FfnUp => Readers::FfnIn(layer),
            TensorKind::FfnDown => Readers::FfnOut(layer),
            _ => Readers::AttnIn(layer),
        };
        let (x, g) = (&self.inputs[&readers], &self.gradients[&(layer, kind)]);
        let (cols, rows) = (x.len() / TOKENS, g.len() / TOKENS);
        let mut sums = vec![0.0; rows * cols];
        for (x, g) in x.chunks(cols).zip(g.chunks(rows)) {
            for (sums, g) in sums.chunks_mut(cols).zip(g) {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += g * x);
            }
        }
        sums
    }
}

/// The streams before each layer and after the last, the gradients with respect to them, and those of the
/// matrices.
fn passes(model: &Model<'_>, labels: &[u32]) -> (Vec<Stream>, Vec<Vec<f32>>, Seen) {
    let (mut state, mut seen) = (state(model), Seen::default());
    let tokens = tokens(model.config().n_vocab, 7);
    let mut streams = vec![model.embedded(&mut state, &tokens).unwrap()];
    for layer in 0..model.config().n_layer() {
        let mut stream = streams[layer].clone();
        model.take_through(&mut state, layer, &mut stream, &mut seen).unwrap();
        streams.push(stream);
    }
    let last = &streams[model.config().n_layer()];
    let mut gradients = vec![model.label_gradient(&mut state, last, labels).unwrap()];
    for layer in (0..model.config().n_layer()).rev() {
        let mut gradient = gradients[gradients.len() - 1].clone();
        model.take_back(&mut state, layer, &streams[layer], &mut gradient, &mut seen).unwrap();
        gradients.push(gradient);
    }
    gradients.reverse();
    (streams, gradients, seen)
}

#[test]
fn differences_of_the_stream_agree_with_its_gradient() {
    for name in MODELS {
        let source = opened(name);
        let model = Model::load(&source, Some(1)).unwrap();
        let labels = tokens(model.config().n_vocab, 8);
        let (streams, gradients, _) = passes(&model, &labels);
        for (from, (stream, gradient)) in streams.iter().zip(&gradients).enumerate() {
            check(&format!("{name}, stream {from}"), &stream.x, gradient, |x| {
                let moved = Stream { x: x.to_vec(), ..stream.clone() };
                log_likelihood(&model, from, &moved, &labels)
            });
        }
    }
}

/// A matrix of a layer.
fn place<'l, 'a>(layer: &'l mut Layer<'a>, kind: TensorKind) -> &'l mut Matrix<'a> {
    match kind {
        TensorKind::AttnQ => &mut layer.attn_q,
        TensorKind::AttnK => &mut layer.attn_k,
        TensorKind::AttnV => &mut layer.attn_v,
        TensorKind::AttnOutput => &mut layer.attn_output,
        TensorKind::FfnGate => &mut layer.ffn_gate,
        TensorKind::FfnUp => &mut layer.ffn_up,
        TensorKind::FfnDown => &mut layer.ffn_down,
        _ => unreachable!("layers have seven matrices"),
    }
}

/// The log-likelihood with other weights in one matrix.
fn with_weights(
    source: &Source,
    stream: &Stream,
    labels: &[u32],
    (layer, kind): (usize, TensorKind),
    weights: &[f32],
) -> f64 {
    let data: &[u8] = bytemuck::cast_slice(weights);
    let mut model = Model::load(source, Some(1)).unwrap();
    let matrix = place(&mut model.weights.layers[layer], kind);
    let shape = [matrix.cols(), matrix.rows()];
    *matrix = Matrix::new(TensorView { name: "", ty: QuantType::F32, shape: &shape, data });
    log_likelihood(&model, layer, stream, labels)
}

#[test]
fn differences_of_weights_agree_with_the_gradients_of_outputs() {
    for name in MODELS {
        let source = opened(name);
        let mut model = Model::load(&source, Some(1)).unwrap();
        let labels = tokens(model.config().n_vocab, 8);
        let (streams, _, seen) = passes(&model, &labels);
        for layer in [0, model.config().n_layer() - 1] {
            for kind in MATRICES {
                let matrix = *place(&mut model.weights.layers[layer], kind);
                let mut weights = vec![0.0; matrix.rows() * matrix.cols()];
                let rows = weights.chunks_mut(matrix.cols()).enumerate();
                rows.for_each(|(row, y)| matrix.dequantize_row(row, y));
                let what = format!("{name}, {}", kind.name(Some(layer)));
                check(&what, &weights, &seen.of_matrix(layer, kind), |weights| {
                    with_weights(&source, &streams[layer], &labels, (layer, kind), weights)
                });
            }
        }
    }
}

/// Whatever a model predicts, the gradient of the log-likelihood of a label that is drawn from it is 0 on
/// average: so labels are drawn with the right probabilities.
#[test]
fn gradients_of_sampled_labels_are_0_on_average() {
    const SEEDS: u64 = 400;
    let source = opened("micro-gemma2");
    let model = Model::load(&source, Some(1)).unwrap();
    let mut state = state(&model);
    let stream = model.embedded(&mut state, &tokens(model.config().n_vocab, 7)).unwrap();
    let (mut sum, mut squares) = (vec![0.0; stream.x.len()], 0.0);
    for seed in 0..SEEDS {
        let gradient = model.sampled_gradient(&mut state, &stream, seed, &mut ()).unwrap();
        sum.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += g);
        squares += dot(&gradient, &gradient);
    }
    // Of so many independent vectors of mean 0, the squared sum is on average the sum of squares. Its
    // deviation from that is a tenth or so, as 27 positions have sums of their own.
    let ratio = dot(&sum, &sum) / squares;
    assert!((0.6..1.5).contains(&ratio), "{ratio}");
}
