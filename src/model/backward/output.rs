//! From the likelihood of labels back to the stream after the last layer.

use super::GradientObserver;
use crate::kernels::{all_finite, refit, Prediction};
use crate::model::{logit_blocks, Model, ModelError, State, Stream};
use crate::sampling::rng::SplitMix64;

impl Model<'_> {
    /// The gradient of the log-likelihood of labels that are drawn from the model's own predictions, one
    /// for each position, with respect to `stream`, which is after the last layer: `[n, n_embd]`. The
    /// labels of a chunk depend on `seed` alone, so every chunk should have a seed of its own. Shows
    /// `observer` the gradients with respect to the logits.
    ///
    /// # Errors
    /// If values are NaN or infinite.
    pub fn sampled_gradient(
        &self,
        state: &mut State,
        stream: &Stream,
        seed: u64,
        observer: &mut dyn GradientObserver,
    ) -> Result<Vec<f32>, ModelError> {
        let mut rng = SplitMix64::new(seed);
        let units: Vec<f64> = stream.tokens.iter().map(|_| rng.unit()).collect();
        let label =
            |position: usize, prediction: &Prediction<'_>| prediction.label_at(units[position]);
        self.output_back(state, stream, observer, label)
    }

    /// The same of given labels, one for each position.
    ///
    /// # Errors
    /// If values are NaN or infinite.
    ///
    /// # Panics
    /// If a position has no label, or a label is outside the vocabulary.
    pub fn label_gradient(
        &self,
        state: &mut State,
        stream: &Stream,
        labels: &[u32],
    ) -> Result<Vec<f32>, ModelError> {
        self.output_back(state, stream, &mut (), |position, _| labels[position] as usize)
    }

    fn output_back(
        &self,
        state: &mut State,
        stream: &Stream,
        observer: &mut dyn GradientObserver,
        label: impl Fn(usize, &Prediction<'_>) -> usize + Sync,
    ) -> Result<Vec<f32>, ModelError> {
        let (c, cpu, w, work) = (&self.config, &self.cpu, &self.weights, &mut state.work);
        refit(&mut work.buffers.x, stream.x.len(), 0.0);
        work.buffers.x.copy_from_slice(&stream.x);
        let mut gradient = vec![0.0; stream.x.len()];
        for rows in logit_blocks(0..stream.tokens.len()) {
            let logits = self.output(work, rows.clone())?;
            let label =
                |row: usize, prediction: &Prediction<'_>| label(rows.start + row, prediction);
            cpu.log_likelihood_back(logits, c.n_vocab, c.final_softcap, label);
            observer.logits(logits);
            let place = rows.start * c.n_embd..rows.end * c.n_embd;
            let gradient = &mut gradient[place.clone()];
            cpu.matmul_back(&[(&w.output, logits)], gradient);
            cpu.rms_norm_back(&stream.x[place], &w.output_norm, c.rms_eps, gradient);
        }
        match all_finite(&gradient) {
            true => Ok(gradient),
            false => Err(self.not_finite()),
        }
    }
}
