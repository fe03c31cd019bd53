//! Reads a configuration from the metadata of a GGUF file, and writes it there. The keys are those
//! of llama.cpp's converter.

use lapidary_formats::gguf::{Gguf, Header, Value};

use super::{check_layers, Config, ConfigError, Keys};
use crate::kernels::RopeSpec;
use crate::model::architecture::{Architecture, LayerSpec, Layers, LOCAL_ROPE_BASE};
use crate::model::TensorKind;

impl Config {
    /// The configuration in the metadata of a GGUF file. An absent key means the same as in
    /// llama.cpp.
    ///
    /// # Errors
    /// If the model is not of the Gemma family, needs something that is not supported, lacks a key,
    /// or contradicts itself.
    pub fn from_gguf(g: &Gguf) -> Result<Self, ConfigError> {
        let architecture = architecture(g)?;
        let metadata = Metadata { gguf: g, architecture };
        let row = architecture.row();
        let n_vocab = match g.tensor(&TensorKind::TokenEmbd.name(None)) {
            Some(t) => t.rows(),
            None => return Err(ConfigError::NoEmbedding),
        };
        let n_embd = metadata.size("embedding_length")?;
        let n_layer = check_layers(metadata.size("block_count")?, architecture, Keys::Gguf)?;
        let n_head = metadata.size_of_layers("attention.head_count", n_layer)?;
        let n_head = n_head.ok_or_else(|| metadata.missing("attention.head_count"))?;
        let n_head_kv = metadata.size_of_layers("attention.head_count_kv", n_layer)?;
        let n_ff = metadata.size_of_layers("feed_forward_length", n_layer)?;
        let head_dim = metadata.size_if_there("attention.key_length")?;
        let rms_eps = "attention.layer_norm_rms_epsilon";
        let (global, local) = metadata.ropes()?;
        let layers = Layers {
            architecture,
            n_layer,
            period: metadata.period(n_layer)?,
            window: metadata.window()?,
            softcap: metadata.softcap("attn_logit_softcapping", row.defaults.attn_softcap)?,
            global,
            local,
        };
        let mut config = Self {
            architecture,
            name: g.str("general.name")?.unwrap_or(row.gguf).to_owned(),
            n_vocab,
            n_ctx_train: metadata.size("context_length")?,
            n_embd,
            n_ff: n_ff.ok_or_else(|| metadata.missing("feed_forward_length"))?,
            n_head,
            n_head_kv: n_head_kv.unwrap_or(n_head),
            head_dim: head_dim.unwrap_or(n_embd / n_head.max(1)),
            rms_eps: metadata
                .float(rms_eps)?
                .ok_or_else(|| ConfigError::Missing(metadata.key(rms_eps)))?,
            // llama.cpp has this key for other architectures. It multiplies by the root without
            // rounding, and some converters may write that value here.
            embd_scale: metadata
                .float("embedding_scale")?
                .unwrap_or_else(|| Self::root_of_width(n_embd)),
            attn_scale: 0.0,
            final_softcap: metadata
                .softcap("final_logit_softcapping", row.defaults.final_softcap)?,
            layers: layers.specs(),
        };
        config.attn_scale =
            metadata.float("attention.scale")?.unwrap_or_else(|| config.inferred_attn_scale());
        let config = config.checked(Keys::Gguf)?;
        metadata.check_supported(&config)?;
        Ok(config)
    }
}

impl Config {
    /// Sets the keys for the model's sizes and constants.
    ///
    /// # Panics
    /// If a size does not fit in a `u32`.
    pub fn set_metadata(&self, header: &mut Header) {
        let (row, prefix) = (self.architecture.row(), self.architecture.gguf_name());
        let mut set_size = |key: &str, size: usize| {
            let size = u32::try_from(size).expect("sizes were bounded when they were read");
            header.set(format!("{prefix}.{key}"), size);
        };
        set_size("context_length", self.n_ctx_train);
        set_size("embedding_length", self.n_embd);
        set_size("block_count", self.n_layer());
        set_size("feed_forward_length", self.n_ff);
        set_size("attention.head_count", self.n_head);
        set_size("attention.head_count_kv", self.n_head_kv);
        set_size("attention.key_length", self.head_dim);
        set_size("attention.value_length", self.head_dim);
        let usual = |(i, layer): (usize, &LayerSpec)| {
            layer.is_local() != (i + 1).is_multiple_of(row.period)
        };
        match self.sliding_window() {
            // An absent key means that there are no local layers.
            None if row.local_rope => {}
            window => {
                if let Some(window) = window.or(row.defaults.window) {
                    set_size("attention.sliding_window", window);
                }
                if row.defaults.window.is_some() && !self.layers.iter().enumerate().all(usual) {
                    set_size("attention.sliding_window_pattern", self.period());
                }
            }
        }
        let mut set = |key: &str, value: f32| header.set(format!("{prefix}.{key}"), value);
        set("attention.layer_norm_rms_epsilon", self.rms_eps);
        let global = self.global_rope();
        set("rope.freq_base", global.map_or(row.defaults.rope_base, |rope| rope.base));
        if row.local_rope {
            let local = self.local_rope().map_or(LOCAL_ROPE_BASE, |rope| rope.base);
            set("rope.freq_base_swa", local);
        }
        // Zero means that there is no softcap. The key cannot be left out, because readers would
        // then use the architecture's default.
        let softcaps = [
            ("attn_logit_softcapping", row.defaults.attn_softcap, self.attn_softcap()),
            ("final_logit_softcapping", row.defaults.final_softcap, self.final_softcap),
        ];
        for (key, default, cap) in softcaps {
            if cap.or(default).is_some() {
                set(key, cap.unwrap_or(0.0));
            }
        }
        if self.embd_scale != Self::root_of_width(self.n_embd) {
            set("embedding_scale", self.embd_scale);
        }
        // For these architectures llama.cpp does not read this key and infers the value from the
        // number of layers. Lapidary reads it, so that it also runs sizes that Google never
        // published.
        set("attention.scale", self.attn_scale);
        if let Some(factor) = global.map(|rope| rope.factor).filter(|factor| *factor != 1.0) {
            set("rope.scaling.factor", factor);
            header.set(format!("{prefix}.rope.scaling.type"), "linear");
        }
    }
}

/// The architecture, if the file contains a model that is supported.
fn architecture(g: &Gguf) -> Result<Architecture, ConfigError> {
    let kind = g.str("general.type")?.unwrap_or("model");
    if kind == "adapter" || g.get("adapter.type").is_some() {
        return Err(ConfigError::Adapter);
    }
    if kind != "model" {
        return Err(ConfigError::Kind(kind.to_owned()));
    }
    Architecture::of_gguf(g.str("general.architecture")?.unwrap_or("(none)"))
}

/// The metadata keys of one architecture.
struct Metadata<'g> {
    gguf: &'g Gguf,
    architecture: Architecture,
}

impl Metadata<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.gguf_name())
    }

    fn size_if_there(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        Ok(self.gguf.u32(&self.key(key))?.map(|n| n as usize))
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.size_if_there(key)?.ok_or_else(|| self.missing(key))
    }

    /// A size that some converters write as a list, by layer. All layers must have the same.
    fn size_of_layers(&self, key: &str, n_layer: usize) -> Result<Option<usize>, ConfigError> {
        let value = self.gguf.get(&self.key(key));
        let Some(list) = value.as_ref().and_then(|value| value.as_array()) else {
            return self.size_if_there(key);
        };
        let mut sizes = list.values().map(|size| size.as_int::<usize>());
        let first = sizes.next().flatten();
        match first.is_some() && list.len() == n_layer && sizes.all(|size| size == first) {
            true => Ok(first),
            false => {
                let rule = format!("expected one number, or the same for each of {n_layer} layers");
                self.refuse(key, &value.expect("it is a list"), &rule)
            }
        }
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing(self.key(key))
    }

    fn float(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        Ok(self.gguf.f32(&self.key(key))?)
    }

    fn refuse<T>(&self, key: &str, value: &Value, rule: &str) -> Result<T, ConfigError> {
        let (key, value, rule) = (self.key(key), value.to_string(), rule.to_owned());
        Err(ConfigError::Value { key, value, rule })
    }

    /// A softcap. If the key is absent, the architecture's default applies; zero means none.
    fn softcap(&self, key: &str, default: Option<f32>) -> Result<Option<f32>, ConfigError> {
        let row = self.architecture.row();
        match self.float(key)? {
            None => Ok(default),
            Some(0.0) => Ok(None),
            Some(cap) if !row.softcaps => {
                self.refuse(key, &Value::F32(cap), &format!("{} has no softcaps", row.name))
            }
            cap => Ok(cap),
        }
    }

    /// The attention window of the local layers. In architectures whose local layers have a RoPE base
    /// of their own, an absent key or zero means that there are no local layers.
    fn window(&self) -> Result<Option<usize>, ConfigError> {
        let row = self.architecture.row();
        let window = self.size_if_there("attention.sliding_window")?;
        Ok(match row.defaults.window {
            None => None,
            Some(_) if row.local_rope => window.filter(|window| *window != 0),
            default => window.or(default),
        })
    }

    /// The distance between global layers. The key holds the number, or a list that says for each
    /// layer whether it is local.
    fn period(&self, n_layer: usize) -> Result<usize, ConfigError> {
        let (row, key) = (self.architecture.row(), "attention.sliding_window_pattern");
        if row.local_rope && self.window()?.is_none() {
            return Ok(1);
        }
        let Some(value) = self.gguf.get(&self.key(key)) else { return Ok(row.period) };
        let local: Option<Vec<bool>> =
            value.as_array().and_then(|array| array.values().map(|v| v.as_bool()).collect());
        let period = match (value.as_int::<usize>(), local) {
            (Some(period), _) if period > 0 => period,
            (_, Some(local)) if local.len() == n_layer => {
                let period = local.iter().position(|local| !local).map_or(n_layer + 1, |i| i + 1);
                let regular = |(i, local): (usize, &bool)| *local != (i + 1).is_multiple_of(period);
                match local.iter().enumerate().all(regular) {
                    true => period,
                    false => {
                        return self.refuse(key, &value, "global layers must be evenly spaced")
                    }
                }
            }
            _ => {
                return self.refuse(key, &value, "expected a number above zero, or a bool by layer")
            }
        };
        match period == row.period || row.any_period {
            true => Ok(period),
            false => {
                self.refuse(key, &value, &format!("in {} it must be {}", row.name, row.period))
            }
        }
    }

    /// RoPE of global and of local layers.
    fn ropes(&self) -> Result<(RopeSpec, RopeSpec), ConfigError> {
        let row = self.architecture.row();
        let base = self.float("rope.freq_base")?.unwrap_or(row.defaults.rope_base);
        let factor = match self.float("rope.scaling.factor")? {
            None => self.float("rope.scale_linear")?,
            factor => factor,
        };
        // As in llama.cpp, zero means the same as an absent key.
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let ty = self.gguf.get(&self.key("rope.scaling.type"));
        let factor = match ty.as_ref().map(|ty| (ty, ty.as_str())) {
            Some((_, Some("none"))) => 1.0,
            None | Some((_, Some("linear"))) if row.local_rope || factor == 1.0 => factor,
            Some((ty, kind)) if kind != Some("linear") => {
                return self.refuse("rope.scaling.type", ty, "only linear scaling is supported")
            }
            _ => {
                let rule = format!("scaled RoPE is not supported for {}", row.name);
                return self.refuse("rope.scaling.factor", &Value::F32(factor), &rule);
            }
        };
        let local = match self.float("rope.freq_base_swa")? {
            None if row.local_rope => LOCAL_ROPE_BASE,
            None => base,
            Some(local) if local == base || row.local_rope => local,
            Some(local) => {
                let rule = format!("all layers of {} have one base", row.name);
                return self.refuse("rope.freq_base_swa", &Value::F32(local), &rule);
            }
        };
        Ok((RopeSpec { base, factor }, RopeSpec { base: local, factor: 1.0 }))
    }

    /// Refuses values that would make the model compute something else. llama.cpp reads these keys
    /// for every architecture. In the files of its own converter they have the accepted values.
    fn check_supported(&self, c: &Config) -> Result<(), ConfigError> {
        let is = |value: &Value, size: usize| value.as_int() == Some(size);
        // The key, whether a value is accepted, and why others are not.
        type Rule<'a> = (&'static str, &'a dyn Fn(&Value) -> bool, &'static str);
        let rules: [Rule; 7] = [
            ("rope.dimension_count", &|v| is(v, c.head_dim), "it must be the width of a head"),
            ("attention.value_length", &|v| is(v, c.head_dim), "it must be the width of a head"),
            (
                "attention.causal",
                &|v| v.as_bool() == Some(true),
                "only causal attention is supported",
            ),
            (
                "rope.scaling.attn_factor",
                &|v| v.as_f32() == Some(1.0),
                "only linear scaling is supported",
            ),
            ("pooling_type", &|v| is(v, 0), "embedding models are not supported"),
            ("expert_count", &|v| is(v, 0), "experts are not supported"),
            ("vocab_size", &|v| is(v, c.n_vocab), "it must be the number of the embedding's rows"),
        ];
        for (key, taken, rule) in rules {
            if let Some(value) = self.gguf.get(&self.key(key)).filter(|value| !taken(value)) {
                return self.refuse(key, &value, rule);
            }
        }
        Ok(())
    }
}
