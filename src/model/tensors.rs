//! The tensors of a Gemma 2 model: GGUF's names, Hugging Face's names, shapes.

use lapidary_formats::quant::QuantType;

use super::Config;

/// What a tensor is used for, which decides how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// RMSNorm weights: always F32. GGUF files hold the multiplier 1 + w, checkpoints w
    /// ([llama.cpp#5631](https://github.com/ggml-org/llama.cpp/issues/5631)).
    Norm,
    /// A matrix, in any type.
    Matrix,
}

/// A tensor that a model of some configuration has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// GGUF's name, such as `blk.3.attn_q.weight`.
    pub name: String,
    /// Hugging Face's name, such as `model.layers.3.self_attn.q_proj.weight`.
    pub hf_name: String,
    /// Innermost dimension first: `[cols, rows]`, or `[n]` for a norm.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// The layer it belongs to, if any.
    pub layer: Option<usize>,
}

impl TensorSpec {
    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its size as blocks of `ty`, in bytes.
    ///
    /// # Panics
    /// If its rows are no whole blocks.
    pub fn bytes(&self, ty: QuantType) -> u64 {
        let row = ty.row_bytes(self.shape[0]).expect("rows are whole blocks of the type");
        (self.shape[1..].iter().product::<usize>() * row) as u64
    }
}

/// The embedding, which is the head as well unless [`OUTPUT`] is there.
pub const TOKEN_EMBD: &str = "token_embd.weight";
/// The final norm.
pub const OUTPUT_NORM: &str = "output_norm.weight";
/// The head of a fine-tune that untied it.
pub const OUTPUT: &str = "output.weight";

/// GGUF's name of a tensor of layer `layer`, such as `attn_q`.
pub fn block_name(layer: usize, tensor: &str) -> String {
    format!("blk.{layer}.{tensor}.weight")
}

/// Every tensor of a model, in the order in which they are written; the untied head comes last.
pub fn tensors(c: &Config, untied: bool) -> Vec<TensorSpec> {
    use Role::{Matrix, Norm};
    let (d, f, q, kv) = (c.n_embd, c.n_ff, c.n_embd_q(), c.n_embd_kv());
    let per_layer: [(&str, &str, Role, Vec<usize>); 11] = [
        ("attn_norm", "input_layernorm", Norm, vec![d]),
        ("attn_q", "self_attn.q_proj", Matrix, vec![d, q]),
        ("attn_k", "self_attn.k_proj", Matrix, vec![d, kv]),
        ("attn_v", "self_attn.v_proj", Matrix, vec![d, kv]),
        ("attn_output", "self_attn.o_proj", Matrix, vec![q, d]),
        ("post_attention_norm", "post_attention_layernorm", Norm, vec![d]),
        ("ffn_norm", "pre_feedforward_layernorm", Norm, vec![d]),
        ("ffn_gate", "mlp.gate_proj", Matrix, vec![d, f]),
        ("ffn_up", "mlp.up_proj", Matrix, vec![d, f]),
        ("ffn_down", "mlp.down_proj", Matrix, vec![f, d]),
        ("post_ffw_norm", "post_feedforward_layernorm", Norm, vec![d]),
    ];
    let whole = |name: &str, hf_name: &str, role, shape| TensorSpec {
        name: name.to_owned(),
        hf_name: hf_name.to_owned(),
        shape,
        role,
        layer: None,
    };
    let mut all = vec![whole(TOKEN_EMBD, "model.embed_tokens.weight", Matrix, vec![d, c.n_vocab])];
    for layer in 0..c.n_layer {
        all.extend(per_layer.iter().map(|(name, hf_name, role, shape)| TensorSpec {
            name: block_name(layer, name),
            hf_name: format!("model.layers.{layer}.{hf_name}.weight"),
            shape: shape.clone(),
            role: *role,
            layer: Some(layer),
        }));
    }
    all.push(whole(OUTPUT_NORM, "model.norm.weight", Norm, vec![d]));
    if untied {
        all.push(whole(OUTPUT, "lm_head.weight", Matrix, vec![d, c.n_vocab]));
    }
    all
}
