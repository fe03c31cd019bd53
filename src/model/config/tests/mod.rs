//! `config.json` of every architecture: the meaning of absent keys, accepted values and refused
//! ones.

use lapidary_formats::checkpoint::{CheckpointConfig, Others};
use lapidary_formats::gguf::{Gguf, Header, Writer};
use lapidary_formats::quant::QuantType;
use serde_json::{json, Value};

use super::*;

mod keys;

/// `base` with `changes`; the value `"(absent)"` removes a key.
fn changed(base: Value, changes: Value) -> Result<Config, ConfigError> {
    let mut config = base;
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value.as_str() {
            Some("(absent)") => map.remove(key),
            _ => map.insert(key.clone(), value.clone()),
        };
    }
    let text = |key: &str| config[key].as_str().map(str::to_owned);
    let class = config["architectures"][0].as_str().map(str::to_owned);
    let quantized = !config["quantization_config"].is_null();
    let (name, model_type) = ("model".to_owned(), text("model_type"));
    let text = serde_json::from_value(config.get("text_config").unwrap_or(&config).clone());
    let (text, others, tie_word_embeddings) = (text.unwrap(), Others::new(), true);
    Config::from_checkpoint(&CheckpointConfig {
        name,
        model_type,
        class,
        text,
        quantized,
        tie_word_embeddings,
        others,
    })
}

fn sizes() -> Value {
    json!({
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "vocab_size": 16,
    })
}

fn gemma(changes: Value) -> Result<Config, ConfigError> {
    let mut base = sizes();
    base["model_type"] = json!("gemma");
    changed(base, changes)
}

fn gemma2(changes: Value) -> Result<Config, ConfigError> {
    let mut base = sizes();
    base["model_type"] = json!("gemma2");
    base["architectures"] = json!(["Gemma2ForCausalLM"]);
    base["query_pre_attn_scalar"] = json!(4);
    changed(base, changes)
}

fn gemma3(changes: Value) -> Result<Config, ConfigError> {
    let base = json!({
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 13,
    });
    changed(base, changes)
}

/// The indices of the global layers.
fn global(c: &Config) -> Vec<usize> {
    (0..c.n_layer()).filter(|i| !c.layers[*i].is_local()).collect()
}

fn rope(base: f32, factor: f32) -> RopeSpec {
    RopeSpec { base, factor }
}

#[test]
fn gemma_1_is_all_global_and_without_norms_after_sublayers() {
    let c = gemma(json!({"hidden_act": "gelu"})).unwrap();
    assert_eq!((c.architecture, c.n_ctx_train), (Architecture::Gemma, 8192));
    let layer = LayerSpec {
        window: None,
        rope: rope(1e4, 1.0),
        softcap: None,
        qk_norm: false,
        post_norms: false,
    };
    assert_eq!(c.layers, [layer; 12]);
    assert_eq!((c.final_softcap, c.attn_scale), (None, (0.5f32).sqrt()));
    let error = gemma(json!({"final_logit_softcapping": 30.0})).unwrap_err().to_string();
    assert_eq!(error, "`final_logit_softcapping` is 30: Gemma 1 has no softcaps");
}

#[test]
fn gemma_2_takes_the_defaults_of_transformers() {
    let c = gemma2(json!({})).unwrap();
    assert_eq!((c.attn_softcap(), c.final_softcap), (Some(50.0), Some(30.0)));
    assert_eq!((c.rms_eps, c.n_ctx_train), (1e-6, 8192));
    assert_eq!((c.sliding_window(), c.attn_scale), (Some(4096), 0.5));
    assert_eq!(global(&c), [1, 3, 5, 7, 9, 11]);
    assert!(c.layers.iter().all(|l| l.rope == rope(1e4, 1.0) && l.post_norms && !l.qk_norm));
}

#[test]
fn vault_gemma_is_gemma_2_without_norms_after_sublayers() {
    let mut c = gemma2(json!({"model_type": "vaultgemma"})).unwrap();
    assert_eq!(c.architecture, Architecture::VaultGemma);
    assert!(c.layers.iter().all(|layer| !layer.post_norms));
    c.architecture = Architecture::Gemma2;
    c.layers.iter_mut().for_each(|layer| layer.post_norms = true);
    assert_eq!(c, gemma2(json!({})).unwrap());
    // As published: all layers are global, although there is a window.
    let types = vec!["full_attention"; 12];
    let c = gemma2(json!({"model_type": "vaultgemma", "layer_types": types})).unwrap();
    assert_eq!(c.sliding_window(), None);
}

#[test]
fn gemma_3_takes_the_defaults_of_transformers() {
    let c = gemma3(json!({"sliding_window": 512})).unwrap();
    assert_eq!((c.n_head, c.n_head_kv, c.head_dim, c.n_vocab), (8, 4, 256, 262_208));
    assert_eq!((c.n_ctx_train, c.attn_scale), (131_072, 1.0 / 16.0));
    assert_eq!((c.attn_softcap(), c.final_softcap), (None, None));
    assert_eq!(global(&c), [5, 11]);
    assert_eq!((c.global_rope(), c.local_rope()), (Some(rope(1e6, 1.0)), Some(rope(1e4, 1.0))));
    assert_eq!(c.sliding_window(), Some(512));
    assert!(c.layers.iter().all(|layer| layer.qk_norm && layer.post_norms));
}

#[test]
fn the_text_config_of_multimodal_gemma_3_is_used() {
    let text = json!({
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    });
    for (model_type, class) in
        [(json!("gemma3"), json!(null)), (json!(null), json!(["Gemma3ForConditionalGeneration"]))]
    {
        let whole = json!({
            "model_type": model_type,
            "architectures": class,
            "text_config": text,
            "vision_config": {"hidden_size": 1152},
        });
        let c = changed(whole, json!({})).unwrap();
        assert_eq!((c.architecture, c.n_embd, c.n_layer()), (Architecture::Gemma3, 2560, 34));
        assert_eq!((c.global_rope(), c.local_rope()), (Some(rope(1e6, 8.0)), Some(rope(1e4, 1.0))));
    }
}

#[test]
fn given_keys_override_the_defaults() {
    let c = gemma2(json!({
        "attn_logit_softcapping": null,
        "final_logit_softcapping": 15,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "sliding_window": 7,
        "layer_types": (["sliding_attention", "full_attention"].repeat(6)),
        "rope_scaling": null,
        "attention_bias": false,
        "use_bidirectional_attention": false,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "rope_parameters": {"rope_type": "default", "type": "default", "rope_theta": 5e5},
        "sliding_window_size": 7,
        "_sliding_window_pattern": 2,
        "sliding_window_pattern": 2,
        "cache_implementation": "hybrid",
        "is_encoder_decoder": false,
        "pruned_heads": {},
        "partial_rotary_factor": 1,
        "cross_attention_hidden_size": null,
    }));
    let c = c.unwrap();
    assert_eq!((c.attn_softcap(), c.final_softcap), (None, Some(15.0)));
    assert_eq!((c.rms_eps, c.sliding_window()), (1e-5, Some(7)));
    assert_eq!((c.global_rope(), c.local_rope()), (Some(rope(5e5, 1.0)), Some(rope(5e5, 1.0))));
}

#[test]
fn newer_and_older_spellings_of_keys_are_read() {
    let five = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}});
    assert_eq!(gemma2(five).unwrap().global_rope(), Some(rope(2e4, 1.0)));
    let both = json!({"rope_scaling": {"type": "default", "rope_type": "default"}});
    assert!(gemma2(both).is_ok());
    let window = gemma2(json!({"sliding_window_size": 9})).unwrap().sliding_window();
    assert_eq!(window, Some(9));
    for activation in [
        json!({"hidden_act": "gelu"}),
        json!({"hidden_act": "gelu", "hidden_activation": null}),
        json!({"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"}),
    ] {
        assert!(gemma2(activation).is_ok());
    }
    assert!(gemma2(json!({"model_type": "(absent)"})).is_ok());
    // Gemma 3 as written by transformers 5.
    let by_layer_type = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }});
    let c = gemma3(by_layer_type).unwrap();
    assert_eq!((c.global_rope(), c.local_rope()), (Some(rope(2e6, 4.0)), Some(rope(2e4, 1.0))));
    let types = ["sliding_attention", "sliding_attention", "full_attention"];
    let types: Vec<_> = types.into_iter().cycle().take(13).collect();
    assert_eq!(global(&gemma3(json!({"layer_types": types})).unwrap()), [2, 5, 8, 11]);
    let c = gemma3(json!({"sliding_window_pattern": 4})).unwrap();
    assert_eq!(global(&c), [3, 7, 11]);
    // The first 9B files.
    let nine = json!({"hidden_size": 3584, "num_hidden_layers": 42, "head_dim": 256,
        "query_pre_attn_scalar": 224});
    assert_eq!(gemma2(nine).unwrap().attn_scale, 1.0 / 16.0);
}

#[test]
fn other_models_are_refused_by_name() {
    let supported = "Lapidary runs Gemma 1, Gemma 2, VaultGemma, Gemma 3";
    for (changes, expected) in [
        (json!({"model_type": "llama"}), "model_type `llama` is not supported"),
        (
            json!({"model_type": "gemma3n"}),
            "model_type `gemma3n` is not supported (Gemma 3n, which has per-layer embeddings and shared \
             keys)",
        ),
        (json!({"model_type": "gemma4"}), "model_type `gemma4` is not supported (Gemma 4, which has different layers)"),
        (
            json!({"model_type": "recurrent_gemma"}),
            "model_type `recurrent_gemma` is not supported (RecurrentGemma, which has recurrent layers)",
        ),
        (
            json!({"model_type": "t5gemma"}),
            "model_type `t5gemma` is not supported (T5Gemma, an encoder with a decoder)",
        ),
        (
            json!({"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"]}),
            "architectures `Gemma3TextModel` is not supported (EmbeddingGemma, an embedding model)",
        ),
        (
            json!({"architectures": ["Gemma2ForSequenceClassification"]}),
            "architectures `Gemma2ForSequenceClassification` is not supported (a classifier)",
        ),
        (
            json!({"model_type": "(absent)", "architectures": ["LlamaForCausalLM"]}),
            "architectures `LlamaForCausalLM` is not supported",
        ),
        (
            json!({"model_type": "(absent)", "architectures": "(absent)"}),
            "model_type `(none)` is not supported",
        ),
    ] {
        let message = gemma2(changes).unwrap_err().to_string();
        assert_eq!(message, format!("{expected}: {supported}"));
    }
}

#[test]
fn missing_keys_are_named() {
    for name in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "query_pre_attn_scalar",
        "vocab_size",
    ] {
        let error = gemma2(json!({name: "(absent)"})).unwrap_err();
        assert!(matches!(error, ConfigError::Missing(key) if key == name));
    }
}

#[test]
fn invalid_and_unsupported_values_are_refused() {
    for (name, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(100_000)),
        ("vocab_size", json!(1u64 << 63)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(3)),
        ("query_pre_attn_scalar", json!(0)),
        ("rms_norm_eps", json!(-1e-6)),
        ("rope_theta", json!(1e300)),
        ("sliding_window", json!(0)),
        ("attn_logit_softcapping", json!(0)),
        ("hidden_activation", json!("gelu")),
        ("hidden_activation", json!("silu")),
        ("hidden_act", json!("silu")),
        ("rope_scaling", json!({"type": "linear", "factor": 2})),
        ("rope_scaling", json!({"factor": 2})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 1e4})),
        (
            "rope_parameters",
            json!({
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }),
        ),
        ("attention_bias", json!(true)),
        ("use_bidirectional_attention", json!(true)),
        ("layer_types", json!(["full_attention"])),
        ("sliding_window_pattern", json!(6)),
        ("rope_theta", json!(1e-45)),
        ("layer_types", json!(["sliding_attention", "full_attention"])),
        ("layer_types", json!((["full_attention"].repeat(12)))),
        ("is_causal", json!(false)),
        ("is_encoder_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("partial_rotary_factor", json!(0.5)),
        ("cache_implementation", json!("quantized")),
        ("cache_config", json!({"backend": "quanto", "nbits": 4})),
    ] {
        let error = gemma2(json!({name: value})).unwrap_err();
        assert!(matches!(&error, ConfigError::Value { key, .. } if key == name), "{error}");
    }
    for (name, value) in [
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0})),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 2})),
        ("rope_local_base_freq", json!(-1)),
        ("sliding_window_pattern", json!(0)),
        ("layer_types", json!(["sliding_attention", "full_attention", "full_attention"])),
    ] {
        let error = gemma3(json!({name: value})).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Value { key, .. } if key.starts_with(name)),
            "{error}"
        );
    }
}

#[test]
fn the_embedding_is_scaled_by_a_rounded_root() {
    let widths = [2304, 3584, 4608, 640, 1152, 256];
    let expected = [48.0, 59.75, 68.0, 25.25, 34.0, 16.0];
    assert_eq!(widths.map(Config::root_of_width), expected);
}

/// Writes the metadata of `config` to a GGUF file, after `change`, and reads the configuration back.
fn through_gguf(config: &Config, change: impl FnOnce(&mut Header)) -> Result<Config, ConfigError> {
    let mut header = Header::new();
    header.set("general.architecture", config.architecture.gguf_name());
    header.set("general.name", config.name.as_str());
    config.set_metadata(&mut header);
    header.add_tensor("token_embd.weight", QuantType::F32, &[1, config.n_vocab]).unwrap();
    change(&mut header);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = Writer::new(file.reopen().unwrap(), header).unwrap();
    writer.write(&vec![0; 4 * config.n_vocab]).unwrap();
    writer.finish().unwrap();
    Config::from_gguf(&Gguf::open(file.path()).unwrap())
}

#[test]
fn gguf_metadata_hold_the_whole_configuration() {
    let types = |ty: &str| json!({ "layer_types": vec![ty; 12] });
    let vault = |mut changes: Value| {
        changes["model_type"] = json!("vaultgemma");
        gemma2(changes)
    };
    for config in [
        gemma(json!({})),
        gemma2(json!({"sliding_window": 7, "attn_logit_softcapping": null})),
        gemma2(json!({"num_hidden_layers": 1, "query_pre_attn_scalar": 3})),
        vault(json!({})),
        vault(types("full_attention")),
        gemma3(json!({})),
        gemma3(json!({"num_hidden_layers": 3, "final_logit_softcapping": 30.0})),
        gemma3(json!({"sliding_window_pattern": 4, "rope_local_base_freq": 2e4})),
        gemma3(json!({"num_hidden_layers": 4, "sliding_window_pattern": 2})),
        gemma3(json!({"num_hidden_layers": 12, "layer_types": vec!["full_attention"; 12]})),
        gemma3(json!({"num_hidden_layers": 2, "layer_types": vec!["full_attention"; 2]})),
        gemma3(json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}})),
    ] {
        let config = config.unwrap();
        assert_eq!(through_gguf(&config, |_| ()).unwrap(), config);
    }
}

/// Keys that llama.cpp's converter leaves out, or writes in another way than we do.
#[test]
fn metadata_of_other_programs_are_read() {
    let config = gemma3(json!({})).unwrap();
    let local: Vec<bool> = (1..=13).map(|i| i % 6 != 0).collect();
    let with = |h: &mut Header| h.set("gemma3.attention.sliding_window_pattern", local.clone());
    assert_eq!(through_gguf(&config, with).unwrap(), config);
    let old = |h: &mut Header| h.set("gemma3.rope.scale_linear", 8.0f32);
    assert_eq!(through_gguf(&config, old).unwrap().global_rope(), Some(rope(1e6, 8.0)));
    let none = |h: &mut Header| h.set("gemma3.attention.sliding_window", 0u32);
    let found = through_gguf(&config, none).unwrap();
    assert_eq!((found.sliding_window(), found.global_rope()), (None, Some(rope(1e6, 1.0))));
    let uneven = |h: &mut Header| {
        h.set("gemma3.attention.sliding_window_pattern", vec![true, false, false, true, true, true])
    };
    let six = gemma3(json!({"num_hidden_layers": 6})).unwrap();
    let error = through_gguf(&six, uneven).unwrap_err().to_string();
    assert!(error.ends_with("global layers must be evenly spaced"), "{error}");
}
