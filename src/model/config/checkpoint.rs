//! Reads a configuration from `config.json`.

use lapidary_formats::checkpoint::{CheckpointConfig, RopeConfig, TextConfig};

use super::{check_layers, keys, Config, ConfigError, Keys};
use crate::kernels::RopeSpec;
use crate::model::architecture::{Architecture, Layers, Row, LOCAL_ROPE_BASE};

const ACTIVATION: &str = "gelu_pytorch_tanh";

impl Config {
    /// The configuration in a checkpoint's `config.json`.
    ///
    /// An absent key gets the default of transformers' class if all published models use that
    /// default. Widths and the number of layers must be present.
    ///
    /// # Errors
    /// If the model is not of the Gemma family, needs something that is not supported, lacks a key,
    /// or contradicts itself.
    pub fn from_checkpoint(c: &CheckpointConfig) -> Result<Self, ConfigError> {
        let architecture = Architecture::of_checkpoint(c)?;
        let (row, t) = (architecture.row(), &c.text);
        check_supported(c)?;
        let sizes = row.defaults.sizes.map(|sizes| sizes.map(Some)).unwrap_or_default();
        let [n_head, n_head_kv, head_dim, _, n_vocab] = sizes;
        let n_layer = required("num_hidden_layers", t.num_hidden_layers, None)?;
        let n_layer = check_layers(n_layer, architecture, Keys::Checkpoint)?;
        let head_dim = required("head_dim", t.head_dim, head_dim)?;
        let n_embd = required("hidden_size", t.hidden_size, None)?;
        let scalar = query_pre_attn_scalar(t, row, (n_layer, n_embd, head_dim))?;
        let [attn_softcap, final_softcap] = softcaps(t, row)?;
        let (global, local) = ropes(t, row)?;
        let layers = Layers {
            architecture,
            n_layer,
            period: period(t, row, n_layer)?,
            window: match window(t)? {
                Some(window) => row.defaults.window.and(Some(whole(window))),
                None => row.defaults.window,
            },
            softcap: attn_softcap,
            global,
            local,
        };
        Self {
            architecture,
            name: c.name.clone(),
            n_vocab: required("vocab_size", t.vocab_size, n_vocab)?,
            n_ctx_train: t.max_position_embeddings.map_or(row.defaults.n_ctx_train, whole),
            n_embd,
            n_ff: required("intermediate_size", t.intermediate_size, None)?,
            n_head: required("num_attention_heads", t.num_attention_heads, n_head)?,
            n_head_kv: required("num_key_value_heads", t.num_key_value_heads, n_head_kv)?,
            head_dim,
            rms_eps: t.rms_norm_eps.unwrap_or(1e-6) as f32,
            embd_scale: Self::root_of_width(n_embd),
            attn_scale: (1.0 / scalar.sqrt()) as f32,
            final_softcap,
            layers: layers.specs(),
        }
        .checked(Keys::Checkpoint)
    }
}

impl Config {
    /// The keys of a checkpoint's `config.json` of which nothing is known, sorted.
    pub fn unknown_keys(c: &CheckpointConfig) -> Vec<String> {
        keys::unknown(c)
    }
}

/// Converts a number whose much smaller limit is checked later.
fn whole(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn required(
    key: &'static str,
    value: Option<u64>,
    default: Option<usize>,
) -> Result<usize, ConfigError> {
    let value = value.map(whole).or(default);
    value.ok_or_else(|| ConfigError::Missing(key.to_owned()))
}

pub(super) fn refuse<T>(key: &str, value: impl ToString, rule: &str) -> Result<T, ConfigError> {
    let (key, value, rule) = (key.to_owned(), value.to_string(), rule.to_owned());
    Err(ConfigError::Value { key, value, rule })
}

/// Refuses settings that would make the model compute something else.
fn check_supported(c: &CheckpointConfig) -> Result<(), ConfigError> {
    let t = &c.text;
    if t.attention_bias == Some(true) {
        return refuse("attention_bias", true, "the Gemma family has no biases");
    }
    keys::check(c)?;
    check_activation(t)
}

/// The value that two keys give, which may be there both.
fn agreed<T: PartialEq + ToString>(
    (key, a): (&str, Option<T>),
    (other, b): (&str, Option<T>),
) -> Result<Option<T>, ConfigError> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => {
            refuse(key, a, &format!("`{other}` says {}, and both mean the same", b.to_string()))
        }
        (a, b) => Ok(a.or(b)),
    }
}

/// How many positions local layers attend to. The first releases of Gemma 2 had another key for it.
fn window(t: &TextConfig) -> Result<Option<u64>, ConfigError> {
    agreed(("sliding_window", t.sliding_window), ("sliding_window_size", t.sliding_window_size))
}

/// Checks the activation function. transformers uses `hidden_activation` if it is given. The first
/// Gemma files had only `hidden_act: "gelu"`, which has always meant the tanh approximation
/// ([transformers#29402](https://github.com/huggingface/transformers/pull/29402)).
fn check_activation(t: &TextConfig) -> Result<(), ConfigError> {
    let (key, name) = match (&t.hidden_activation, &t.hidden_act) {
        (Some(name), _) => ("hidden_activation", name),
        (None, Some(name)) if name != "gelu" => ("hidden_act", name),
        (None, _) => return Ok(()),
    };
    match name == ACTIVATION {
        true => Ok(()),
        false => refuse(key, name, "only gelu_pytorch_tanh is supported"),
    }
}

/// The number by whose square root attention scores are divided. `sizes` are the number of layers,
/// the width of the residual stream, and the width of a head.
fn query_pre_attn_scalar(
    t: &TextConfig,
    row: &Row,
    sizes: (usize, usize, usize),
) -> Result<f64, ConfigError> {
    let key = "query_pre_attn_scalar";
    let scalar = match (t.query_pre_attn_scalar, row.defaults.sizes) {
        // The first 9B files had 224, which is n_embd / n_head, but the model was trained with 256
        // (https://github.com/huggingface/transformers/pull/31891).
        (Some(224.0), _) if sizes == (42, 3584, 256) => 256.0,
        (Some(scalar), _) => scalar,
        (None, Some(sizes)) => sizes[3] as f64,
        // Gemma 1 does not have this key; it is the architecture without softcaps.
        (None, None) if !row.softcaps => sizes.2 as f64,
        (None, None) => return Err(ConfigError::Missing(key.into())),
    };
    match (scalar as f32).is_finite() && scalar as f32 > 0.0 {
        true => Ok(scalar),
        false => refuse(key, scalar, "it must be finite and above zero"),
    }
}

/// The softcaps of attention and of the logits.
fn softcaps(t: &TextConfig, row: &Row) -> Result<[Option<f32>; 2], ConfigError> {
    let softcap = |key, value: Option<Option<f64>>, default| match value {
        None => Ok(default),
        Some(Some(cap)) if !row.softcaps => {
            refuse(key, cap, &format!("{} has no softcaps", row.name))
        }
        Some(cap) => Ok(cap.map(|cap| cap as f32)),
    };
    Ok([
        softcap("attn_logit_softcapping", t.attn_logit_softcapping, row.defaults.attn_softcap)?,
        softcap("final_logit_softcapping", t.final_logit_softcapping, row.defaults.final_softcap)?,
    ])
}

/// The distance between global layers. A list of layer types must agree with it.
fn period(t: &TextConfig, row: &Row, n_layer: usize) -> Result<usize, ConfigError> {
    let types = t.layer_types.as_deref().unwrap_or_default();
    if t.layer_types.is_some() && types.len() != n_layer {
        let rule = format!("there are {n_layer} layers");
        return refuse("layer_types", format!("a list of {}", types.len()), &rule);
    }
    let pattern = agreed(
        ("sliding_window_pattern", t.sliding_window_pattern),
        ("_sliding_window_pattern", t.private_sliding_window_pattern),
    )?;
    let listed = types.iter().position(|ty| ty == "full_attention").map(|layer| layer + 1);
    let listed = listed.or((!types.is_empty()).then_some(n_layer + 1));
    let period = match pattern.map(whole) {
        Some(0) => return refuse("sliding_window_pattern", 0, "it must be above zero"),
        Some(period) => period,
        None if row.any_period => listed.unwrap_or(row.period),
        None => row.period,
    };
    if period != row.period && !row.any_period {
        let rule = format!("in {} it must be {}", row.name, row.period);
        return refuse("sliding_window_pattern", period, &rule);
    }
    for (layer, ty) in types.iter().enumerate() {
        let expected = match (layer + 1).is_multiple_of(period) {
            true => "full_attention",
            false => "sliding_attention",
        };
        if ty != expected {
            let rule = format!("layer {layer} of {} should be {expected}", row.name);
            return refuse("layer_types", ty, &rule);
        }
    }
    Ok(period)
}

/// RoPE of global and of local layers.
fn ropes(t: &TextConfig, row: &Row) -> Result<(RopeSpec, RopeSpec), ConfigError> {
    let parameters = t.rope_parameters.as_ref();
    let full = parameters.and_then(|rope| rope.full_attention.as_deref());
    let sliding = parameters.and_then(|rope| rope.sliding_attention.as_deref());
    let base = |rope: Option<&RopeConfig>| rope.and_then(|rope| rope.rope_theta);
    let factor = |key, rope: Option<&RopeConfig>| match rope {
        Some(rope) => factor_of(key, rope, row),
        None => Ok(None),
    };
    const PARAMETERS: &str = "rope_parameters";
    // By layer type, the values beside the types belong to none.
    let global = full.or(parameters.filter(|_| sliding.is_none()));
    let factors = (factor(PARAMETERS, global)?, factor("rope_scaling", t.rope_scaling.as_ref())?);
    let factor = agreed((PARAMETERS, factors.0), ("rope_scaling", factors.1))?.unwrap_or(1.0);
    let base_of_all = agreed((PARAMETERS, base(parameters)), ("rope_theta", t.rope_theta))?;
    let given = agreed((PARAMETERS, base(full)), ("rope_theta", base_of_all))?;
    let scaling = base(t.rope_scaling.as_ref());
    let given = agreed(("rope_scaling", scaling), ("rope_theta", given))?;
    let global =
        RopeSpec { base: given.map_or(row.defaults.rope_base, |base| base as f32), factor };
    if let Some(factor) =
        sliding.map(|rope| factor_of(PARAMETERS, rope, row)).transpose()?.flatten()
    {
        if factor != 1.0 {
            let rule = "scaled RoPE is not supported in local layers";
            return refuse(PARAMETERS, factor, rule);
        }
    }
    let local = ("rope_local_base_freq", t.rope_local_base_freq);
    let local = match agreed((PARAMETERS, base(sliding)), local)?.map(|base| base as f32) {
        None if row.local_rope => LOCAL_ROPE_BASE,
        None => global.base,
        Some(local) if row.local_rope || local == global.base => local,
        Some(local) => {
            let rule = format!("all layers of {} have one base, {}", row.name, global.base);
            return refuse(PARAMETERS, local, &rule);
        }
    };
    Ok((global, RopeSpec { base: local, factor: 1.0 }))
}

/// The factor by which positions are divided; `None` if `rope` does not give one.
fn factor_of(key: &str, rope: &RopeConfig, row: &Row) -> Result<Option<f32>, ConfigError> {
    // Older versions of transformers call the type `type`, and some files have both.
    let kind = agreed(("rope_type", rope.rope_type.as_ref()), ("type", rope.r#type.as_ref()))?;
    match (kind.map(String::as_str), rope.factor) {
        (Some("default"), _) => Ok(Some(1.0)),
        // transformers 5 writes no type if there is nothing but the base.
        (None, None) if key == "rope_parameters" => Ok(None),
        (Some("linear"), Some(factor)) if row.local_rope => Ok(Some(factor as f32)),
        (kind, _) => {
            let rule = match row.local_rope {
                true => "only linear scaling with a factor is supported",
                false => "scaled RoPE is not supported",
            };
            refuse(key, kind.unwrap_or("(none)"), rule)
        }
    }
}
