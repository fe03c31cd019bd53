//! The blueprint of a Gemma 2 model: sizes and constants, from `config.json` or GGUF metadata.

use lapidary_formats::checkpoint::Gemma2Config;
use lapidary_formats::gguf::{Gguf, GgufError};
use thiserror::Error;

/// Sizes and constants of one model. Names are llama.cpp's, whose GGUF keys they are read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model's name, for people.
    pub name: String,
    /// Pieces in the vocabulary.
    pub n_vocab: usize,
    /// Longest context it was trained for, in tokens.
    pub n_ctx_train: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward layer.
    pub n_ff: usize,
    /// Number of layers.
    pub n_layer: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads; divides `n_head`.
    pub n_head_kv: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Positions that a local layer sees, its own included.
    pub sliding_window: usize,
    /// RoPE's base.
    pub rope_freq_base: f32,
    /// RMSNorm's epsilon.
    pub rms_eps: f32,
    /// Multiplies q·k: 1/√`query_pre_attn_scalar`.
    pub attn_scale: f32,
    /// Attention scores are squashed to ± this, if given.
    pub attn_softcap: Option<f32>,
    /// Logits are squashed to ± this, if given.
    pub final_softcap: Option<f32>,
}

/// Metadata that describes no Gemma 2 model.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The metadata cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A GGUF file of another architecture.
    #[error("architecture `{0}` is not supported, only gemma2")]
    Architecture(String),
    /// A key that must be there is not.
    #[error("metadata lacks the key `{0}`")]
    Missing(String),
    /// A value that no Gemma 2 model has.
    #[error("{what} = {value} makes no sense: {rule}")]
    Value {
        /// Which value.
        what: &'static str,
        /// As found.
        value: String,
        /// What it should have been.
        rule: &'static str,
    },
}

impl Config {
    /// The blueprint that a checkpoint's `config.json` gives.
    pub fn from_checkpoint(c: &Gemma2Config) -> Result<Self, ConfigError> {
        // The first 9B files said 224, n_embd / n_head; the model was trained with 256
        // (https://github.com/huggingface/transformers/pull/31891).
        let early_9b = (c.num_hidden_layers, c.hidden_size, c.head_dim) == (42, 3584, 256);
        let query_pre_attn_scalar = match c.query_pre_attn_scalar {
            224.0 if early_9b => 256.0,
            scalar => f64::from(scalar),
        };
        Self {
            name: c.name.clone(),
            n_vocab: c.vocab_size,
            n_ctx_train: c.max_position_embeddings,
            n_embd: c.hidden_size,
            n_ff: c.intermediate_size,
            n_layer: c.num_hidden_layers,
            n_head: c.num_attention_heads,
            n_head_kv: c.num_key_value_heads,
            head_dim: c.head_dim,
            sliding_window: c.sliding_window,
            rope_freq_base: c.rope_theta as f32,
            rms_eps: c.rms_norm_eps as f32,
            attn_scale: (1.0 / query_pre_attn_scalar.sqrt()) as f32,
            attn_softcap: c.attn_logit_softcapping,
            final_softcap: c.final_logit_softcapping,
        }
        .checked()
    }

    /// The blueprint that a GGUF file's metadata gives.
    pub fn from_gguf(g: &Gguf) -> Result<Self, ConfigError> {
        let architecture = g.str("general.architecture")?.unwrap_or("(none)");
        if architecture != "gemma2" {
            return Err(ConfigError::Architecture(architecture.to_owned()));
        }
        if let Some(scaling) = g.str("gemma2.rope.scaling.type")?.filter(|s| *s != "none") {
            return Err(ConfigError::Value {
                what: "RoPE scaling",
                value: scaling.to_owned(),
                rule: "scaled RoPE is not supported",
            });
        }
        let size = |key: &str| -> Result<usize, ConfigError> {
            let key = format!("gemma2.{key}");
            let value = g.u32(&key)?.ok_or(ConfigError::Missing(key))?;
            Ok(value as usize)
        };
        let float = |key: &str| g.f32(&format!("gemma2.{key}"));
        let (n_embd, n_layer) = (size("embedding_length")?, size("block_count")?);
        let n_head = size("attention.head_count")?;
        let head_dim = size("attention.key_length")?;
        let n_vocab = match g.tensor("token_embd.weight") {
            Some(t) => t.rows(),
            None => return Err(ConfigError::Missing("token_embd.weight".into())),
        };
        // llama.cpp has no key for query_pre_attn_scalar and infers it: 27B, known by its 46
        // layers, takes n_embd / n_head; every other size takes head_dim.
        let inferred = if n_layer == 46 { n_embd / n_head.max(1) } else { head_dim };
        let inferred = (1.0 / (inferred as f64).sqrt()) as f32;
        Self {
            name: g.str("general.name")?.unwrap_or("gemma2").to_owned(),
            n_vocab,
            n_ctx_train: size("context_length")?,
            n_embd,
            n_ff: size("feed_forward_length")?,
            n_layer,
            n_head,
            n_head_kv: size("attention.head_count_kv")?,
            head_dim,
            // llama.cpp's default, for the same reason as the softcaps' below.
            sliding_window: g.u32("gemma2.attention.sliding_window")?.unwrap_or(4096) as usize,
            rope_freq_base: float("rope.freq_base")?.unwrap_or(10_000.0),
            rms_eps: float("attention.layer_norm_rms_epsilon")?
                .ok_or(ConfigError::Missing("gemma2.attention.layer_norm_rms_epsilon".into()))?,
            attn_scale: float("attention.scale")?.unwrap_or(inferred),
            // llama.cpp's defaults: the first Gemma 2 files were written without these keys.
            attn_softcap: softcap(float("attn_logit_softcapping")?, 50.0),
            final_softcap: softcap(float("final_logit_softcapping")?, 30.0),
        }
        .checked()
    }

    /// √`n_embd` rounded to bf16, which the embedding is multiplied by. Rounded because Gemma was
    /// trained so (2B 48.0, 9B 59.75, 27B 68.0).
    pub fn embd_scale(&self) -> f32 {
        let root = (self.n_embd as f32).sqrt();
        // Round to nearest even at the 16th bit; the root is finite and positive.
        let bits = root.to_bits();
        f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
    }

    /// Whether `layer` sees only the last `sliding_window` positions: the even ones do.
    pub fn is_local(&self, layer: usize) -> bool {
        layer.is_multiple_of(2)
    }

    /// Width of all query heads together.
    pub fn n_embd_q(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn n_embd_kv(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Bounds that keep every later size computation inside `usize`, and the relations that the
    /// forward pass relies on.
    fn checked(self) -> Result<Self, ConfigError> {
        let sizes = [
            ("vocabulary size", self.n_vocab, 1 << 24),
            ("context length", self.n_ctx_train, 1 << 24),
            ("embedding length", self.n_embd, 1 << 20),
            ("feed-forward length", self.n_ff, 1 << 22),
            ("layer count", self.n_layer, 1 << 10),
            ("head count", self.n_head, 1 << 12),
            ("key/value head count", self.n_head_kv, 1 << 12),
            ("head width", self.head_dim, 1 << 14),
            ("sliding window", self.sliding_window, 1 << 24),
        ];
        let error = |what, value: String, rule| Err(ConfigError::Value { what, value, rule });
        for (what, value, limit) in sizes {
            if value == 0 || value > limit {
                return error(what, value.to_string(), "it is zero or absurdly large");
            }
        }
        if !self.n_head.is_multiple_of(self.n_head_kv) {
            let heads = self.n_head_kv.to_string();
            return error("key/value head count", heads, "it must divide the head count");
        }
        if !self.head_dim.is_multiple_of(2) {
            return error("head width", self.head_dim.to_string(), "RoPE needs an even width");
        }
        let floats = [
            ("RoPE base", Some(self.rope_freq_base)),
            ("RMSNorm epsilon", Some(self.rms_eps)),
            ("attention scale", Some(self.attn_scale)),
            ("attention softcap", self.attn_softcap),
            ("final softcap", self.final_softcap),
        ];
        for (what, value) in floats {
            if value.is_some_and(|v| !v.is_finite() || v <= 0.0) {
                let value = value.unwrap_or_default().to_string();
                return error(what, value, "it must be finite and above zero");
            }
        }
        Ok(self)
    }
}

/// A softcap key: absent means Gemma 2's own value, zero means none.
fn softcap(value: Option<f32>, default: f32) -> Option<f32> {
    match value {
        None => Some(default),
        Some(0.0) => None,
        value => value,
    }
}
