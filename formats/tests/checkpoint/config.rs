//! `config.json` and `generation_config.json`.

use super::*;

/// What becomes of [`config`] with `changes` laid over it; a change to `"(absent)"` removes a key.
fn changed(changes: Value) -> Result<Checkpoint, CheckpointError> {
    let mut config = config();
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value.as_str() {
            Some("(absent)") => map.remove(key),
            _ => map.insert(key.clone(), value.clone()),
        };
    }
    let dir = Dir::new();
    dir.json("config.json", &config);
    dir.open()
}

#[test]
fn absent_keys_take_the_defaults_of_transformers() {
    let checkpoint = changed(json!({})).unwrap();
    let c = checkpoint.config();
    assert_eq!((c.attn_logit_softcapping, c.final_logit_softcapping), (Some(50.0), Some(30.0)));
    assert_eq!((c.rms_norm_eps, c.rope_theta), (1e-6, 10_000.0));
    assert_eq!((c.max_position_embeddings, c.sliding_window), (8192, 4096));
    assert!(c.tie_word_embeddings);
    assert_eq!(c.hidden_activation, "gelu_pytorch_tanh");
    assert_eq!((c.bos_token_id, c.pad_token_id, c.eos_token_ids.len()), (None, None, 0));
}

#[test]
fn given_keys_are_taken() {
    let checkpoint = changed(json!({
        "_name_or_path": "google/gemma-2-2b-it",
        "attn_logit_softcapping": null,
        "final_logit_softcapping": 15,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "sliding_window": 7,
        "tie_word_embeddings": false,
        "bos_token_id": 2,
        "eos_token_id": [1, 7],
        "pad_token_id": -1,
        "torch_dtype": "bfloat16",
        "layer_types": ["sliding_attention"],
        "rope_scaling": null,
        "attention_bias": false,
    }));
    let checkpoint = checkpoint.unwrap();
    let c = checkpoint.config();
    assert_eq!(c.name, "gemma-2-2b-it");
    assert_eq!((c.attn_logit_softcapping, c.final_logit_softcapping), (None, Some(15.0)));
    assert_eq!((c.rms_norm_eps, c.rope_theta, c.sliding_window), (1e-5, 5e5, 7));
    assert!(!c.tie_word_embeddings);
    assert_eq!((c.bos_token_id, c.pad_token_id), (Some(2), None));
    assert_eq!(c.eos_token_ids, [1, 7]);
    assert_eq!(c.torch_dtype.as_deref(), Some("bfloat16"));
}

#[test]
fn newer_and_older_spellings_are_taken() {
    let five = json!({
        "dtype": "float32",
        "rope_parameters": {"rope_type": "default", "rope_theta": 2e4},
    });
    let checkpoint = changed(five).unwrap();
    assert_eq!(checkpoint.config().rope_theta, 2e4);
    assert_eq!(checkpoint.config().torch_dtype.as_deref(), Some("float32"));
    assert_eq!(changed(json!({"sliding_window_size": 9})).unwrap().config().sliding_window, 9);
    for activation in [
        json!({"hidden_act": "gelu"}),
        json!({"hidden_act": "gelu", "hidden_activation": null}),
        json!({"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"}),
    ] {
        assert!(changed(activation).is_ok());
    }
    assert!(changed(json!({"model_type": "(absent)"})).is_ok());
}

#[test]
fn other_models_are_refused_by_name() {
    let found = |changes| match changed(changes) {
        Err(CheckpointError::ModelType { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(json!({"model_type": "llama"})), "llama");
    let class = json!({"model_type": "(absent)", "architectures": ["GemmaForCausalLM"]});
    assert_eq!(found(class), "GemmaForCausalLM");
    let nothing = json!({"model_type": "(absent)", "architectures": "(absent)"});
    assert_eq!(found(nothing), "(none)");
    let message = changed(json!({"model_type": "llama"})).unwrap_err().to_string();
    assert!(message.ends_with("config.json: model_type `llama` is not supported, only gemma2"));
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
        let error = changed(json!({name: "(absent)"})).unwrap_err();
        assert!(matches!(error, CheckpointError::MissingKey { key, .. } if key == name));
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    for (name, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(100_000)),
        ("vocab_size", json!(1u64 << 63)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(3)),
        ("query_pre_attn_scalar", json!(0)),
        ("rms_norm_eps", json!(-1e-6)),
        ("rope_theta", json!(1e300)),
        ("attn_logit_softcapping", json!(0)),
        ("hidden_activation", json!("gelu")),
        ("hidden_activation", json!("silu")),
        ("hidden_act", json!("silu")),
        ("rope_scaling", json!({"type": "linear", "factor": 2})),
        ("rope_scaling", json!({"factor": 2})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 1e4})),
        ("attention_bias", json!(true)),
        ("layer_types", json!(["full_attention"])),
        ("quantization_config", json!({"quant_method": "bitsandbytes"})),
        ("bos_token_id", json!(16)),
        ("eos_token_id", json!([1, 16])),
        ("pad_token_id", json!(-2)),
    ] {
        let error = changed(json!({name: value})).unwrap_err();
        assert!(matches!(error, CheckpointError::Value { key, .. } if key == name), "{error}");
    }
    for (name, value) in [("hidden_size", json!(-1)), ("head_dim", json!("two"))] {
        assert!(matches!(changed(json!({name: value})), Err(CheckpointError::Json { .. })));
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let dir = Dir::new();
    dir.write("config.json", b"<!doctype html><title>Sign in</title>");
    assert!(matches!(dir.refused(), CheckpointError::StandIn { .. }));
    dir.write("config.json", b"{\"model_type\": ");
    assert!(matches!(dir.refused(), CheckpointError::Json { .. }));
    dir.remove("config.json");
    assert!(matches!(dir.refused(), CheckpointError::Open { .. }));
}

#[test]
fn generation_config_goes_before_config() {
    let dir = Dir::new();
    let mut config = config();
    config["eos_token_id"] = json!(1);
    dir.json("config.json", &config);
    let ids = || dir.open().map(|c| c.generation().eos_token_ids.clone());
    assert_eq!(ids().unwrap(), [1]);
    dir.json("generation_config.json", &json!({"temperature": 1.0}));
    assert_eq!(ids().unwrap(), [1]);
    dir.json("generation_config.json", &json!({"eos_token_id": 7}));
    assert_eq!(ids().unwrap(), [7]);
    dir.json("generation_config.json", &json!({"eos_token_id": [1, 7]}));
    assert_eq!(ids().unwrap(), [1, 7]);
    dir.json("generation_config.json", &json!({"eos_token_id": 99}));
    assert!(matches!(ids(), Err(CheckpointError::Value { key: "eos_token_id", .. })));
}

#[test]
fn settings_far_larger_than_any_are_refused() {
    let dir = Dir::new();
    dir.write("config.json", &vec![b' '; (8 << 20) + 1]);
    let message = dir.refused().to_string();
    let expected = "config.json: has 8388609 bytes, at most 8388608 are read of such a file";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn keys_that_occur_twice_are_refused() {
    let dir = Dir::new();
    let text = config().to_string().replacen('{', "{\"hidden_size\": 4, ", 1);
    dir.write("config.json", text.as_bytes());
    let message = dir.refused().to_string();
    assert!(message.contains("config.json: duplicate field `hidden_size`"), "{message}");
}
