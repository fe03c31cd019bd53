//! `config.json` and `generation_config.json`.

use std::path::Path;

use serde::de::IgnoredAny;
use serde::Deserialize;

use super::{parse_json, read, read_if_there, CheckpointError, MAX_SETTINGS};

/// A Gemma 2 model's configuration under transformers' names
/// ([`Gemma2Config`](https://huggingface.co/docs/transformers/model_doc/gemma2)), checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemma2Config {
    /// Last part of `_name_or_path`, or the directory's name.
    pub name: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Attention scores are divided by its root. As found: old 9B files say 224 instead of 256
    /// ([transformers#31891](https://github.com/huggingface/transformers/pull/31891)).
    pub query_pre_attn_scalar: f32,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Positions that a local layer sees.
    pub sliding_window: usize,
    /// Attention scores are squashed to ± this, if given.
    pub attn_logit_softcapping: Option<f32>,
    /// Logits are squashed to ± this, if given.
    pub final_logit_softcapping: Option<f32>,
    /// RMSNorm's epsilon.
    pub rms_norm_eps: f64,
    /// RoPE's base.
    pub rope_theta: f64,
    /// Whether the embedding is the head as well.
    pub tie_word_embeddings: bool,
    /// Always `gelu_pytorch_tanh`; `hidden_act: "gelu"` alone, as the first Gemma files have it,
    /// meant the same ([transformers#29402](https://github.com/huggingface/transformers/pull/29402)).
    pub hidden_activation: String,
    /// Beginning of sequence.
    pub bos_token_id: Option<u32>,
    /// What ends a text.
    pub eos_token_ids: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// Type of the weights as declared, such as `bfloat16`; the shards decide.
    pub torch_dtype: Option<String>,
}

/// What generation needs beyond the model's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationConfig {
    /// What ends a text; fine-tunes list several.
    pub eos_token_ids: Vec<u32>,
}

/// One token id or several; `-1` stands for none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(i64),
    Many(Vec<i64>),
}

/// `config.json` as it may be. Where transformers' class has a default that every published
/// Gemma 2 model keeps, an absent key takes it; sizes must be there.
#[derive(Deserialize)]
struct RawConfig {
    #[serde(rename = "_name_or_path")]
    name_or_path: Option<String>,
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    query_pre_attn_scalar: Option<f64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    sliding_window: Option<u64>,
    /// What the first releases called it.
    sliding_window_size: Option<u64>,
    /// `null` turns it off.
    #[serde(default = "attn_softcap")]
    attn_logit_softcapping: Option<f64>,
    #[serde(default = "final_softcap")]
    final_logit_softcapping: Option<f64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Where transformers 5 keeps the two before.
    rope_parameters: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attention_bias: Option<bool>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<IgnoredAny>,
    bos_token_id: Option<i64>,
    eos_token_id: Option<Ids>,
    pad_token_id: Option<i64>,
    #[serde(alias = "dtype")]
    torch_dtype: Option<String>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

fn attn_softcap() -> Option<f64> {
    Some(50.0)
}

fn final_softcap() -> Option<f64> {
    Some(30.0)
}

const FILE: &str = "config.json";
const ACTIVATION: &str = "gelu_pytorch_tanh";

impl Gemma2Config {
    /// Reads and checks `config.json` of the checkpoint `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, CheckpointError> {
        let file = read(&dir.join(FILE))?;
        let raw: RawConfig = parse_json(&file, MAX_SETTINGS)?;
        let check = Check { path: file.path() };
        check.supported(&raw)?;
        let config = check.config(raw, dir)?;
        check.consistent(&config)?;
        Ok(config)
    }
}

/// The checks of one file, for errors that name it.
struct Check<'a> {
    path: &'a Path,
}

impl Check<'_> {
    /// Refuses what is not Gemma 2, by name.
    fn supported(&self, raw: &RawConfig) -> Result<(), CheckpointError> {
        let class = raw.architectures.iter().flatten().next();
        let gemma2 = match &raw.model_type {
            Some(model_type) => model_type == "gemma2",
            None => class.is_some_and(|c| c == "Gemma2ForCausalLM"),
        };
        if !gemma2 {
            let found = raw.model_type.as_ref().or(class);
            let found = found.map_or("(none)", |s| s.as_str()).to_owned();
            return Err(CheckpointError::ModelType { path: self.path.to_owned(), found });
        }
        if raw.attention_bias == Some(true) {
            return self.refuse("attention_bias", "true", "Gemma 2 has no biases");
        }
        if raw.quantization_config.is_some() {
            let rule = "weights must be F32, F16 or BF16, not quantized already";
            return self.refuse("quantization_config", "set", rule);
        }
        let ropes =
            [("rope_scaling", &raw.rope_scaling), ("rope_parameters", &raw.rope_parameters)];
        for (key, rope) in ropes {
            match rope.as_ref().map(|r| r.rope_type.as_deref().unwrap_or("(none)")) {
                None | Some("default") => {}
                // transformers 5 writes no type where there is nothing but the base.
                Some("(none)") if key == "rope_parameters" => {}
                Some(ty) => return self.refuse(key, ty, "scaled RoPE is not supported"),
            }
        }
        self.layer_types(raw.layer_types.as_deref().unwrap_or_default())
    }

    /// Gemma 2 alternates, beginning with a local layer; nothing else is supported.
    fn layer_types(&self, layers: &[String]) -> Result<(), CheckpointError> {
        let expected = ["sliding_attention", "full_attention"].into_iter().cycle();
        match layers.iter().zip(expected).find(|(found, expected)| found != expected) {
            Some((found, _)) => {
                self.refuse("layer_types", found, "local and global layers must alternate")
            }
            None => Ok(()),
        }
    }

    fn config(&self, raw: RawConfig, dir: &Path) -> Result<Gemma2Config, CheckpointError> {
        let rope = raw.rope_theta.or(raw.rope_parameters.and_then(|r| r.rope_theta));
        let window = raw.sliding_window.or(raw.sliding_window_size).unwrap_or(4096);
        let context = raw.max_position_embeddings.unwrap_or(8192);
        let scalar = "query_pre_attn_scalar";
        let vocab_size = self.size("vocab_size", raw.vocab_size, 1 << 20)?;
        Ok(Gemma2Config {
            name: name(raw.name_or_path.as_deref().unwrap_or_default(), dir),
            hidden_size: self.size("hidden_size", raw.hidden_size, 1 << 20)?,
            intermediate_size: self.size("intermediate_size", raw.intermediate_size, 1 << 22)?,
            num_hidden_layers: self.size("num_hidden_layers", raw.num_hidden_layers, 1 << 10)?,
            num_attention_heads: self.size(
                "num_attention_heads",
                raw.num_attention_heads,
                1 << 12,
            )?,
            num_key_value_heads: self.size(
                "num_key_value_heads",
                raw.num_key_value_heads,
                1 << 12,
            )?,
            head_dim: self.size("head_dim", raw.head_dim, 1 << 14)?,
            query_pre_attn_scalar: match raw.query_pre_attn_scalar {
                Some(x) => self.positive(scalar, x)? as f32,
                None => return Err(self.missing(scalar)),
            },
            vocab_size,
            max_position_embeddings: self.size(
                "max_position_embeddings",
                Some(context),
                1 << 24,
            )?,
            sliding_window: self.size("sliding_window", Some(window), 1 << 24)?,
            attn_logit_softcapping: self
                .softcap("attn_logit_softcapping", raw.attn_logit_softcapping)?,
            final_logit_softcapping: self
                .softcap("final_logit_softcapping", raw.final_logit_softcapping)?,
            rms_norm_eps: self.positive("rms_norm_eps", raw.rms_norm_eps.unwrap_or(1e-6))?,
            rope_theta: self.positive("rope_theta", rope.unwrap_or(10_000.0))?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(true),
            hidden_activation: self.activation(raw.hidden_activation, raw.hidden_act)?,
            bos_token_id: self.id("bos_token_id", raw.bos_token_id, vocab_size)?,
            eos_token_ids: self.ids("eos_token_id", raw.eos_token_id, vocab_size)?,
            pad_token_id: self.id("pad_token_id", raw.pad_token_id, vocab_size)?,
            torch_dtype: raw.torch_dtype,
        })
    }

    fn consistent(&self, c: &Gemma2Config) -> Result<(), CheckpointError> {
        if !c.num_attention_heads.is_multiple_of(c.num_key_value_heads) {
            let rule = format!("num_attention_heads, {}, is no multiple", c.num_attention_heads);
            return self.refuse("num_key_value_heads", c.num_key_value_heads, &rule);
        }
        if !c.head_dim.is_multiple_of(2) {
            return self.refuse("head_dim", c.head_dim, "RoPE needs an even width");
        }
        Ok(())
    }

    fn size(
        &self,
        key: &'static str,
        value: Option<u64>,
        limit: u64,
    ) -> Result<usize, CheckpointError> {
        match value {
            None => Err(self.missing(key)),
            Some(n) if (1..=limit).contains(&n) => Ok(n as usize),
            Some(n) => self.refuse(key, n, &format!("expected 1 to {limit}")),
        }
    }

    fn positive(&self, key: &'static str, x: f64) -> Result<f64, CheckpointError> {
        // As f32, which it is used as.
        match (x as f32).is_finite() && x as f32 > 0.0 {
            true => Ok(x),
            false => self.refuse(key, x, "it must be finite and above zero"),
        }
    }

    fn softcap(
        &self,
        key: &'static str,
        value: Option<f64>,
    ) -> Result<Option<f32>, CheckpointError> {
        value.map(|x| self.positive(key, x).map(|x| x as f32)).transpose()
    }

    /// What transformers computes with: `hidden_activation` if it is given. The first Gemma files
    /// had only `hidden_act: "gelu"`, which meant the tanh approximation all along
    /// ([transformers#29402](https://github.com/huggingface/transformers/pull/29402)).
    fn activation(
        &self,
        hidden_activation: Option<String>,
        hidden_act: Option<String>,
    ) -> Result<String, CheckpointError> {
        let (key, name) = match (hidden_activation, hidden_act) {
            (Some(name), _) => ("hidden_activation", name),
            (None, Some(name)) if name == "gelu" => ("hidden_act", ACTIVATION.to_owned()),
            (None, Some(name)) => ("hidden_act", name),
            (None, None) => ("hidden_activation", ACTIVATION.to_owned()),
        };
        match name == ACTIVATION {
            true => Ok(name),
            false => self.refuse(key, name, "only gelu_pytorch_tanh is supported"),
        }
    }

    fn id(
        &self,
        key: &'static str,
        id: Option<i64>,
        vocab_size: usize,
    ) -> Result<Option<u32>, CheckpointError> {
        match id {
            None | Some(-1) => Ok(None),
            Some(id) => match u32::try_from(id) {
                Ok(n) if (n as usize) < vocab_size => Ok(Some(n)),
                _ => self.refuse(key, id, &format!("vocab_size is {vocab_size}")),
            },
        }
    }

    fn ids(
        &self,
        key: &'static str,
        ids: Option<Ids>,
        vocab_size: usize,
    ) -> Result<Vec<u32>, CheckpointError> {
        let ids = match ids {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
        };
        ids.into_iter().filter_map(|id| self.id(key, Some(id), vocab_size).transpose()).collect()
    }

    fn missing(&self, key: &'static str) -> CheckpointError {
        CheckpointError::MissingKey { path: self.path.to_owned(), key }
    }

    fn refuse<T>(
        &self,
        key: &'static str,
        value: impl ToString,
        rule: &str,
    ) -> Result<T, CheckpointError> {
        Err(CheckpointError::Value {
            path: self.path.to_owned(),
            key,
            value: value.to_string(),
            rule: rule.to_owned(),
        })
    }
}

/// Last part of `_name_or_path` (`google/gemma-2-2b-it`, or the path of whoever trained it), or
/// the directory's name.
fn name(name_or_path: &str, dir: &Path) -> String {
    let last = name_or_path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if !matches!(last, "" | "." | "..") {
        return last.to_owned();
    }
    let dir = dir.canonicalize().unwrap_or(dir.to_owned());
    dir.file_name().map_or("gemma2".into(), |name| name.to_string_lossy().into_owned())
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<Ids>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of the checkpoint `dir`, if it is there.
    pub(super) fn read(dir: &Path, config: &Gemma2Config) -> Result<Self, CheckpointError> {
        let default = Self { eos_token_ids: config.eos_token_ids.clone() };
        let Some(file) = read_if_there(&dir.join("generation_config.json"))? else {
            return Ok(default);
        };
        let raw: RawGeneration = parse_json(&file, MAX_SETTINGS)?;
        if raw.eos_token_id.is_none() {
            return Ok(default);
        }
        let check = Check { path: file.path() };
        let eos_token_ids = check.ids("eos_token_id", raw.eos_token_id, config.vocab_size)?;
        Ok(Self { eos_token_ids })
    }
}
