//! `config.json` and `generation_config.json`, as they are written. Which model they describe, what
//! an absent key means and which values can be: that is for the model to say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::unique::unique;
use super::{parse_json, read, read_if_there, CheckpointError, MAX_SETTINGS};

/// `config.json` under transformers' names.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    /// Last part of `_name_or_path`, or the directory's name.
    pub name: String,
    /// `model_type` of the whole model.
    pub model_type: Option<String>,
    /// The first of `architectures`: the class in transformers.
    pub class: Option<String>,
    /// What it says of the text model: `text_config` where a model has other parts as well, and
    /// otherwise the file itself.
    pub text: TextConfig,
    /// Whether the weights are declared as quantized already (`quantization_config`).
    pub quantized: bool,
    /// Whether the embedding is the output matrix, too (`tie_word_embeddings`, of the text model if it
    /// says so; transformers' default for the Gemma family is true).
    pub tie_word_embeddings: bool,
    /// Keys beside `text_config` that are not read here, with their values; empty if there is no
    /// `text_config`.
    pub others: Others,
}

/// Keys that are not read here, with their values.
pub type Others = BTreeMap<String, Value>;

/// The configuration of a text model under transformers' names. Absent keys are `None`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct TextConfig {
    /// Such as `gemma3_text`.
    pub model_type: Option<String>,
    /// Width of the residual stream.
    pub hidden_size: Option<u64>,
    /// Width of the feed-forward layer.
    pub intermediate_size: Option<u64>,
    /// Number of layers.
    pub num_hidden_layers: Option<u64>,
    /// Query heads.
    pub num_attention_heads: Option<u64>,
    /// Key/value heads.
    pub num_key_value_heads: Option<u64>,
    /// Width of a head.
    pub head_dim: Option<u64>,
    /// Attention scores are divided by its root.
    pub query_pre_attn_scalar: Option<f64>,
    /// Rows of the embedding.
    pub vocab_size: Option<u64>,
    /// Longest context, in tokens.
    pub max_position_embeddings: Option<u64>,
    /// Positions that a local layer attends to.
    pub sliding_window: Option<u64>,
    /// What the first releases of Gemma 2 called it.
    pub sliding_window_size: Option<u64>,
    /// Every so many layers one attends to all positions.
    pub sliding_window_pattern: Option<u64>,
    /// The same, as transformers writes it since it has `layer_types`.
    #[serde(rename = "_sliding_window_pattern")]
    pub private_sliding_window_pattern: Option<u64>,
    /// `sliding_attention` or `full_attention`, by layer.
    pub layer_types: Option<Vec<String>>,
    /// Attention scores are squashed to ± this; `Some(None)` for `null`, which turns it off.
    #[serde(default, deserialize_with = "nullable")]
    pub attn_logit_softcapping: Option<Option<f64>>,
    /// Logits are squashed to ± this; `Some(None)` for `null`, which turns it off.
    #[serde(default, deserialize_with = "nullable")]
    pub final_logit_softcapping: Option<Option<f64>>,
    /// RMSNorm's epsilon.
    pub rms_norm_eps: Option<f64>,
    /// RoPE's base.
    pub rope_theta: Option<f64>,
    /// RoPE's base in local layers, where they have their own.
    pub rope_local_base_freq: Option<f64>,
    /// How RoPE is stretched.
    pub rope_scaling: Option<RopeConfig>,
    /// Where transformers 5 keeps all of RoPE.
    pub rope_parameters: Option<RopeConfig>,
    /// The activation as the first Gemma files name it.
    pub hidden_act: Option<String>,
    /// The activation.
    pub hidden_activation: Option<String>,
    /// Whether attention's matrices have biases.
    pub attention_bias: Option<bool>,
    /// Whether the embedding is the output matrix, too.
    pub tie_word_embeddings: Option<bool>,
    /// Keys that are not read here, with their values.
    #[serde(flatten, deserialize_with = "unique")]
    pub others: Others,
}

/// How RoPE turns, in all layers or in those of one type.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct RopeConfig {
    /// `default`, `linear`, …
    pub rope_type: Option<String>,
    /// What older versions of transformers call it; both may be there.
    pub r#type: Option<String>,
    /// The base.
    pub rope_theta: Option<f64>,
    /// What positions are divided by, if the type is `linear`.
    pub factor: Option<f64>,
    /// That of global layers, where there is one for each type of layer.
    pub full_attention: Option<Box<RopeConfig>>,
    /// That of local layers.
    pub sliding_attention: Option<Box<RopeConfig>>,
    /// Keys that are not read here, with their values.
    #[serde(flatten, deserialize_with = "unique")]
    pub others: Others,
}

/// `null` apart from an absent key.
fn nullable<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// What surrounds the text model's keys.
#[derive(Deserialize)]
struct RawConfig {
    #[serde(rename = "_name_or_path")]
    name_or_path: Option<String>,
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    text_config: Option<TextConfig>,
    quantization_config: Option<IgnoredAny>,
    compression_config: Option<IgnoredAny>,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<Ids>,
    pad_token_id: Option<Ids>,
    #[serde(flatten, deserialize_with = "unique")]
    others: Others,
}

/// One token id or several; `-1` stands for none.
#[derive(Deserialize)]
#[serde(untagged, expecting = "eos_token_id and pad_token_id must be token ids or lists of them")]
enum Ids {
    One(i64),
    Many(Vec<i64>),
}

impl Ids {
    fn into_vec(self) -> Vec<i64> {
        let ids = match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        ids.into_iter().filter(|id| *id != -1).collect()
    }
}

/// The token ids that end a text, and which file says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopIds {
    /// `generation_config.json`, or `config.json` where that says nothing.
    pub path: PathBuf,
    /// As they are written; fine-tunes list several.
    pub ids: Vec<i64>,
    /// The padding tokens that `config.json` and `generation_config.json` name.
    pub padding: Vec<i64>,
}

/// `config.json`.
pub(super) const CONFIG: &str = "config.json";

impl CheckpointConfig {
    /// Reads `config.json` of the checkpoint `dir`, with the ids that it ends texts with.
    pub(super) fn read(dir: &Path) -> Result<(Self, StopIds), CheckpointError> {
        let file = read(&dir.join(CONFIG))?;
        let raw: RawConfig = parse_json(&file, MAX_SETTINGS)?;
        let (text, others) = match raw.text_config {
            Some(text) => (text, raw.others),
            None => (parse_json(&file, MAX_SETTINGS)?, Others::new()),
        };
        let tied = text.tie_word_embeddings.or(raw.tie_word_embeddings);
        let config = Self {
            name: name(raw.name_or_path.as_deref().unwrap_or_default(), dir),
            model_type: raw.model_type,
            class: raw.architectures.into_iter().flatten().next(),
            text,
            quantized: raw.quantization_config.or(raw.compression_config).is_some(),
            tie_word_embeddings: tied.unwrap_or(true),
            others,
        };
        let ids = raw.eos_token_id.map_or(Vec::new(), Ids::into_vec);
        let padding = raw.pad_token_id.map_or(Vec::new(), Ids::into_vec);
        Ok((config, StopIds { path: file.path().to_owned(), ids, padding }))
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
    directory_name(&dir).unwrap_or("gemma".into())
}

/// The name that a checkpoint has by its directory. In the cache of huggingface_hub that is the
/// repository's, `gemma-2-tuned` of `models--someone--gemma-2-tuned/snapshots/COMMIT`.
pub fn directory_name(dir: &Path) -> Option<String> {
    let name = |dir: &Path| Some(dir.file_name()?.to_string_lossy().into_owned());
    let snapshots = dir.parent().filter(|parent| parent.ends_with("snapshots"));
    let repository = snapshots.and_then(|dir| name(dir.parent()?));
    let repository = repository.as_deref().and_then(|name| name.strip_prefix("models--"));
    match repository.and_then(|name| name.rsplit("--").next()) {
        Some(repository) if !repository.is_empty() => Some(repository.to_owned()),
        _ => name(dir),
    }
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<Ids>,
    pad_token_id: Option<Ids>,
}

impl StopIds {
    /// Those of `generation_config.json` of the checkpoint `dir`, or else these.
    pub(super) fn or_of_generation(mut self, dir: &Path) -> Result<Self, CheckpointError> {
        let Some(file) = read_if_there(&dir.join("generation_config.json"))? else {
            return Ok(self);
        };
        let raw: RawGeneration = parse_json(&file, MAX_SETTINGS)?;
        if let Some(ids) = raw.eos_token_id {
            (self.path, self.ids) = (file.path().to_owned(), ids.into_vec());
        }
        self.padding.extend(raw.pad_token_id.map_or(Vec::new(), Ids::into_vec));
        Ok(self)
    }
}
