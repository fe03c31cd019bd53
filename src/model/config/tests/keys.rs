//! Keys of `config.json` that contradict each other, or of which nothing is known.

use lapidary_formats::checkpoint::TextConfig;

use super::*;

/// The same thing may be said under two keys, but not two things.
#[test]
fn keys_that_contradict_each_other_are_refused() {
    let default = |base: f64| json!({"rope_type": "default", "rope_theta": base});
    let cases = [
        (json!({"sliding_window": 7, "sliding_window_size": 8}), "sliding_window"),
        (
            json!({"sliding_window_pattern": 2, "_sliding_window_pattern": 3}),
            "sliding_window_pattern",
        ),
        (json!({"rope_theta": 1e4, "rope_parameters": default(5e5)}), "rope_parameters"),
        (
            json!({"rope_theta": 1e4, "rope_parameters": {
                "full_attention": default(5e5), "sliding_attention": default(5e5),
            }}),
            "rope_parameters",
        ),
        (json!({"rope_scaling": {"rope_type": "default", "type": "linear"}}), "rope_type"),
        (json!({"rope_theta": 1e4, "rope_scaling": default(5e5)}), "rope_scaling"),
    ];
    for (changes, expected) in cases {
        let error = gemma2(changes).unwrap_err();
        assert!(matches!(&error, ConfigError::Value { key, .. } if key == expected), "{error}");
        assert!(error.to_string().ends_with(", and both mean the same"), "{error}");
    }
    let linear = |factor| json!({"rope_type": "linear", "factor": factor});
    let both = |a, b| {
        gemma3(json!({"rope_scaling": linear(a), "rope_parameters": {
            "full_attention": linear(b), "sliding_attention": default(1e4),
        }}))
    };
    assert_eq!(both(8, 8).unwrap().global_rope().unwrap().factor, 8.0);
    assert!(
        matches!(both(8, 4).unwrap_err(), ConfigError::Value { key, .. } if key == "rope_parameters")
    );
    let local = json!({"rope_local_base_freq": 2e4, "rope_parameters": {
        "full_attention": default(1e6), "sliding_attention": default(1e4),
    }});
    assert!(
        matches!(gemma3(local).unwrap_err(), ConfigError::Value { key, .. } if key == "rope_parameters")
    );
}

/// RoPE of a kind that is known by its parameters only.
#[test]
fn parameters_of_other_kinds_of_rope_are_refused() {
    let with = |key: &str, value: Value| {
        let mut rope = json!({"rope_type": "default", "rope_theta": 1e4});
        rope[key] = value;
        gemma2(json!({ "rope_parameters": rope }))
    };
    for (key, value) in [
        ("mrope_section", json!([1, 2])),
        ("partial_rotary_factor", json!(0.25)),
        ("long_factor", json!([1.0])),
    ] {
        let error = with(key, value).unwrap_err();
        let expected = format!("rope_parameters.{key}");
        assert!(matches!(&error, ConfigError::Value { key, .. } if *key == expected), "{error}");
    }
    // Layer types where nothing reads them.
    for (changes, expected) in [
        (
            json!({"rope_scaling": {"rope_type": "default", "full_attention": {"factor": 8}}}),
            "rope_scaling.full_attention",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"sliding_attention": {"factor": 8}}}}),
            "rope_parameters.full_attention.sliding_attention",
        ),
    ] {
        let error = gemma2(changes).unwrap_err();
        assert!(matches!(&error, ConfigError::Value { key, .. } if key == expected), "{error}");
    }
    for (key, value) in [
        ("partial_rotary_factor", json!(1.0)),
        ("original_max_position_embeddings", json!(8192)),
        ("long_factor", Value::Null),
    ] {
        with(key, value).unwrap();
    }
}

#[test]
fn keys_of_which_nothing_is_known_are_named() {
    let unknown = |value: Value| {
        let text: TextConfig = serde_json::from_value(value).unwrap();
        let others = serde_json::from_value(json!({"vision_config": {}, "new_part": 1})).unwrap();
        let (name, model_type, class) = ("model".to_owned(), None, None);
        let (quantized, tie_word_embeddings) = (false, true);
        Config::unknown_keys(&CheckpointConfig {
            name,
            model_type,
            class,
            text,
            quantized,
            tie_word_embeddings,
            others,
        })
    };
    let text = json!({"hidden_size": 4, "use_cache": true, "torch_dtype": "float32", "is_causal": true,
        "logit_scale": 2.0, "alpha": null});
    assert_eq!(unknown(text), ["logit_scale", "new_part"]);
}
