//! The architectures of the Gemma family, one row each, and the [`LayerSpec`] of every layer that
//! follows from a row. The forward pass uses only these specifications and knows no architecture by
//! name.
//!
//! Sources: transformers' `modeling_gemma.py`, `modeling_gemma2.py`, `modeling_gemma3.py` and
//! `modeling_vaultgemma.py`; llama.cpp's `llama-model.cpp`.

use lapidary_formats::checkpoint::CheckpointConfig;

use super::config::error::ConfigError;
use crate::kernels::RopeSpec;

/// A text model of the Gemma family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Gemma 1 and CodeGemma.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// VaultGemma: Gemma 2 without the norms after attention and feed-forward. llama.cpp does not
    /// support it, so its name in GGUF files is our own.
    VaultGemma,
    /// The text model of Gemma 3.
    Gemma3,
}

/// What one layer does, apart from its sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    /// Number of positions that a query attends to, including its own; `None` for all of them.
    pub window: Option<usize>,
    /// RoPE of queries and keys.
    pub rope: RopeSpec,
    /// Attention scores are limited to ± this value by the softcap, if given.
    pub softcap: Option<f32>,
    /// Whether the query and key of each head are normed before RoPE.
    pub qk_norm: bool,
    /// Whether the outputs of attention and feed-forward are normed before they are added to the
    /// residual stream.
    pub post_norms: bool,
}

impl LayerSpec {
    /// Whether a query attends only to a window.
    pub fn is_local(&self) -> bool {
        self.window.is_some()
    }
}

/// The properties of an architecture.
pub(super) struct Row {
    /// The architecture of this row.
    pub architecture: Architecture,
    /// `general.architecture` in GGUF files, and the prefix of the model's keys.
    pub gguf: &'static str,
    /// The name in messages.
    pub name: &'static str,
    /// transformers' `model_type` of a text-only model.
    pub model_type: &'static str,
    /// The class in transformers.
    pub class: &'static str,
    /// `model_type` and class of a model with other parts, whose `text_config` is of this
    /// architecture.
    pub multimodal: Option<[&'static str; 2]>,
    /// See [`LayerSpec`].
    pub qk_norm: bool,
    /// See [`LayerSpec`].
    pub post_norms: bool,
    /// What transformers calls the norm before feed-forward.
    pub ffn_norm: &'static str,
    /// Layer i is global if i + 1 is a multiple of this, otherwise local.
    pub period: usize,
    /// Whether a model may have another period than this.
    pub any_period: bool,
    /// Whether local layers have a RoPE base of their own, and global layers may have scaled RoPE.
    pub local_rope: bool,
    /// Whether attention and logits may have softcaps.
    pub softcaps: bool,
    /// Number of layers of the 27B size, whose attention is scaled by n_embd / n_head instead of
    /// the width of a head. llama.cpp, too, recognizes it by this number, because GGUF has no key
    /// for the scale.
    pub n_layer_27b: Option<usize>,
    /// How llama.cpp handles it.
    pub llama_cpp: LlamaCpp,
    /// What absent keys mean.
    pub defaults: Defaults,
}

/// How llama.cpp handles an architecture.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LlamaCpp {
    /// It does not support it.
    Unknown,
    /// It loads only models whose output matrix is the embedding.
    Tied,
    /// It loads models with and without an output matrix of their own.
    WithOutput,
}

/// What absent keys mean. The defaults of transformers' classes and those of llama.cpp agree.
#[derive(Default)]
pub(super) struct Defaults {
    pub n_ctx_train: usize,
    pub window: Option<usize>,
    pub attn_softcap: Option<f32>,
    pub final_softcap: Option<f32>,
    /// RoPE base of global layers.
    pub rope_base: f32,
    /// The sizes that Gemma 3's `config.json` may leave out, because its class in transformers has
    /// defaults: query heads, key/value heads, width of a head, `query_pre_attn_scalar`,
    /// `vocab_size`.
    pub sizes: Option<[usize; 5]>,
}

/// RoPE base of local layers, for architectures in which it differs from that of global layers.
pub(super) const LOCAL_ROPE_BASE: f32 = 10_000.0;

const GEMMA: Row = Row {
    architecture: Architecture::Gemma,
    gguf: "gemma",
    name: "Gemma 1",
    model_type: "gemma",
    class: "GemmaForCausalLM",
    multimodal: None,
    qk_norm: false,
    post_norms: false,
    ffn_norm: "post_attention_layernorm",
    period: 1,
    any_period: false,
    local_rope: false,
    softcaps: false,
    n_layer_27b: None,
    llama_cpp: LlamaCpp::Tied,
    defaults: Defaults {
        n_ctx_train: 8192,
        window: None,
        attn_softcap: None,
        final_softcap: None,
        rope_base: 10_000.0,
        sizes: None,
    },
};

const GEMMA2: Row = Row {
    architecture: Architecture::Gemma2,
    gguf: "gemma2",
    name: "Gemma 2",
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    post_norms: true,
    ffn_norm: "pre_feedforward_layernorm",
    period: 2,
    softcaps: true,
    n_layer_27b: Some(46),
    defaults: Defaults {
        window: Some(4096),
        attn_softcap: Some(50.0),
        final_softcap: Some(30.0),
        ..GEMMA.defaults
    },
    ..GEMMA
};

const VAULT_GEMMA: Row = Row {
    architecture: Architecture::VaultGemma,
    gguf: "vaultgemma",
    name: "VaultGemma",
    model_type: "vaultgemma",
    class: "VaultGemmaForCausalLM",
    post_norms: false,
    any_period: true,
    n_layer_27b: None,
    llama_cpp: LlamaCpp::Unknown,
    ..GEMMA2
};

const GEMMA3: Row = Row {
    architecture: Architecture::Gemma3,
    gguf: "gemma3",
    name: "Gemma 3",
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    multimodal: Some(["gemma3", "Gemma3ForConditionalGeneration"]),
    qk_norm: true,
    period: 6,
    any_period: true,
    local_rope: true,
    n_layer_27b: Some(62),
    llama_cpp: LlamaCpp::WithOutput,
    defaults: Defaults {
        n_ctx_train: 131_072,
        window: Some(4096),
        attn_softcap: None,
        final_softcap: None,
        rope_base: 1_000_000.0,
        sizes: Some([8, 4, 256, 256, 262_208]),
    },
    ..GEMMA2
};

/// The only list of architectures.
const ROWS: [&Row; 4] = [&GEMMA, &GEMMA2, &VAULT_GEMMA, &GEMMA3];

/// Related models that are not supported, by `model_type` or `general.architecture`, with a
/// description.
const OTHERS: [(&str, &str); 12] = [
    ("gemma-embedding", "EmbeddingGemma, an embedding model"),
    ("gemma3n", "Gemma 3n, which has per-layer embeddings and shared keys"),
    ("gemma3n_text", "Gemma 3n, which has per-layer embeddings and shared keys"),
    ("gemma4", "Gemma 4, which has different layers"),
    ("gemma4_text", "Gemma 4, which has different layers"),
    ("paligemma", "PaliGemma, which reads images"),
    ("recurrent_gemma", "RecurrentGemma, which has recurrent layers"),
    ("recurrentgemma", "RecurrentGemma, which has recurrent layers"),
    ("shieldgemma2", "ShieldGemma 2, which judges images"),
    ("t5gemma", "T5Gemma, an encoder with a decoder"),
    ("t5gemma2", "T5Gemma 2, an encoder with a decoder"),
    ("colgemma", "a retrieval model"),
];

/// Classes that share the `model_type` of a supported architecture but are other kinds of models.
const OTHER_CLASSES: [(&str, &str); 3] = [
    ("Gemma3TextModel", "EmbeddingGemma, an embedding model"),
    ("ForSequenceClassification", "a classifier"),
    ("ForTokenClassification", "a classifier"),
];

impl Architecture {
    /// All architectures.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.into_iter().map(|row| row.architecture)
    }

    /// The name in messages, such as `Gemma 2`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// `general.architecture` of its GGUF files, and the prefix of their keys.
    pub fn gguf_name(self) -> &'static str {
        self.row().gguf
    }

    /// The specifications of `n_layer` layers with the architecture's default window, RoPE bases
    /// and softcap.
    pub fn layers(self, n_layer: usize) -> Vec<LayerSpec> {
        let Row { period, local_rope, ref defaults, .. } = *self.row();
        let global = RopeSpec { base: defaults.rope_base, factor: 1.0 };
        let base = if local_rope { LOCAL_ROPE_BASE } else { defaults.rope_base };
        let local = RopeSpec { base, factor: 1.0 };
        let (window, softcap) = (defaults.window, defaults.attn_softcap);
        Layers { architecture: self, n_layer, period, window, softcap, global, local }.specs()
    }

    /// Whether llama.cpp supports it.
    pub fn is_in_llama_cpp(self) -> bool {
        self.row().llama_cpp != LlamaCpp::Unknown
    }

    /// Whether llama.cpp loads models of it that have an output matrix of their own.
    pub fn llama_cpp_takes_output(self) -> bool {
        self.row().llama_cpp == LlamaCpp::WithOutput
    }

    /// Whether its models may have vision tensors, which are left out.
    pub(super) fn has_vision(self) -> bool {
        self.row().multimodal.is_some()
    }

    /// The architecture of a GGUF file whose `general.architecture` is `name`.
    pub(super) fn of_gguf(name: &str) -> Result<Self, ConfigError> {
        let row = ROWS.iter().find(|row| row.gguf == name);
        row.map(|row| row.architecture).ok_or_else(|| unsupported("general.architecture", name))
    }

    /// The architecture of a checkpoint.
    pub(super) fn of_checkpoint(c: &CheckpointConfig) -> Result<Self, ConfigError> {
        let class = c.class.as_deref().unwrap_or_default();
        if let Some((_, what)) = OTHER_CLASSES.iter().find(|(other, _)| class.ends_with(other)) {
            let (key, found) = ("architectures", class.to_owned());
            return Err(ConfigError::Architecture {
                key,
                found,
                what: Some(what),
                supported: supported(),
            });
        }
        let of_type = |ty: &str| {
            ROWS.iter()
                .find(|row| row.model_type == ty || row.multimodal.is_some_and(|m| m[0] == ty))
        };
        let of_class = |class: &str| {
            ROWS.iter()
                .find(|row| row.class == class || row.multimodal.is_some_and(|m| m[1] == class))
        };
        let (key, found, row) = match &c.model_type {
            Some(ty) => ("model_type", ty.as_str(), of_type(ty)),
            None if class.is_empty() => ("model_type", "(none)", None),
            None => ("architectures", class, of_class(class)),
        };
        row.map(|row| row.architecture).ok_or_else(|| unsupported(key, found))
    }

    pub(super) fn row(self) -> &'static Row {
        ROWS.into_iter().find(|row| row.architecture == self).expect("every architecture has a row")
    }
}

fn unsupported(key: &'static str, found: &str) -> ConfigError {
    let what = OTHERS.iter().find(|(name, _)| *name == found).map(|(_, what)| *what);
    ConfigError::Architecture { key, found: found.to_owned(), what, supported: supported() }
}

/// The names of all architectures, for messages.
fn supported() -> String {
    let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    names.join(", ")
}

/// What the layers of a model have in common. Their specifications are made from it.
pub(super) struct Layers {
    pub architecture: Architecture,
    pub n_layer: usize,
    /// See [`Row::period`].
    pub period: usize,
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    pub global: RopeSpec,
    pub local: RopeSpec,
}

impl Layers {
    /// The specification of each layer.
    pub fn specs(&self) -> Vec<LayerSpec> {
        let Row { qk_norm, post_norms, .. } = *self.architecture.row();
        let spec = |layer: usize| {
            let local = !(layer + 1).is_multiple_of(self.period);
            LayerSpec {
                window: self.window.filter(|_| local),
                rope: if local { self.local } else { self.global },
                softcap: self.softcap,
                qk_norm,
                post_norms,
            }
        };
        (0..self.n_layer).map(spec).collect()
    }
}
