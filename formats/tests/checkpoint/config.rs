//! `config.json` and `generation_config.json`.

use super::*;

/// Opens a checkpoint with [`config`] and `changes` applied to it; `"(absent)"` removes a key.
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
fn what_is_absent_stays_absent() {
    let checkpoint = changed(json!({"head_dim": "(absent)"})).unwrap();
    let c = checkpoint.config();
    assert_eq!(
        (c.model_type.as_deref(), c.class.as_deref()),
        (Some("gemma2"), Some("Gemma2ForCausalLM"))
    );
    assert_eq!((c.text.hidden_size, c.text.head_dim, c.text.rope_theta), (Some(4), None, None));
    assert_eq!((c.text.attn_logit_softcapping, c.quantized), (None, false));
    assert!(checkpoint.stop_ids().ids.is_empty());
}

#[test]
fn given_keys_are_read() {
    let checkpoint = changed(json!({
        "_name_or_path": "google/gemma-2-2b-it",
        "attn_logit_softcapping": null,
        "final_logit_softcapping": 15,
        "rope_parameters": {"full_attention": {"type": "linear", "factor": 8}},
        "_sliding_window_pattern": 6,
        "eos_token_id": [1, 7, -1],
        "quantization_config": {"quant_method": "bitsandbytes"},
    }));
    let checkpoint = checkpoint.unwrap();
    let c = checkpoint.config();
    assert_eq!((c.name.as_str(), c.quantized), ("gemma-2-2b-it", true));
    let softcaps = (c.text.attn_logit_softcapping, c.text.final_logit_softcapping);
    assert_eq!(softcaps, (Some(None), Some(Some(15.0))));
    let full = c.text.rope_parameters.as_ref().unwrap().full_attention.as_ref().unwrap();
    assert_eq!((full.r#type.as_deref(), full.factor), (Some("linear"), Some(8.0)));
    assert_eq!(c.text.private_sliding_window_pattern, Some(6));
    assert_eq!(checkpoint.stop_ids().ids, [1, 7]);
}

#[test]
fn a_text_model_among_others_is_read_where_it_is() {
    let changes = json!({"model_type": "gemma3", "text_config": {"hidden_size": 640}});
    let checkpoint = changed(changes).unwrap();
    let c = checkpoint.config();
    assert_eq!((c.model_type.as_deref(), c.text.hidden_size), (Some("gemma3"), Some(640)));
    assert_eq!(c.text.head_dim, None);
}

#[test]
fn values_of_another_type_are_refused() {
    for (name, value) in [("hidden_size", json!(-1)), ("head_dim", json!("two"))] {
        assert!(matches!(changed(json!({name: value})), Err(CheckpointError::Json { .. })));
    }
}

#[test]
fn files_that_are_not_a_configuration_are_refused() {
    let dir = Dir::new();
    dir.write("config.json", b"<!doctype html><title>Sign in</title>");
    assert!(matches!(dir.refused(), CheckpointError::StandIn { .. }));
    dir.write("config.json", b"{\"model_type\": ");
    assert!(matches!(dir.refused(), CheckpointError::Json { .. }));
    dir.remove("config.json");
    assert!(matches!(dir.refused(), CheckpointError::Open { .. }));
}

#[test]
fn generation_config_takes_precedence_over_config() {
    let dir = Dir::new();
    let mut config = config();
    config["eos_token_id"] = json!(1);
    dir.json("config.json", &config);
    let ids = || dir.open().map(|c| c.stop_ids().ids.clone());
    assert_eq!(ids().unwrap(), [1]);
    dir.json("generation_config.json", &json!({"temperature": 1.0}));
    assert_eq!(ids().unwrap(), [1]);
    dir.json("generation_config.json", &json!({"eos_token_id": 7}));
    assert_eq!(ids().unwrap(), [7]);
    dir.json("generation_config.json", &json!({"eos_token_id": [1, 7]}));
    assert_eq!(ids().unwrap(), [1, 7]);
    let path = dir.open().unwrap().stop_ids().path.clone();
    assert_eq!(path, dir.path("generation_config.json"));
}

#[test]
fn oversized_settings_are_refused() {
    let dir = Dir::new();
    dir.write("config.json", &vec![b' '; (8 << 20) + 1]);
    let message = dir.refused().to_string();
    let expected = "config.json: has 8388609 bytes, but at most 8388608 are allowed for this file";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn keys_that_occur_twice_are_refused() {
    let dir = Dir::new();
    let text = config().to_string().replacen('{', "{\"hidden_size\": 4, ", 1);
    dir.write("config.json", text.as_bytes());
    let message = dir.refused().to_string();
    assert!(message.contains("config.json: \"hidden_size\" occurs twice"), "{message}");
}

#[test]
fn a_snapshot_has_the_name_of_its_repository() {
    use lapidary_formats::checkpoint::directory_name;
    for (path, name) in [
        ("models--someone--gemma-2-tuned/snapshots/1f9d1f9d", Some("gemma-2-tuned")),
        ("/hub/models--gemma/snapshots/1f9d", Some("gemma")),
        ("/hub/models--someone--a--b/snapshots/1f9d", Some("b")),
        ("/models/snapshots/gemma-2-2b", Some("gemma-2-2b")),
        ("models--someone--gemma/refs/gemma-2", Some("gemma-2")),
        ("gemma-2-2b-it", Some("gemma-2-2b-it")),
        ("/", None),
    ] {
        assert_eq!(directory_name(path.as_ref()).as_deref(), name, "{path}");
    }
}
