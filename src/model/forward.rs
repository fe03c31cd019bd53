//! The forward pass.
//!
//! x → norm → q, k, v → RoPE → attention → output → norm → + → norm → GeGLU → down → norm → +, for
//! each layer; then a final norm, the output matrix and the final softcap. A layer's
//! [`LayerSpec`] says which of the norms it has, its attention window and its
//! RoPE.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;

use super::batch::{last_rows, n_rows, BatchEntry};
use super::observer::{Observer, Readers};
use super::read_ahead::ReadAhead;
use super::state::{Cache, Workspace, LOGIT_ROWS};
use super::weights::{Layer, Weights};
use super::{Config, LayerSpec, ModelError, Sequence, Source, State, TensorKind};
use crate::kernels::{all_finite, refit, Attention, CausalRange, Cpu, Isa, Product};

/// A model that is ready to run: its configuration, its weights, and the CPU that it runs on.
#[derive(Debug)]
pub struct Model<'a> {
    path: PathBuf,
    pub(super) config: Config,
    pub(super) weights: Weights<'a>,
    pub(super) cpu: Cpu,
    read_ahead: ReadAhead,
}

/// Positions whose logits are wanted, of those that a call evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// Those from this index on.
    From(usize),
    /// The last one.
    Last,
}

impl<'a> Model<'a> {
    /// Copies the norms; the matrices stay in the mapped file. `threads` is the number of threads,
    /// or `None` for one per physical core. The instruction set is the best of this machine.
    ///
    /// # Errors
    /// If the threads cannot be started, or a norm has values that are NaN or infinite.
    pub fn load(source: &'a Source, threads: Option<usize>) -> Result<Self, ModelError> {
        let cpu = Cpu::new(threads.and_then(NonZeroUsize::new), Isa::best())?;
        Self::on(cpu, source)
    }

    /// The same, on `cpu`.
    ///
    /// # Errors
    /// If a norm has values that are NaN or infinite.
    pub fn on(cpu: Cpu, source: &'a Source) -> Result<Self, ModelError> {
        let weights = Weights::new(source)?;
        let read_ahead = ReadAhead::start(source, &weights);
        let (path, config) = (source.path().to_owned(), source.config().clone());
        Ok(Self { path, config, weights, cpu, read_ahead })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights<'a> {
        &self.weights
    }

    /// Number of threads it runs on.
    pub fn threads(&self) -> usize {
        self.cpu.threads()
    }

    /// The CPU that it runs on, which can also do other work between two passes.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Whether the output matrix is the embedding or a matrix of its own.
    pub fn output_kind(&self) -> TensorKind {
        self.weights.output_kind
    }

    /// The instruction set that it runs on.
    pub fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    /// Evaluates `tokens` after those that `state` holds. Calls `sink` for each wanted row, in
    /// order, with its index among `tokens` and its logits, `[n_vocab]`.
    ///
    /// # Errors
    /// If there are no tokens, if one is outside the vocabulary, or if they do not fit the context;
    /// nothing has been evaluated then. Also if values are NaN or infinite; such logits are not
    /// passed to `sink`.
    pub fn forward(
        &self,
        state: &mut State,
        tokens: &[u32],
        rows: Rows,
        mut sink: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), ModelError> {
        self.check(&state.sequence, tokens)?;
        let first = match rows {
            Rows::All => 0,
            Rows::From(row) => row,
            Rows::Last => tokens.len().saturating_sub(1),
        };
        let n_ubatch = state.options().n_ubatch;
        for (i, tokens) in tokens.chunks(n_ubatch).enumerate() {
            self.ubatch(state, tokens, &mut ())?;
            let at = i * n_ubatch;
            let start = first.saturating_sub(at).min(tokens.len());
            for rows in logit_blocks(start..tokens.len()) {
                let logits = self.logits(state, rows.clone())?;
                for (row, logits) in rows.zip(logits.chunks_exact_mut(self.config.n_vocab)) {
                    sink(at + row, logits);
                }
            }
        }
        Ok(())
    }

    /// Evaluates `tokens`, at most a ubatch, after those that `state` holds.
    /// [`logits`](Self::logits) then gives the logits of any of them. If tokens are refused,
    /// nothing has been evaluated.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there are more tokens than a ubatch.
    pub fn evaluate(&self, state: &mut State, tokens: &[u32]) -> Result<(), ModelError> {
        assert!(
            tokens.len() <= state.options().n_ubatch,
            "more tokens than are evaluated together"
        );
        self.check(&state.sequence, tokens)?;
        self.ubatch(state, tokens, &mut ())
    }

    /// The logits of `rows` of the last ubatch, `[rows, n_vocab]`. The caller may change them.
    /// [`logit_blocks`] splits a range into blocks that fit in memory.
    ///
    /// # Errors
    /// If one of them is NaN or infinite.
    ///
    /// # Panics
    /// If `rows` is empty, or the ubatch has fewer rows.
    pub fn logits<'s>(
        &self,
        state: &'s mut State,
        rows: Range<usize>,
    ) -> Result<&'s mut [f32], ModelError> {
        self.output(&mut state.work, rows)
    }

    /// The logits of some rows of the last pass, `[rows, n_vocab]`.
    pub(super) fn output<'s>(
        &self,
        work: &'s mut Workspace,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Result<&'s mut [f32], ModelError> {
        assert!(rows.len() > 0, "the logits of no rows");
        let (c, b) = (&self.config, &mut work.buffers);
        self.cpu.rms_norm(&b.x, rows, &self.weights.output_norm, c.rms_eps, &mut b.input);
        self.cpu.matmul(&mut b.input, [Product { w: &self.weights.output, out: &mut b.logits }]);
        match self.cpu.softcap(&mut b.logits, c.final_softcap) {
            true => Ok(&mut b.logits),
            false => Err(self.not_finite()),
        }
    }

    pub(super) fn not_finite(&self) -> ModelError {
        ModelError::NotFinite { path: self.path.clone() }
    }

    /// The logits of the last of `tokens`, `[n_vocab]`. The caller may change them.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_last<'s>(
        &self,
        state: &'s mut State,
        tokens: &[u32],
    ) -> Result<&'s mut [f32], ModelError> {
        self.forward(state, tokens, Rows::Last, |_, _| ())?;
        Ok(&mut state.work.buffers.logits)
    }

    /// Evaluates `tokens` after those that `state` holds, in ubatches, and shows `observer` the
    /// activations. Logits are not computed, but the input of the output matrix is shown for every
    /// position.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward). What was shown before the error is of no use.
    pub fn observe(
        &self,
        state: &mut State,
        tokens: &[u32],
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        self.check(&state.sequence, tokens)?;
        for tokens in tokens.chunks(state.options().n_ubatch) {
            self.ubatch(state, tokens, observer)?;
            self.observe_output(&mut state.work, tokens.len(), observer);
        }
        Ok(())
    }

    /// Shows the rows that the output matrix would be multiplied with.
    pub(super) fn observe_output(
        &self,
        work: &mut Workspace,
        n: usize,
        observer: &mut dyn Observer,
    ) {
        let (b, w) = (&mut work.buffers, &self.weights);
        self.cpu.rms_norm(&b.x, 0..n, &w.output_norm, self.config.rms_eps, &mut b.input);
        observer.inputs(Readers::Output(w.output_kind), &b.input);
    }

    pub(super) fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::NoTokens);
        }
        let (needed, n_ctx) = (sequence.len + tokens.len(), sequence.options.n_ctx);
        if needed > n_ctx {
            return Err(ModelError::ContextFull { needed, n_ctx });
        }
        let n_vocab = self.config.n_vocab;
        match tokens.iter().find(|id| **id as usize >= n_vocab) {
            Some(id) => Err(ModelError::Token { id: *id, n_vocab }),
            None => Ok(()),
        }
    }

    fn ubatch(
        &self,
        state: &mut State,
        tokens: &[u32],
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let State { sequence, work } = state;
        self.layers(work, &mut [BatchEntry { sequence, tokens }], observer)
    }

    /// Computes the residual stream after the last layer from the tokens, and leaves it in the
    /// buffer `x`, with the rows of all entries in order.
    ///
    /// Quantized activations cannot represent NaN, so values are checked before they are quantized:
    /// all values of the residual stream, and of the other activations the last position of each
    /// entry. That is enough, because a row of weights that is not finite spoils every position.
    pub(super) fn layers(
        &self,
        work: &mut Workspace,
        batch: &mut [BatchEntry<'_>],
        observer: &mut dyn Observer,
    ) -> Result<(), ModelError> {
        let (c, x) = (&self.config, &mut work.buffers.x);
        let tokens: Vec<u32> = batch.iter().flat_map(|entry| entry.tokens).copied().collect();
        refit(x, tokens.len() * c.n_embd, 0.0);
        self.cpu.embed(&self.weights.token_embd, &tokens, c.embd_scale, x);
        observer.stream(0, x);
        let positions: Vec<usize> = batch.iter().flat_map(BatchEntry::positions).collect();
        work.ropes.prepare(positions.iter().copied());
        let mut finite = true;
        for i in 0..self.weights.layers.len() {
            finite &= self.layer(i, &self.weights.layers[i], batch, work, observer);
        }
        self.read_ahead.reached(self.weights.layers.len());
        for entry in batch {
            entry.sequence.len += entry.tokens.len();
        }
        match finite && all_finite(&work.buffers.x) {
            true => Ok(()),
            false => Err(self.not_finite()),
        }
    }

    /// Adds what a layer gives to the residual stream. Returns whether the values at the last positions
    /// are finite.
    pub(super) fn layer(
        &self,
        index: usize,
        layer: &Layer<'_>,
        batch: &mut [BatchEntry<'_>],
        work: &mut Workspace,
        observer: &mut dyn Observer,
    ) -> bool {
        self.read_ahead.reached(index);
        let mut finite = self.attention(index, layer, batch, work, observer);
        observer.stream(2 * index + 1, &work.buffers.x);
        finite &= self.feed_forward(index, layer, batch, work, observer);
        observer.stream(2 * index + 2, &work.buffers.x);
        finite
    }

    /// Returns whether the values at the last positions are finite.
    pub(super) fn attention(
        &self,
        index: usize,
        layer: &Layer<'_>,
        batch: &mut [BatchEntry<'_>],
        work: &mut Workspace,
        observer: &mut dyn Observer,
    ) -> bool {
        let (c, spec, cpu) = (&self.config, &self.config.layers[index], &self.cpu);
        let Workspace { buffers: b, ropes } = work;
        let (n, q_row, kv_row) = (n_rows(batch), c.n_embd_q(), c.n_embd_kv());
        cpu.rms_norm(&b.x, 0..n, &layer.attn_norm, c.rms_eps, &mut b.input);
        observer.inputs(Readers::AttnIn(index), &b.input);
        let products = [
            Product { w: &layer.attn_q, out: &mut b.q },
            Product { w: &layer.attn_k, out: &mut b.k },
            Product { w: &layer.attn_v, out: &mut b.v },
        ];
        cpu.matmul(&mut b.input, products);
        for (x, norm) in [(&mut b.q, &layer.attn_q_norm), (&mut b.k, &layer.attn_k_norm)] {
            if let Some(norm) = norm {
                cpu.rms_norm_heads(x, n, norm, c.rms_eps);
            }
        }
        cpu.rope(ropes.of(spec), n, &mut b.q, &mut b.k);
        let attention = self.attention_of(spec);
        let mut row = 0;
        for BatchEntry { sequence, tokens } in &mut *batch {
            let Cache { k, v, .. } = &mut sequence.cache[index];
            let rows = row * kv_row..(row + tokens.len()) * kv_row;
            k.push(cpu, &b.k[rows.clone()]);
            v.push(cpu, &b.v[rows]);
            row += tokens.len();
        }
        let ranges: Vec<CausalRange<'_>> =
            batch.iter().map(|entry| entry.causal_range(index)).collect();
        b.inner.fill(n, q_row, |out| {
            attention.run(cpu, &ranges, &b.q, &mut b.partials, out);
        });
        observer.inputs(Readers::AttnOut(index), &b.inner);
        cpu.matmul(&mut b.inner, [Product { w: &layer.attn_output, out: &mut b.delta }]);
        self.add(&mut b.x, &b.delta, layer.post_attention_norm.as_deref());
        let looked_at = [b.q.as_slice(), &b.k, &b.v, b.inner.x()];
        looked_at.iter().all(|x| last_rows(batch, x).all(all_finite))
    }

    /// The shape of the attention of a layer.
    pub(super) fn attention_of(&self, spec: &LayerSpec) -> Attention {
        let c = &self.config;
        Attention {
            n_head: c.n_head,
            n_head_kv: c.n_head_kv,
            head_dim: c.head_dim,
            scale: c.attn_scale,
            softcap: spec.softcap,
            window: spec.window.unwrap_or(usize::MAX),
        }
    }

    /// Returns whether the values at the last positions are finite.
    fn feed_forward(
        &self,
        index: usize,
        layer: &Layer<'_>,
        batch: &[BatchEntry<'_>],
        work: &mut Workspace,
        observer: &mut dyn Observer,
    ) -> bool {
        let (c, n, b) = (&self.config, n_rows(batch), &mut work.buffers);
        self.cpu.rms_norm(&b.x, 0..n, &layer.ffn_norm, c.rms_eps, &mut b.input);
        observer.inputs(Readers::FfnIn(index), &b.input);
        b.inner.fill(n, c.n_ff, |out| {
            self.cpu.gated(&mut b.input, &layer.ffn_gate, &layer.ffn_up, out);
        });
        observer.inputs(Readers::FfnOut(index), &b.inner);
        self.cpu.matmul(&mut b.inner, [Product { w: &layer.ffn_down, out: &mut b.delta }]);
        self.add(&mut b.x, &b.delta, layer.post_ffw_norm.as_deref());
        last_rows(batch, b.inner.x()).all(all_finite)
    }

    /// Adds `delta` to the residual stream `x`, after its norm if it has one.
    fn add(&self, x: &mut [f32], delta: &[f32], norm: Option<&[f32]>) {
        match norm {
            Some(norm) => self.cpu.add_rms_norm(x, delta, norm, self.config.rms_eps),
            None => self.cpu.add(x, delta),
        }
    }
}

/// Splits `rows` into blocks whose logits are computed together.
pub fn logit_blocks(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(LOGIT_ROWS).map(move |start| start..end.min(start + LOGIT_ROWS))
}
