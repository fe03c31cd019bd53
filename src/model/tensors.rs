//! The tensors of a model: their kinds, their names in GGUF and in transformers, and their shapes.

use lapidary_formats::quant::QuantType;

use super::Config;

/// The purpose of a tensor. A kind that belongs to a layer occurs once in each layer that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TensorKind {
    /// The embedding. It is also the output matrix, unless there is a tensor of kind
    /// [`Output`](Self::Output).
    TokenEmbd,
    /// The norm before attention.
    AttnNorm,
    /// Queries.
    AttnQ,
    /// Keys.
    AttnK,
    /// Values.
    AttnV,
    /// The norm of each head's query.
    AttnQNorm,
    /// The norm of each head's key.
    AttnKNorm,
    /// From the attention heads back to the residual stream.
    AttnOutput,
    /// The norm after attention, before the result is added to the residual stream.
    PostAttentionNorm,
    /// The norm before feed-forward.
    FfnNorm,
    /// The gate, whose activation is multiplied with the output of [`FfnUp`](Self::FfnUp).
    FfnGate,
    /// From the residual stream to the width of feed-forward.
    FfnUp,
    /// From the width of feed-forward back to the residual stream.
    FfnDown,
    /// The norm after feed-forward, before the result is added to the residual stream.
    PostFfwNorm,
    /// The norm before the output matrix.
    OutputNorm,
    /// The output matrix of a model that does not share it with the embedding.
    Output,
}

/// What kind of values a tensor holds, which decides how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// RMSNorm weights: always F32. GGUF files hold the multiplier 1 + w, checkpoints w
    /// ([llama.cpp#5631](https://github.com/ggml-org/llama.cpp/issues/5631)).
    Norm,
    /// A matrix, of any type.
    Matrix,
}

impl TensorKind {
    /// The stem of its name in GGUF files, such as `attn_q`.
    pub fn stem(self) -> &'static str {
        match self {
            Self::TokenEmbd => "token_embd",
            Self::AttnNorm => "attn_norm",
            Self::AttnQ => "attn_q",
            Self::AttnK => "attn_k",
            Self::AttnV => "attn_v",
            Self::AttnQNorm => "attn_q_norm",
            Self::AttnKNorm => "attn_k_norm",
            Self::AttnOutput => "attn_output",
            Self::PostAttentionNorm => "post_attention_norm",
            Self::FfnNorm => "ffn_norm",
            Self::FfnGate => "ffn_gate",
            Self::FfnUp => "ffn_up",
            Self::FfnDown => "ffn_down",
            Self::PostFfwNorm => "post_ffw_norm",
            Self::OutputNorm => "output_norm",
            Self::Output => "output",
        }
    }

    /// Its name in GGUF files: `token_embd.weight`, or in a layer `blk.3.attn_q.weight`.
    ///
    /// ```
    /// use lapidary::model::TensorKind;
    /// assert_eq!(TensorKind::AttnQ.name(Some(3)), "blk.3.attn_q.weight");
    /// assert_eq!(TensorKind::TokenEmbd.name(None), "token_embd.weight");
    /// ```
    pub fn name(self, layer: Option<usize>) -> String {
        match layer {
            Some(layer) => format!("blk.{layer}.{}.weight", self.stem()),
            None => format!("{}.weight", self.stem()),
        }
    }

    /// How it is stored.
    pub fn role(self) -> Role {
        match self {
            Self::AttnNorm
            | Self::AttnQNorm
            | Self::AttnKNorm
            | Self::PostAttentionNorm
            | Self::FfnNorm
            | Self::PostFfwNorm
            | Self::OutputNorm => Role::Norm,
            _ => Role::Matrix,
        }
    }
}

/// A tensor that a model of a certain configuration has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its purpose.
    pub kind: TensorKind,
    /// The layer it belongs to, if any.
    pub layer: Option<usize>,
    /// GGUF's name, such as `blk.3.attn_q.weight`.
    pub name: String,
    /// transformers' name in a text-only model, such as `model.layers.3.self_attn.q_proj.weight`.
    pub hf_name: String,
    /// Innermost dimension first: `[cols, rows]`, or `[n]` for a norm.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// How it is stored.
    pub fn role(&self) -> Role {
        self.kind.role()
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.shape[0]
    }

    /// Number of rows; 1 for a norm.
    pub fn rows(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its size in bytes if it is stored as `ty`.
    ///
    /// # Panics
    /// If its rows are not whole blocks of `ty`.
    pub fn bytes(&self, ty: QuantType) -> u64 {
        let row = ty.row_bytes(self.cols()).expect("rows are whole blocks of the type");
        (self.rows() * row) as u64
    }
}

/// The tensors of one layer, in the order in which they are written: kind, transformers' name,
/// shape.
fn of_layer(c: &Config, layer: usize) -> Vec<(TensorKind, &'static str, Vec<usize>)> {
    use TensorKind::*;
    let (d, f, q, kv, head) = (c.n_embd, c.n_ff, c.n_embd_q(), c.n_embd_kv(), c.head_dim);
    let spec = &c.layers[layer];
    let mut all = vec![
        (AttnNorm, "input_layernorm", vec![d]),
        (AttnQ, "self_attn.q_proj", vec![d, q]),
        (AttnK, "self_attn.k_proj", vec![d, kv]),
        (AttnV, "self_attn.v_proj", vec![d, kv]),
    ];
    if spec.qk_norm {
        all.push((AttnQNorm, "self_attn.q_norm", vec![head]));
        all.push((AttnKNorm, "self_attn.k_norm", vec![head]));
    }
    all.push((AttnOutput, "self_attn.o_proj", vec![q, d]));
    if spec.post_norms {
        all.push((PostAttentionNorm, "post_attention_layernorm", vec![d]));
    }
    all.extend([
        (FfnNorm, c.architecture.row().ffn_norm, vec![d]),
        (FfnGate, "mlp.gate_proj", vec![d, f]),
        (FfnUp, "mlp.up_proj", vec![d, f]),
        (FfnDown, "mlp.down_proj", vec![f, d]),
    ]);
    if spec.post_norms {
        all.push((PostFfwNorm, "post_feedforward_layernorm", vec![d]));
    }
    all
}

/// All tensors of a model, in the order in which they are written. `untied` says whether the model
/// has an output matrix of its own, which then comes last.
pub fn tensors(c: &Config, untied: bool) -> Vec<TensorSpec> {
    use TensorKind::{Output, OutputNorm, TokenEmbd};
    let whole = |kind: TensorKind, hf_name: &str, shape| TensorSpec {
        kind,
        layer: None,
        name: kind.name(None),
        hf_name: hf_name.to_owned(),
        shape,
    };
    let mut all = vec![whole(TokenEmbd, "model.embed_tokens.weight", vec![c.n_embd, c.n_vocab])];
    for layer in 0..c.n_layer() {
        all.extend(of_layer(c, layer).into_iter().map(|(kind, hf_name, shape)| TensorSpec {
            kind,
            layer: Some(layer),
            name: kind.name(Some(layer)),
            hf_name: format!("model.layers.{layer}.{hf_name}.weight"),
            shape,
        }));
    }
    all.push(whole(OutputNorm, "model.norm.weight", vec![c.n_embd]));
    if untied {
        all.push(whole(Output, "lm_head.weight", vec![c.n_embd, c.n_vocab]));
    }
    all
}
