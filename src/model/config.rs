//! The blueprint of a Gemma 2 model: sizes and constants, from `config.json` or GGUF metadata.

use lapidary_formats::checkpoint::Gemma2Config;
use lapidary_formats::gguf::{Gguf, GgufError, Value};
use lapidary_formats::printable::Printable;
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
    /// A GGUF file of something else than a model, by its `general.type`.
    #[error("holds a {} (general.type), not a model", Printable::new(.0))]
    Kind(String),
    /// What a fine-tune adds to a model, without the model.
    #[error("is an adapter, not a model: merge it into its base model first")]
    Adapter,
    /// A GGUF file of another architecture.
    #[error("architecture `{}` is not supported, only gemma2", Printable::new(.0))]
    Architecture(String),
    /// A key that must be there is not.
    #[error("metadata lacks the key `{0}`")]
    Missing(String),
    /// The tensor whose rows are the vocabulary is not there.
    #[error("tensor `token_embd.weight` is missing")]
    NoEmbedding,
    /// A key that asks for what Gemma 2 does not do.
    #[error("metadata key `{key}` is {}, which is not supported: {rule}", Printable::new(found))]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value, as printed for people.
        found: String,
        /// What it has to be.
        rule: &'static str,
    },
    /// A value that no Gemma 2 model has.
    #[error("{what} is {}: {rule}", Printable::new(value))]
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
    ///
    /// # Errors
    /// If it is no Gemma 2 model, asks for what Gemma 2 does not do, or contradicts itself.
    pub fn from_gguf(g: &Gguf) -> Result<Self, ConfigError> {
        check_kind(g)?;
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
            None => return Err(ConfigError::NoEmbedding),
        };
        // llama.cpp has no key for query_pre_attn_scalar and infers it: 27B, known by its 46
        // layers, takes n_embd / n_head; every other size takes head_dim.
        let inferred = if n_layer == 46 { n_embd / n_head.max(1) } else { head_dim };
        let inferred = (1.0 / (inferred as f64).sqrt()) as f32;
        let config = Self {
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
        };
        let config = config.checked()?;
        check_supported(g, &config)?;
        Ok(config)
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
            ("vocabulary size", self.n_vocab, 1 << 20),
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

/// Refuses what is no model of Gemma 2's architecture.
fn check_kind(g: &Gguf) -> Result<(), ConfigError> {
    let kind = g.str("general.type")?.unwrap_or("model");
    if kind == "adapter" || g.get("adapter.type").is_some() {
        return Err(ConfigError::Adapter);
    }
    if kind != "model" {
        return Err(ConfigError::Kind(kind.to_owned()));
    }
    match g.str("general.architecture")?.unwrap_or("(none)") {
        "gemma2" => Ok(()),
        other => Err(ConfigError::Architecture(other.to_owned())),
    }
}

/// Refuses keys that would make another model of it. llama.cpp reads them for every architecture;
/// those that it writes have the values that are taken here.
fn check_supported(g: &Gguf, c: &Config) -> Result<(), ConfigError> {
    let is = |value: &Value, size: usize| value.as_int() == Some(size);
    let is_f32 = |value: &Value, x: f32| value.as_f32() == Some(x);
    // Key, whether a value of it is taken, and what it has to be.
    type Rule<'a> = (&'static str, &'a dyn Fn(&Value) -> bool, &'static str);
    let rules: [Rule; 11] = [
        ("gemma2.rope.scaling.type", &|v| v.as_str() == Some("none"), "RoPE is not scaled"),
        ("gemma2.rope.scaling.factor", &|v| is_f32(v, 1.0) || is_f32(v, 0.0), "RoPE is not scaled"),
        ("gemma2.rope.scale_linear", &|v| is_f32(v, 1.0) || is_f32(v, 0.0), "RoPE is not scaled"),
        ("gemma2.rope.dimension_count", &|v| is(v, c.head_dim), "RoPE turns whole heads"),
        ("gemma2.rope.freq_base_swa", &|v| is_f32(v, c.rope_freq_base), "all layers have one base"),
        ("gemma2.attention.value_length", &|v| is(v, c.head_dim), "values are as long as keys"),
        ("gemma2.attention.sliding_window_pattern", &|v| is(v, 2), "every other layer is local"),
        ("gemma2.attention.causal", &|v| v.as_bool() == Some(true), "attention is causal"),
        ("gemma2.pooling_type", &|v| is(v, 0), "models of embeddings are not supported"),
        ("gemma2.expert_count", &|v| is(v, 0), "there are no experts"),
        ("gemma2.vocab_size", &|v| is(v, c.n_vocab), "it is the number of the embedding's rows"),
    ];
    for (key, taken, rule) in rules {
        if let Some(value) = g.get(key).filter(|value| !taken(value)) {
            return Err(ConfigError::Unsupported { key, found: value.to_string(), rule });
        }
    }
    Ok(())
}

/// A softcap key: absent means Gemma 2's own value, zero means none.
fn softcap(value: Option<f32>, default: f32) -> Option<f32> {
    match value {
        None => Some(default),
        Some(0.0) => None,
        value => value,
    }
}
