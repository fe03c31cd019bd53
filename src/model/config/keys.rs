//! The keys of `config.json` that a [`Config`](super::Config) is not made from. Each is known to be
//! harmless, has the only value that this program can keep, or is named to the person who opens the
//! model.
//!
//! Sources: transformers' `configuration_utils.py`, `modeling_rope_utils.py`, `masking_utils.py`, and
//! the configurations of the Gemma family, versions 4.42 to 5.

use lapidary_formats::checkpoint::{CheckpointConfig, Others, RopeConfig};
use serde_json::{json, Value};

use super::checkpoint::refuse;
use super::ConfigError;

/// Keys that are read elsewhere, or change nothing that a model computes: names and versions, types
/// of weights (the files have them), ids (the tokenizer has them), training, what Python returns, the
/// parts that see, and settings of sampling, which belong to whoever runs the model.
const HARMLESS: &str = "
    _name_or_path architectures model_type quantization_config compression_config text_config
    eos_token_id bos_token_id pad_token_id tie_word_embeddings sep_token_id decoder_start_token_id
    transformers_version _commit_hash auto_map tokenizer_class base_model_tp_plan
    unsloth_fixed unsloth_version _from_model_config
    dtype torch_dtype use_bfloat16 torchscript tf_legacy_loss
    initializer_range attention_dropout gradient_checkpointing pretraining_tp
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal attn_implementation
    use_cache is_decoder chunk_size_feed_forward cross_attention_hidden_size
    output_attentions output_hidden_states output_scores return_dict return_dict_in_generate
    problem_type id2label label2id num_labels task_specific_params prefix finetuning_task
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    forced_bos_token_id forced_eos_token_id bad_words_ids no_repeat_ngram_size
    encoder_no_repeat_ngram_size repetition_penalty length_penalty temperature top_k top_p typical_p
    do_sample early_stopping max_length min_length num_beams num_beam_groups diversity_penalty
    num_return_sequences model_max_length tokenizer_model_max_length tokenizer_padding_side
    vision_config mm_tokens_per_image boi_token_index eoi_token_index image_token_index
    boi_token_id eoi_token_id image_token_id
";

/// Keys on which transformers' classes act. `true` for the values that change nothing.
type Rule = (&'static str, fn(&Value) -> bool, &'static str);
const RULES: [Rule; 8] = [
    (
        "use_bidirectional_attention",
        |v| *v == false,
        "it runs as a causal model only, and this is an encoder",
    ),
    ("is_causal", |v| *v == true, "only causal attention is supported"),
    ("is_encoder_decoder", |v| *v == false, "encoders with decoders are not supported"),
    ("add_cross_attention", |v| *v == false, "cross-attention is not supported"),
    ("pruned_heads", |v| *v == json!({}), "pruned heads are not supported"),
    ("partial_rotary_factor", |v| v.as_f64() == Some(1.0), "RoPE must turn whole heads"),
    (
        "cache_implementation",
        |v| v != "quantized",
        "--kv q8_0 asks for a quantized KV cache, this key has to go",
    ),
    ("cache_config", |v| *v == json!({}), "--kv chooses the KV cache, this key has to go"),
];

/// Keys of `rope_parameters` and `rope_scaling` that the supported types of RoPE do not use.
const HARMLESS_IN_ROPE: [&str; 1] = ["original_max_position_embeddings"];

/// Refuses values that would make the model compute something else.
pub(super) fn check(c: &CheckpointConfig) -> Result<(), ConfigError> {
    for (key, value) in given(&c.others).chain(given(&c.text.others)) {
        let rule = RULES.iter().find(|(name, ..)| *name == key);
        if let Some((key, _, rule)) = rule.filter(|(_, is_taken, _)| !is_taken(value)) {
            return refuse(key, value, rule);
        }
    }
    let ropes =
        [("rope_scaling", &c.text.rope_scaling), ("rope_parameters", &c.text.rope_parameters)];
    for (key, rope) in ropes {
        rope.iter().try_for_each(|rope| check_rope(key, rope))?;
    }
    Ok(())
}

/// The keys of which nothing is known.
pub(super) fn unknown(c: &CheckpointConfig) -> Vec<String> {
    let is_known = |key: &str| {
        HARMLESS.split_whitespace().any(|name| name == key)
            || RULES.iter().any(|(name, ..)| *name == key)
    };
    let keys = given(&c.others).chain(given(&c.text.others)).map(|(key, _)| key);
    let mut keys: Vec<String> = keys.filter(|key| !is_known(key)).map(str::to_owned).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The keys with another value than `null`, which says as much as an absent key.
fn given(others: &Others) -> impl Iterator<Item = (&str, &Value)> {
    others.iter().map(|(key, value)| (key.as_str(), value)).filter(|(_, value)| !value.is_null())
}

fn check_rope(key: &str, rope: &RopeConfig) -> Result<(), ConfigError> {
    for (name, value) in given(&rope.others).filter(|(name, _)| !HARMLESS_IN_ROPE.contains(name)) {
        let rule = RULES.iter().find(|(known, ..)| *known == name);
        if !rule.is_some_and(|(_, is_taken, _)| is_taken(value)) {
            return refuse(&format!("{key}.{name}"), value, "this kind of RoPE is not supported");
        }
    }
    let by_type =
        [("full_attention", &rope.full_attention), ("sliding_attention", &rope.sliding_attention)];
    for (name, rope) in by_type {
        let Some(rope) = rope else { continue };
        if key != "rope_parameters" {
            let key = format!("{key}.{name}");
            return refuse(&key, "set", "only rope_parameters has layer types");
        }
        check_rope(&format!("{key}.{name}"), rope)?;
    }
    Ok(())
}
