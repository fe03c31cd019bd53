//! The forward pass.
//!
//! x → norm → q, k, v → RoPE → attention → output → norm → + → norm → GeGLU → down → norm → +,
//! layer after layer; then a final norm, the head, and the final softcap.

use rayon::prelude::*;
use thiserror::Error;

use super::state::{Buffers, Cache, LOGIT_ROWS, SLICE};
use super::weights::{Layer, Weights};
use super::{Config, Source, State};
use crate::kernels::{
    add, geglu, rms_norm, scale, softcap, Activations, Attention, Matrix, Rope, Team, TeamError,
};

/// A model that is ready to run: its blueprint, its weights and the threads it runs on.
#[derive(Debug)]
pub struct Model<'a> {
    config: Config,
    weights: Weights<'a>,
    team: Team,
}

/// The positions whose logits are wanted, of those evaluated in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// Those from this index on.
    From(usize),
    /// The last one.
    Last,
}

/// Why tokens cannot be evaluated.
#[derive(Debug, Error)]
pub enum ModelError {
    /// No threads.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// Nothing to evaluate.
    #[error("there are no tokens to evaluate")]
    NoTokens,
    /// More positions than the context has.
    #[error("{wanted} tokens do not fit the context of {n_ctx}")]
    ContextFull {
        /// Positions that there would be.
        wanted: usize,
        /// Positions that there may be.
        n_ctx: usize,
    },
    /// A token id without a row in the embedding.
    #[error("token id {id} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        n_vocab: usize,
    },
}

impl<'a> Model<'a> {
    /// Reads the norms and takes the matrices as they lie in the map. `threads`: `None` for as
    /// many as there are cores.
    pub fn load(source: &'a Source, threads: Option<usize>) -> Result<Self, ModelError> {
        let team = Team::new(threads)?;
        Ok(Self { config: source.config().clone(), weights: Weights::new(source), team })
    }

    /// The model's blueprint.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Number of threads it runs on.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Evaluates `tokens` after those that `state` holds and calls `sink` with the logits of each
    /// wanted row, `[n_vocab]`, in order: its index among `tokens`, and the logits. On an error
    /// nothing has been evaluated.
    pub fn forward(
        &self,
        state: &mut State,
        tokens: &[u32],
        rows: Rows,
        mut sink: impl FnMut(usize, &mut [f32]) + Send,
    ) -> Result<(), ModelError> {
        self.check(state, tokens)?;
        let first = match rows {
            Rows::All => 0,
            Rows::From(row) => row,
            Rows::Last => tokens.len().saturating_sub(1),
        };
        self.team.install(|| {
            for (i, tokens) in tokens.chunks(SLICE).enumerate() {
                self.layers(state, tokens);
                let at = i * SLICE;
                let wanted = first.saturating_sub(at).min(tokens.len());
                self.head(&mut state.buffers, wanted, &mut |row, logits| sink(at + row, logits));
            }
        });
        Ok(())
    }

    /// The logits of the last of `tokens`, `[n_vocab]`; the caller may change them.
    pub fn forward_last<'s>(
        &self,
        state: &'s mut State,
        tokens: &[u32],
    ) -> Result<&'s mut [f32], ModelError> {
        self.forward(state, tokens, Rows::Last, |_, _| ())?;
        Ok(&mut state.buffers.logits)
    }

    fn check(&self, state: &State, tokens: &[u32]) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::NoTokens);
        }
        let (wanted, n_ctx) = (state.len + tokens.len(), state.n_ctx);
        if wanted > n_ctx {
            return Err(ModelError::ContextFull { wanted, n_ctx });
        }
        let n_vocab = self.config.n_vocab;
        match tokens.iter().find(|id| **id as usize >= n_vocab) {
            Some(id) => Err(ModelError::Token { id: *id, n_vocab }),
            None => Ok(()),
        }
    }

    /// From tokens to the stream after the last layer, in `state.buffers.x`.
    fn layers(&self, state: &mut State, tokens: &[u32]) {
        let (c, n) = (&self.config, tokens.len());
        let State { len: pos, cache, buffers, rope, .. } = state;
        buffers.x.resize(n * c.n_embd, 0.0);
        buffers.x.par_chunks_mut(c.n_embd).zip(tokens).for_each(|(x, id)| {
            self.weights.token_embd.dequantize_row(*id as usize, x);
            scale(x, c.embd_scale());
        });
        rope.prepare(*pos, n);
        for (i, (layer, cache)) in self.weights.layers.iter().zip(cache).enumerate() {
            self.attention(i, layer, *pos, n, cache, rope, buffers);
            self.feed_forward(layer, n, buffers);
        }
        *pos += n;
    }

    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        index: usize,
        layer: &Layer<'_>,
        pos: usize,
        n: usize,
        cache: &mut Cache,
        rope: &Rope,
        b: &mut Buffers,
    ) {
        let c = &self.config;
        self.norm_input(&b.x, &layer.attn_norm, &mut b.input);
        self.product(&layer.attn_q, &mut b.input, &mut b.q);
        self.product(&layer.attn_k, &mut b.input, &mut b.k);
        self.product(&layer.attn_v, &mut b.input, &mut b.v);
        rope.apply(&mut b.q);
        rope.apply(&mut b.k);
        cache.k.push(&b.k);
        cache.v.push(&b.v);
        let attention = Attention {
            n_head: c.n_head,
            n_head_kv: c.n_head_kv,
            head_dim: c.head_dim,
            scale: c.attn_scale,
            softcap: c.attn_softcap,
            window: if c.is_local(index) { c.sliding_window } else { usize::MAX },
        };
        b.input.fill(n, c.n_embd_q(), |out| attention.run(pos, &b.q, &cache.k, &cache.v, out));
        self.product(&layer.attn_output, &mut b.input, &mut b.delta);
        self.add_normed(&mut b.x, &b.delta, &layer.post_attention_norm);
    }

    fn feed_forward(&self, layer: &Layer<'_>, n: usize, b: &mut Buffers) {
        let n_ff = self.config.n_ff;
        self.norm_input(&b.x, &layer.ffn_norm, &mut b.input);
        self.product(&layer.ffn_gate, &mut b.input, &mut b.gate);
        self.product(&layer.ffn_up, &mut b.input, &mut b.up);
        b.input.fill(n, n_ff, |out| {
            let rows = out.par_chunks_mut(n_ff).zip(b.gate.par_chunks(n_ff));
            rows.zip(b.up.par_chunks(n_ff)).for_each(|((out, gate), up)| geglu(gate, up, out));
        });
        self.product(&layer.ffn_down, &mut b.input, &mut b.delta);
        self.add_normed(&mut b.x, &b.delta, &layer.post_ffw_norm);
    }

    /// Logits of the rows of the slice from `first` on, a few rows at a time.
    fn head(&self, b: &mut Buffers, first: usize, sink: &mut dyn FnMut(usize, &mut [f32])) {
        let c = &self.config;
        for (i, x) in b.x[first * c.n_embd..].chunks(LOGIT_ROWS * c.n_embd).enumerate() {
            self.norm_input(x, &self.weights.output_norm, &mut b.input);
            self.product(&self.weights.output, &mut b.input, &mut b.logits);
            for (j, logits) in b.logits.chunks_exact_mut(c.n_vocab).enumerate() {
                if let Some(cap) = c.final_softcap {
                    logits.par_iter_mut().for_each(|x| *x = softcap(*x, cap));
                }
                sink(first + i * LOGIT_ROWS + j, logits);
            }
        }
    }

    fn product(&self, w: &Matrix<'_>, input: &mut Activations, out: &mut Vec<f32>) {
        out.resize(input.n() * w.rows(), 0.0);
        self.team.matmul(w, input, out);
    }

    fn norm_input(&self, x: &[f32], weight: &[f32], input: &mut Activations) {
        let (d, eps) = (weight.len(), self.config.rms_eps);
        input.fill(x.len() / d, d, |out| {
            let rows = out.par_chunks_mut(d).zip(x.par_chunks(d));
            rows.for_each(|(out, x)| rms_norm(x, weight, eps, out));
        });
    }

    /// `x += norm(delta)`.
    fn add_normed(&self, x: &mut [f32], delta: &[f32], weight: &[f32]) {
        let (d, eps) = (weight.len(), self.config.rms_eps);
        let rows = x.par_chunks_mut(d).zip(delta.par_chunks(d));
        rows.for_each_init(
            || vec![0.0; d],
            |normed, (x, delta)| {
                rms_norm(delta, weight, eps, normed);
                add(x, normed);
            },
        );
    }
}
