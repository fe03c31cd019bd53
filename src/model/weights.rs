//! What a model reads and never writes: matrices in the mapped file, norms copied out of it.

use std::collections::HashMap;

use super::source::{Source, SourceError};
use super::tensors::{block_name, TensorSpec, OUTPUT, OUTPUT_NORM, TOKEN_EMBD};
use crate::kernels::Matrix;

/// The weights of a model; the matrices borrow the mapped file.
#[derive(Debug)]
pub struct Weights<'a> {
    /// `[n_vocab, n_embd]`
    pub token_embd: Matrix<'a>,
    /// By layer.
    pub layers: Vec<Layer<'a>>,
    /// `[n_embd]`
    pub output_norm: Vec<f32>,
    /// `[n_vocab, n_embd]`: the embedding again, unless the model has a head of its own.
    pub output: Matrix<'a>,
    /// The name of `output` in a GGUF file.
    pub output_name: &'static str,
}

/// The weights of one layer. Norms are multipliers (1 + w), `[n_embd]`.
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
    /// `[n_embd, n_head * head_dim]`
    pub attn_output: Matrix<'a>,
    /// After attention, before it is added.
    pub post_attention_norm: Vec<f32>,
    /// Before the feed-forward layer.
    pub ffn_norm: Vec<f32>,
    /// `[n_ff, n_embd]`
    pub ffn_gate: Matrix<'a>,
    /// `[n_ff, n_embd]`
    pub ffn_up: Matrix<'a>,
    /// `[n_embd, n_ff]`
    pub ffn_down: Matrix<'a>,
    /// After the feed-forward layer, before it is added.
    pub post_ffw_norm: Vec<f32>,
}

impl<'a> Layer<'a> {
    /// The matrices, in the order of their use.
    pub fn matrices(&self) -> [&Matrix<'a>; 7] {
        let Self { attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, .. } = self;
        [attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down]
    }
}

impl<'a> Weights<'a> {
    /// The weights of an opened model, whose tensors were checked when it was opened.
    ///
    /// # Errors
    /// If a norm has values that are NaN or infinite. Matrices are not looked at, as that would read
    /// the whole file.
    pub fn new(source: &'a Source) -> Result<Self, SourceError> {
        let specs: HashMap<&str, &TensorSpec> =
            source.tensors().iter().map(|t| (t.name.as_str(), t)).collect();
        let find = |name: &str| specs[name];
        let matrix = |name: &str| Matrix::new(source.tensor(find(name)));
        let layer = |i: usize| {
            let matrix = |tensor: &str| matrix(&block_name(i, tensor));
            let norm = |tensor: &str| source.norm(find(&block_name(i, tensor)));
            Ok(Layer {
                attn_norm: norm("attn_norm")?,
                attn_q: matrix("attn_q"),
                attn_k: matrix("attn_k"),
                attn_v: matrix("attn_v"),
                attn_output: matrix("attn_output"),
                post_attention_norm: norm("post_attention_norm")?,
                ffn_norm: norm("ffn_norm")?,
                ffn_gate: matrix("ffn_gate"),
                ffn_up: matrix("ffn_up"),
                ffn_down: matrix("ffn_down"),
                post_ffw_norm: norm("post_ffw_norm")?,
            })
        };
        let output_name = if source.is_untied() { OUTPUT } else { TOKEN_EMBD };
        Ok(Self {
            token_embd: matrix(TOKEN_EMBD),
            layers: (0..source.config().n_layer).map(layer).collect::<Result<_, SourceError>>()?,
            output_norm: source.norm(find(OUTPUT_NORM))?,
            output: matrix(output_name),
            output_name,
        })
    }
}
