//! Checkpoints: the fixture is read correctly, and errors say what is wrong with a checkpoint.

mod added_tokens;
mod config;
mod tokenizer;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use lapidary_formats::checkpoint::{Checkpoint, CheckpointError};
use lapidary_formats::quant::QuantType;
use serde_json::{json, Value};
use tempfile::TempDir;

/// A checkpoint directory made by hand: a configuration and an embedding of 16 rows.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        let dir = Self(TempDir::new().unwrap());
        dir.json("config.json", &config());
        dir.write("model.safetensors", &embedding());
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string().as_bytes());
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn open(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(self.0.path())
    }

    fn refused(&self) -> CheckpointError {
        self.open().unwrap_err()
    }
}

fn config() -> Value {
    json!({
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "query_pre_attn_scalar": 2,
        "vocab_size": 16,
    })
}

fn embedding() -> Vec<u8> {
    let entry = json!({"dtype": "BF16", "shape": [16, 4], "data_offsets": [0, 128]});
    safetensors(&json!({"model.embed_tokens.weight": entry}), 128)
}

/// A safetensors file with `header` and `n` bytes of data.
fn safetensors(header: &Value, n: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..n).map(|i| i as u8));
    bytes
}

/// The checkpoint that all of Lapidary's tests share.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-gemma2")
}

#[test]
fn the_fixture_opens() {
    let checkpoint = Checkpoint::open(fixture()).unwrap();
    assert_eq!(checkpoint.dir(), fixture());
    let config = &checkpoint.config().text;
    let size = |n: Option<u64>| n.unwrap() as usize;
    let hidden_size = size(config.hidden_size);
    let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.shape, [hidden_size, size(config.vocab_size)]);
    let down = checkpoint.tensor("model.layers.0.mlp.down_proj.weight").unwrap();
    assert_eq!(down.shape, [size(config.intermediate_size), hidden_size]);
    assert_eq!(down.data.len(), down.len() * 2);
    assert_eq!(down.ty, QuantType::BF16);
    assert!(checkpoint.tensor("lm_head.weight").is_none());
    assert_eq!(checkpoint.stop_ids().ids, [1, 107]);
    let template = checkpoint.chat_template().unwrap().unwrap();
    assert!(template.contains("<start_of_turn>"));
}

#[test]
fn every_type_and_shape_is_read_in_order() {
    let dir = Dir::new();
    let header = json!({
        "__metadata__": {"format": "pt"},
        "last": {"dtype": "F32", "shape": [3], "data_offsets": [20, 32]},
        "first": {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16]},
        "middle": {"dtype": "BF16", "shape": [1, 2, 1], "data_offsets": [16, 20]},
    });
    dir.write("model.safetensors", &safetensors(&header, 32));
    let checkpoint = dir.open().unwrap();
    let all: Vec<_> = checkpoint.tensors().map(|t| (t.name, t.ty, t.shape, t.data[0])).collect();
    use QuantType::*;
    let expected =
        [("first", F16, &[4, 2][..], 0), ("middle", BF16, &[1, 2, 1], 16), ("last", F32, &[3], 20)];
    assert_eq!(all, expected);
}

#[test]
fn chat_templates_are_found_in_every_place() {
    let dir = Dir::new();
    let template = || dir.open().unwrap().chat_template().unwrap();
    assert_eq!(template(), None);
    dir.json("tokenizer_config.json", &json!({"chat_template": null}));
    assert_eq!(template(), None);
    dir.json("tokenizer_config.json", &json!({"chat_template": "one"}));
    assert_eq!(template().as_deref(), Some("one"));
    let named = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
    dir.json("tokenizer_config.json", &json!({"chat_template": named}));
    assert_eq!(template().as_deref(), Some("d"));
    dir.write("chat_template.jinja", b"own file");
    assert_eq!(template().as_deref(), Some("own file"));
    dir.write("chat_template.jinja", b"\xff");
    let error = dir.open().unwrap().chat_template().unwrap_err();
    assert!(matches!(error, CheckpointError::NotUtf8 { .. }));
}
