//! Models that contradict themselves or ask for what is not supported, each refused in its own words
//! before it is used.

use std::fs;
use std::path::Path;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::model::{Model, Source};
use lapidary::tokenizer::Tokenizer;
use lapidary::verify::verify;
use lapidary_formats::gguf::{Header, OwnedValue};
use serde_json::{json, Value};
use tempfile::TempDir;

use super::file::File;
use super::small;

/// Asserts what a file says whose metadata were changed.
fn says(change: impl FnOnce(&mut Header), expected: &str) {
    assert_eq!(File::new(&small::gguf(change)).refused(), expected);
}

/// The same for one key of Gemma 2's.
fn key_says(key: &str, value: impl Into<OwnedValue>, expected: &str) {
    says(|h| h.set(format!("gemma2.{key}"), value), expected);
}

/// Asserts why a file with changed metadata has no vocabulary.
fn vocab_says(key: &str, value: impl Into<OwnedValue>, expected: &str) {
    let file = File::new(&small::gguf(|h| h.set(format!("tokenizer.ggml.{key}"), value)));
    let source = Source::open(&file.path()).unwrap();
    assert_eq!(file.cause(source.vocab().unwrap_err()), expected);
}

/// Asserts what a checkpoint says whose `config.json` was changed.
fn config_says(key: &str, value: Value, expected: &str) {
    let dir = TempDir::new().unwrap();
    small::write_checkpoint(dir.path());
    let mut config = small::config_json();
    config[key] = value;
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let message = Source::open(dir.path()).unwrap_err().to_string();
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn the_small_model_is_sound() {
    let file = File::new(&small::gguf(|_| ()));
    let dir = TempDir::new().unwrap();
    small::write_checkpoint(dir.path());
    for path in [&file.path(), dir.path()] {
        let source = Source::open(path).unwrap();
        Tokenizer::new(source.vocab().unwrap()).unwrap();
        Model::load(&source, Some(1)).unwrap();
        assert_eq!(verify(path, Some(1), &mut ()).unwrap().findings, []);
    }
}

/// What is said of a size of Gemma 2's that is outside of 1 to `limit`.
fn outside(key: &str, found: u32, limit: u32) -> String {
    format!("`gemma2.{key}` is {found}: expected 1 to {limit}")
}

#[test]
fn no_layers_or_absurdly_many() {
    for n in [0, u32::MAX] {
        key_says("block_count", n, &outside("block_count", n, 1024));
    }
}

#[test]
fn other_layers_than_there_are_tensors_for() {
    let expected = "the configuration asks for 1000 layers, but there are only 24 tensors";
    key_says("block_count", 1000u32, expected);
    key_says("block_count", 3u32, "tensor `blk.2.attn_norm.weight` is missing");
    let expected = "tensor `blk.1.attn_norm.weight` is not part of a Gemma 2 model";
    key_says("block_count", 1u32, expected);
}

#[test]
fn no_heads_or_absurdly_many() {
    for key in ["attention.head_count", "attention.head_count_kv"] {
        for n in [0, 1 << 31, u32::MAX] {
            key_says(key, n, &outside(key, n, 4096));
        }
    }
}

#[test]
fn head_counts_that_disagree() {
    let expected =
        "`gemma2.attention.head_count_kv` is 3: it must divide the number of query heads, 2";
    key_says("attention.head_count_kv", 3u32, expected);
    let shape = |found: &str, expected: &str| {
        format!("has shape {found}, but the configuration asks for {expected}")
    };
    let expected = format!("tensor `blk.0.attn_q.weight` {}", shape("[32, 32]", "[32, 64]"));
    key_says("attention.head_count", 4u32, &expected);
    let expected = format!("tensor `blk.0.attn_k.weight` {}", shape("[32, 16]", "[32, 32]"));
    key_says("attention.head_count_kv", 2u32, &expected);
}

/// Some converters write a list, by layer.
#[test]
fn sizes_by_layer() {
    let says = |key: &str, sizes: Vec<i32>| {
        let shown = sizes.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        let shown = format!("i32[{}]: {shown}", sizes.len());
        let rule = "expected one number, or the same for each of 2 layers";
        key_says(key, sizes, &format!("`gemma2.{key}` is {shown}: {rule}"));
    };
    let keys =
        [("attention.head_count", 2), ("attention.head_count_kv", 1), ("feed_forward_length", 64)];
    for (key, size) in keys {
        says(key, vec![size, size + 1]);
        says(key, vec![size; 3]);
        says(key, vec![-size; 2]);
        let file = File::new(&small::gguf(|h| h.set(format!("gemma2.{key}"), vec![size; 2])));
        let plain = File::new(&small::gguf(|_| ()));
        let config = |file: &File| Source::open(&file.path()).unwrap().config().clone();
        assert_eq!(config(&file), config(&plain));
    }
}

#[test]
fn a_head_width_of_zero_or_absurd() {
    let key = "attention.key_length";
    for n in [0, 1 << 20] {
        key_says(key, n, &outside(key, n, 16384));
    }
    key_says(key, 15u32, "`gemma2.attention.key_length` is 15: RoPE needs an even width");
}

#[test]
fn head_widths_that_disagree() {
    let both = |h: &mut Header| {
        h.set("gemma2.attention.key_length", 32u32);
        h.set("gemma2.attention.value_length", 32u32);
    };
    let expected =
        "tensor `blk.0.attn_q.weight` has shape [32, 32], but the configuration asks for [32, 64]";
    says(both, expected);
    let expected = "`gemma2.attention.value_length` is 8: it must be the width of a head";
    key_says("attention.value_length", 8u32, expected);
    let expected = "`gemma2.rope.dimension_count` is 8: it must be the width of a head";
    key_says("rope.dimension_count", 8u32, expected);
    let same = File::new(&small::gguf(|h| h.set("gemma2.rope.dimension_count", 16u32)));
    assert!(Source::open(&same.path()).is_ok());
}

#[test]
fn constants_that_are_no_numbers() {
    let keys = [
        ("attention.layer_norm_rms_epsilon", "1e-12 to 1e0"),
        ("rope.freq_base", "1e0 to 1e12"),
        ("attention.scale", "1e-6 to 1e6"),
        ("embedding_scale", "1e-6 to 1e6"),
    ];
    for x in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1e-45, 1e30] {
        for (key, range) in keys {
            key_says(key, x, &format!("`gemma2.{key}` is {x}: expected {range}"));
        }
    }
}

#[test]
fn keys_of_the_wrong_type() {
    let expected =
        "metadata key \"gemma2.block_count\" holds str 2, expected an unsigned 32-bit integer";
    key_says("block_count", "2", expected);
    let expected =
        "metadata key \"gemma2.block_count\" holds i32 -1, expected an unsigned 32-bit integer";
    key_says("block_count", -1i32, expected);
    let expected = "metadata key \"general.architecture\" holds u32 2, expected a string";
    says(|h| h.set("general.architecture", 2u32), expected);
}

#[test]
fn vocabularies_smaller_or_larger_than_the_embedding() {
    for n in [small::N_VOCAB - 1, small::N_VOCAB + 1] {
        let other = |h: &mut Header| {
            let texts = (0..n).map(|i| format!("piece {i}")).collect::<Vec<_>>();
            h.set("tokenizer.ggml.tokens", texts);
            h.set("tokenizer.ggml.scores", vec![0f32; n]);
            h.set("tokenizer.ggml.token_type", vec![1i32; n]);
        };
        let file = File::new(&small::gguf(other));
        let source = Source::open(&file.path()).unwrap();
        let expected = format!("the tokenizer has {n} pieces, but the embedding has 270 rows");
        assert_eq!(file.cause(source.vocab().unwrap_err()), expected);
    }
}

#[test]
fn token_ids_outside_the_vocabulary() {
    for id in [270, u32::MAX] {
        let expected = format!("bos has the id {id}, but the vocabulary has 270 pieces");
        vocab_says("bos_token_id", id, &expected);
        // A text can do without the others.
        for (key, name) in [("eos", "eos"), ("eot", "eot"), ("unknown", "unk"), ("padding", "pad")]
        {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let file = File::new(&small::gguf(|h| h.set(key, id)));
            let vocab = Source::open(&file.path()).unwrap().vocab().unwrap();
            assert_eq!(vocab.left_out, [format!("{name} (token {id})")]);
            Tokenizer::new(vocab).unwrap();
        }
    }
}

/// The lists and keys of other ends.
#[test]
fn ends_of_the_wrong_type() {
    let expected = "metadata key \"tokenizer.ggml.eos_token_ids\" holds an array of str, expected an array of integers";
    says(|h| h.set("tokenizer.ggml.eos_token_ids", vec!["1".to_owned()]), expected);
    let expected = "metadata key \"tokenizer.ggml.eom_token_id\" holds f32 1, expected an unsigned 32-bit integer";
    says(|h| h.set("tokenizer.ggml.eom_token_id", 1.0f32), expected);
    let file = File::new(&small::gguf(|h| {
        h.set("tokenizer.ggml.eom_token_id", -1i32);
        h.set("tokenizer.ggml.eos_token_ids", vec![1i32, 5, 99_999, -7]);
    }));
    let source = Source::open(&file.path()).unwrap();
    assert_eq!(source.stop_ids(&source.vocab().unwrap()), [1, 5]);
    assert_eq!(source.notes().len(), 1);
    // A converted file has those that are there.
    let out = file.path().with_file_name("out.gguf");
    let plan = Plan::of_recipe(&source, Recipe::F16);
    convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
    assert!(Source::open(&out).unwrap().notes().is_empty());
    assert_eq!(verify(&out, Some(1), &mut ()).unwrap().findings, []);
    assert_eq!(verify(&file.path(), Some(1), &mut ()).unwrap().findings.len(), 1);
}

#[test]
fn scores_of_another_element_type() {
    let values: [(OwnedValue, &str); 3] = [
        (vec![0f64; 270].into(), "an array of f64"),
        (vec![0u32; 270].into(), "an array of u32"),
        (vec![String::new(); 270].into(), "an array of str"),
    ];
    for (value, found) in values {
        let name = "metadata key \"tokenizer.ggml.scores\"";
        vocab_says("scores", value, &format!("{name} holds {found}, expected an array of f32"));
    }
}

#[test]
fn token_types_of_another_element_type() {
    let values: [(OwnedValue, &str); 3] = [
        (vec![1f32; 270].into(), "an array of f32"),
        (vec![1u8; 270].into(), "an array of u8"),
        (vec![true; 270].into(), "an array of bool"),
    ];
    for (value, found) in values {
        let name = "metadata key \"tokenizer.ggml.token_type\"";
        vocab_says("token_type", value, &format!("{name} holds {found}, expected an array of i32"));
    }
}

#[test]
fn shapes_that_disagree_with_config_json() {
    let shape = |name: &str, found: &str, expected: &str| {
        format!(": tensor `{name}` has shape {found}, but the configuration asks for {expected}")
    };
    let gate = "model.layers.0.mlp.gate_proj.weight";
    config_says("intermediate_size", json!(96), &shape(gate, "[32, 64]", "[32, 96]"));
    let embd = "model.embed_tokens.weight";
    config_says("vocab_size", json!(271), &shape(embd, "[32, 270]", "[32, 271]"));
    let layers = ": the configuration asks for 1000 layers, but there are only 24 tensors";
    config_says("num_hidden_layers", json!(1000), layers);
    let stranger =
        ": tensor `model.layers.1.input_layernorm.weight` is not part of a Gemma 2 model";
    config_says("num_hidden_layers", json!(1), stranger);
}

#[test]
fn adapters() {
    let expected = "is an adapter, not a model: merge it into its base model first";
    says(|h| h.set("general.type", "adapter"), expected);
    says(|h| h.set("adapter.type", "lora"), expected);
}

#[test]
fn files_of_something_else_than_a_model() {
    says(|h| h.set("general.type", "mmproj"), "is of the type mmproj (general.type), not a model");
    says(
        |h| h.set("general.type", "imatrix"),
        "is of the type imatrix (general.type), not a model: it has an importance matrix, for \
         `lapidary convert --imatrix`",
    );
}

#[test]
fn other_architectures() {
    for (name, shown) in [
        ("llama", "`llama` is not supported"),
        ("gemma2\0", "`gemma2\\0` is not supported"),
        (
            "gemma3n",
            "`gemma3n` is not supported (Gemma 3n, which has per-layer embeddings and shared keys)",
        ),
        (
            "gemma-embedding",
            "`gemma-embedding` is not supported (EmbeddingGemma, an embedding model)",
        ),
    ] {
        let runs = "Lapidary runs Gemma 1, Gemma 2, VaultGemma, Gemma 3";
        let expected = format!("general.architecture {shown}: {runs}");
        says(|h| h.set("general.architecture", name), &expected);
    }
}

#[test]
fn what_gemma_2_does_not_do() {
    let refused = |key: &str, value: OwnedValue, shown: &str, rule: &str| {
        key_says(key, value, &format!("`gemma2.{key}` is {shown}: {rule}"));
    };
    let linear = "only linear scaling is supported";
    refused("rope.scaling.type", "yarn".into(), "yarn", linear);
    refused("rope.scaling.type", 1u32.into(), "1", linear);
    let scaled = "scaled RoPE is not supported for Gemma 2";
    refused("rope.scaling.factor", 4f32.into(), "4", scaled);
    let base = "all layers of Gemma 2 have one base";
    refused("rope.freq_base_swa", 1e6f32.into(), "1000000", base);
    let pattern = "attention.sliding_window_pattern";
    refused(pattern, 6u32.into(), "6", "in Gemma 2 it must be 2");
    refused(pattern, 0u32.into(), "0", "expected a number above zero, or a bool by layer");
    refused("attention.causal", false.into(), "false", "only causal attention is supported");
    refused("pooling_type", 1u32.into(), "1", "embedding models are not supported");
    refused("expert_count", 8u32.into(), "8", "experts are not supported");
    refused("vocab_size", 271u32.into(), "271", "it must be the number of the embedding's rows");
    let expected = "`gemma2.rope.scaling.factor` is 2: scaled RoPE is not supported for Gemma 2";
    key_says("rope.scale_linear", 2f32, expected);
}

#[test]
fn a_part_of_a_path_is_no_model() {
    let error = Source::open(Path::new("no/such/model.gguf")).unwrap_err().to_string();
    assert!(error.starts_with("no/such/model.gguf: "), "{error}");
}
