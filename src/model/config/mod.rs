//! The configuration of a model: sizes, constants, and what each layer does. It is read from
//! `config.json` (`checkpoint`) or from GGUF metadata (`gguf`), and checked in this file.

mod checkpoint;
pub(super) mod error;
mod gguf;
mod keys;

pub use error::ConfigError;

use super::architecture::{Architecture, LayerSpec};
use crate::kernels::RopeSpec;

/// Sizes and constants of one model. Names are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture.
    pub architecture: Architecture,
    /// The model's name, for display.
    pub name: String,
    /// Number of pieces in the vocabulary.
    pub n_vocab: usize,
    /// Longest context that the model was trained for, in tokens.
    pub n_ctx_train: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of feed-forward.
    pub n_ff: usize,
    /// Number of query heads.
    pub n_head: usize,
    /// Number of key/value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// RMSNorm's epsilon.
    pub rms_eps: f32,
    /// Factor of the embedding of each token: [`root_of_width`](Self::root_of_width), unless the file
    /// has another.
    pub embd_scale: f32,
    /// Multiplies q·k: 1/√`query_pre_attn_scalar`.
    pub attn_scale: f32,
    /// Logits are limited to ± this value by the softcap, if given.
    pub final_softcap: Option<f32>,
    /// What each layer does.
    pub layers: Vec<LayerSpec>,
}

/// Which names an error uses for values: those of `config.json` or those of GGUF.
#[derive(Clone, Copy)]
enum Keys {
    Checkpoint,
    Gguf,
}

impl Keys {
    /// The name of a value. `gguf` is the GGUF key without the architecture's prefix.
    fn name(self, architecture: Architecture, hf: &str, gguf: &str) -> String {
        match self {
            Self::Checkpoint => hf.to_owned(),
            Self::Gguf => format!("{}.{gguf}", architecture.gguf_name()),
        }
    }
}

impl Config {
    /// Number of layers.
    pub fn n_layer(&self) -> usize {
        self.layers.len()
    }

    /// √`n_embd` rounded to bf16, the usual factor of the embedding. Rounded because Gemma was
    /// trained that way (Gemma 2 2B 48.0, 9B 59.75, 27B 68.0).
    pub fn root_of_width(n_embd: usize) -> f32 {
        half::bf16::from_f32((n_embd as f32).sqrt()).to_f32()
    }

    /// The attention scale that llama.cpp infers, because it has no key for it: 1/√head_dim, but
    /// 1/√(n_embd / n_head) for the 27B sizes, which it recognizes by their number of layers.
    pub fn inferred_attn_scale(&self) -> f32 {
        let is_27b = self.architecture.row().n_layer_27b == Some(self.n_layer());
        let width = if is_27b { self.n_embd / self.n_head.max(1) } else { self.head_dim };
        (1.0 / (width as f64).sqrt()) as f32
    }

    /// Width of all query heads together.
    pub fn n_embd_q(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn n_embd_kv(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// The window of the local layers, in positions, if there are local layers.
    pub fn sliding_window(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| layer.window)
    }

    /// RoPE of the global layers, if there are any.
    pub fn global_rope(&self) -> Option<RopeSpec> {
        self.layers.iter().find(|layer| !layer.is_local()).map(|layer| layer.rope)
    }

    /// RoPE of the local layers, if there are any.
    pub fn local_rope(&self) -> Option<RopeSpec> {
        self.layers.iter().find(|layer| layer.is_local()).map(|layer| layer.rope)
    }

    /// Attention scores are limited to ± this value by the softcap, if given. All layers have the
    /// same.
    pub fn attn_softcap(&self) -> Option<f32> {
        self.layers.first().and_then(|layer| layer.softcap)
    }

    /// The distance between global layers, which is one more than the index of the first of them.
    /// If there is none, a number larger than that of the layers.
    pub fn period(&self) -> usize {
        let usual = self.architecture.row().period.max(self.n_layer() + 1);
        self.layers.iter().position(|layer| !layer.is_local()).map_or(usual, |layer| layer + 1)
    }

    /// Checks the limits that keep later size computations from overflowing `usize`, and the
    /// relations between sizes that the forward pass relies on.
    fn checked(self, keys: Keys) -> Result<Self, ConfigError> {
        self.check_sizes(keys)?;
        self.check_constants(keys)?;
        Ok(self)
    }

    fn check_sizes(&self, keys: Keys) -> Result<(), ConfigError> {
        let heads = ("num_attention_heads", "attention.head_count");
        let kv_heads = ("num_key_value_heads", "attention.head_count_kv");
        let head_dim = ("head_dim", "attention.key_length");
        let window = ("sliding_window", "attention.sliding_window");
        let error = |(hf, gguf), value: usize, rule: String| {
            let (key, value) = (keys.name(self.architecture, hf, gguf), value.to_string());
            Err(ConfigError::Value { key, value, rule })
        };
        let sizes = [
            (("vocab_size", "vocab_size"), self.n_vocab, 1 << 20),
            (("max_position_embeddings", "context_length"), self.n_ctx_train, 1 << 24),
            (("hidden_size", "embedding_length"), self.n_embd, 1 << 20),
            (("intermediate_size", "feed_forward_length"), self.n_ff, 1 << 22),
            (heads, self.n_head, 1 << 12),
            (kv_heads, self.n_head_kv, 1 << 12),
            (head_dim, self.head_dim, 1 << 14),
            (window, self.sliding_window().unwrap_or(1), 1 << 24),
        ];
        for (key, value, limit) in sizes {
            if value == 0 || value > limit {
                return error(key, value, format!("expected 1 to {limit}"));
            }
        }
        if !self.n_head.is_multiple_of(self.n_head_kv) {
            let rule = format!("it must divide the number of query heads, {}", self.n_head);
            return error(kv_heads, self.n_head_kv, rule);
        }
        if !self.head_dim.is_multiple_of(2) {
            return error(head_dim, self.head_dim, "RoPE needs an even width".into());
        }
        Ok(())
    }

    fn check_constants(&self, keys: Keys) -> Result<(), ConfigError> {
        let [global, local] =
            [self.global_rope(), self.local_rope()].map(Option::unwrap_or_default);
        // No model comes near these limits. Beyond them results are of no use, or NaN.
        let (base, any, eps) = (1.0..=1e12, 1e-6..=1e6, 1e-12..=1.0);
        let cap = 1e-6..=1e30;
        let attn_softcap = ("attn_logit_softcapping", "attn_logit_softcapping");
        let final_softcap = ("final_logit_softcapping", "final_logit_softcapping");
        let floats = [
            (("rope_theta", "rope.freq_base"), Some(global.base), &base),
            (("rope_local_base_freq", "rope.freq_base_swa"), Some(local.base), &base),
            (("rope_scaling.factor", "rope.scaling.factor"), Some(global.factor), &any),
            (("rms_norm_eps", "attention.layer_norm_rms_epsilon"), Some(self.rms_eps), &eps),
            (("query_pre_attn_scalar", "attention.scale"), Some(self.attn_scale), &any),
            (("hidden_size", "embedding_scale"), Some(self.embd_scale), &any),
            (attn_softcap, self.attn_softcap(), &cap),
            (final_softcap, self.final_softcap, &cap),
        ];
        for ((hf, gguf), value, range) in floats {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let (key, value) = (keys.name(self.architecture, hf, gguf), value.to_string());
                let rule = format!("expected {:e} to {:e}", range.start(), range.end());
                return Err(ConfigError::Value { key, value, rule });
            }
        }
        Ok(())
    }
}

/// Checks the number of layers before a specification is made for each of them.
fn check_layers(
    n_layer: usize,
    architecture: Architecture,
    keys: Keys,
) -> Result<usize, ConfigError> {
    const LIMIT: usize = 1 << 10;
    if (1..=LIMIT).contains(&n_layer) {
        return Ok(n_layer);
    }
    let key = keys.name(architecture, "num_hidden_layers", "block_count");
    let (value, rule) = (n_layer.to_string(), format!("expected 1 to {LIMIT}"));
    Err(ConfigError::Value { key, value, rule })
}

#[cfg(test)]
mod tests;
