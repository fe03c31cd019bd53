//! The weights of a model, which are only read: matrices in the mapped file, and copies of the
//! norms.

use std::collections::HashMap;

use super::source::{Source, SourceError};
use super::tensors::{TensorKind, TensorSpec};
use crate::kernels::Matrix;

/// The weights of a model; the matrices borrow the mapped file.
#[derive(Debug)]
pub struct Weights<'a> {
    /// `[n_vocab, n_embd]`
    pub token_embd: Matrix<'a>,
    /// The weights of each layer.
    pub layers: Vec<Layer<'a>>,
    /// `[n_embd]`
    pub output_norm: Vec<f32>,
    /// `[n_vocab, n_embd]`: the embedding again, unless the model has an output matrix of its own.
    pub output: Matrix<'a>,
    /// Whether `output` is the embedding or a matrix of its own.
    pub output_kind: TensorKind,
}

/// The weights of one layer. Norms are multipliers (1 + w), `[n_embd]` unless stated otherwise.
/// Norms that the layer's [`LayerSpec`](super::LayerSpec) does not ask for are `None`.
#[derive(Debug)]
pub struct Layer<'a> {
    /// Before attention.
    pub attn_norm: Vec<f32>,
    /// `[n_head * head_dim, n_embd]`
    pub attn_q: Matrix<'a>,
    /// `[n_head_kv * head_dim, n_embd]`
    pub attn_k: Matrix<'a>,
    /// `[n_head_kv * head_dim, n_embd]`
    pub attn_v: Matrix<'a>,
    /// Norm of each head's query, before RoPE: `[head_dim]`
    pub attn_q_norm: Option<Vec<f32>>,
    /// Norm of each head's key, before RoPE: `[head_dim]`
    pub attn_k_norm: Option<Vec<f32>>,
    /// `[n_embd, n_head * head_dim]`
    pub attn_output: Matrix<'a>,
    /// After attention, before the result is added to the residual stream.
    pub post_attention_norm: Option<Vec<f32>>,
    /// Before the feed-forward layer.
    pub ffn_norm: Vec<f32>,
    /// `[n_ff, n_embd]`
    pub ffn_gate: Matrix<'a>,
    /// `[n_ff, n_embd]`
    pub ffn_up: Matrix<'a>,
    /// `[n_embd, n_ff]`
    pub ffn_down: Matrix<'a>,
    /// After the feed-forward layer, before the result is added to the residual stream.
    pub post_ffw_norm: Option<Vec<f32>>,
}

impl<'a> Layer<'a> {
    /// A layer with the same norms and other matrices: those that `matrix` has of each kind.
    pub fn with_matrices<'b>(&self, matrix: impl Fn(TensorKind) -> Matrix<'b>) -> Layer<'b> {
        use TensorKind::*;
        Layer {
            attn_norm: self.attn_norm.clone(),
            attn_q: matrix(AttnQ),
            attn_k: matrix(AttnK),
            attn_v: matrix(AttnV),
            attn_q_norm: self.attn_q_norm.clone(),
            attn_k_norm: self.attn_k_norm.clone(),
            attn_output: matrix(AttnOutput),
            post_attention_norm: self.post_attention_norm.clone(),
            ffn_norm: self.ffn_norm.clone(),
            ffn_gate: matrix(FfnGate),
            ffn_up: matrix(FfnUp),
            ffn_down: matrix(FfnDown),
            post_ffw_norm: self.post_ffw_norm.clone(),
        }
    }

    /// The matrices in the order in which a pass uses them.
    pub fn matrices(&self) -> [&Matrix<'a>; 7] {
        let Self { attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, .. } = self;
        [attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down]
    }
}

impl<'a> Weights<'a> {
    /// The weights of an opened model, whose tensors were checked when it was opened.
    ///
    /// # Errors
    /// If a norm has values that are NaN or infinite. Matrices are not checked, because that would
    /// read the whole file.
    pub fn new(source: &'a Source) -> Result<Self, SourceError> {
        use TensorKind::*;
        let specs: HashMap<(TensorKind, Option<usize>), &TensorSpec> =
            source.tensors().iter().map(|spec| ((spec.kind, spec.layer), spec)).collect();
        let matrix = |kind, layer| Matrix::new(source.tensor(specs[&(kind, layer)]));
        let layer = |i: usize| {
            let matrix = |kind| matrix(kind, Some(i));
            let norm = |kind| source.norm(specs[&(kind, Some(i))]);
            let norm_if_there =
                |kind| specs.get(&(kind, Some(i))).map(|spec| source.norm(spec)).transpose();
            Ok(Layer {
                attn_norm: norm(AttnNorm)?,
                attn_q: matrix(AttnQ),
                attn_k: matrix(AttnK),
                attn_v: matrix(AttnV),
                attn_q_norm: norm_if_there(AttnQNorm)?,
                attn_k_norm: norm_if_there(AttnKNorm)?,
                attn_output: matrix(AttnOutput),
                post_attention_norm: norm_if_there(PostAttentionNorm)?,
                ffn_norm: norm(FfnNorm)?,
                ffn_gate: matrix(FfnGate),
                ffn_up: matrix(FfnUp),
                ffn_down: matrix(FfnDown),
                post_ffw_norm: norm_if_there(PostFfwNorm)?,
            })
        };
        let output_kind = source.output_kind();
        Ok(Self {
            token_embd: matrix(TokenEmbd, None),
            layers: (0..source.config().n_layer())
                .map(layer)
                .collect::<Result<_, SourceError>>()?,
            output_norm: source.norm(specs[&(OutputNorm, None)])?,
            output: matrix(output_kind, None),
            output_kind,
        })
    }
}
