//! The smallest model that has everything, as a GGUF file and as a checkpoint.

use std::fs;
use std::path::Path;

use lapidary::chat::GEMMA2_TEMPLATE;
use lapidary::model::{tensors, Architecture, Config, LayerSpec, Role, TensorSpec};
use lapidary_formats::gguf::{Header, Writer};
use lapidary_formats::quant::QuantType;
use lapidary_formats::vocab::{Piece, PieceKind, Vocab};
use serde_json::{json, Value};

use crate::blocks::blocks;

/// Pieces of the vocabulary.
pub const N_VOCAB: usize = 270;

/// Texts that merging makes, and their halves.
const WORDS: [&str; 8] = ["▁", "t", "h", "e", "▁t", "he", "▁the", "the"];

/// The blueprint: two layers, so that one is local and one is not.
pub fn config() -> Config {
    Config {
        architecture: Architecture::Gemma2,
        name: "small".into(),
        n_vocab: N_VOCAB,
        n_ctx_train: 64,
        n_embd: 32,
        n_ff: 64,
        n_head: 2,
        n_head_kv: 1,
        head_dim: 16,
        rms_eps: 1e-6,
        embd_scale: Config::root_of_width(32),
        attn_scale: 0.25,
        final_softcap: Some(30.0),
        layers: layers(2, 4),
    }
}

/// Layers of Gemma 2 with a window of so many positions.
pub fn layers(n_layer: usize, window: usize) -> Vec<LayerSpec> {
    let narrowed = |layer: LayerSpec| LayerSpec { window: layer.window.and(Some(window)), ..layer };
    Architecture::Gemma2.layers(n_layer).into_iter().map(narrowed).collect()
}

/// Six pieces that steer, 256 bytes and a few words.
pub fn vocab() -> Vocab {
    let piece = |text: &str, score, kind| Piece { text: text.to_owned().into(), score, kind };
    let control = |text| piece(text, -1000.0, PieceKind::Control);
    let mut pieces: Vec<Piece> = ["<pad>", "<eos>", "<bos>"].map(control).into();
    pieces.push(piece("<unk>", -1000.0, PieceKind::Unknown));
    pieces.extend(["<start_of_turn>", "<end_of_turn>"].map(control));
    pieces.extend((0..=255u8).map(|b| piece(&format!("<0x{b:02X}>"), 0.0, PieceKind::Byte)));
    let words = WORDS.iter().enumerate();
    pieces.extend(words.map(|(i, text)| piece(text, -(i as f32), PieceKind::Normal)));
    assert_eq!(pieces.len(), N_VOCAB);
    Vocab {
        pieces: pieces.into_iter().collect(),
        bos: Some(2),
        eos: Some(1),
        eot: Some(5),
        unk: Some(3),
        pad: Some(0),
        add_bos: true,
        add_space_prefix: false,
        add_eos: false,
        left_out: Vec::new(),
    }
}

/// The metadata of a GGUF file.
pub fn metadata(c: &Config) -> Header {
    let mut h = Header::new();
    h.set("general.architecture", "gemma2");
    h.set("general.type", "model");
    h.set("general.name", c.name.as_str());
    let sizes = [
        ("context_length", c.n_ctx_train),
        ("embedding_length", c.n_embd),
        ("block_count", c.n_layer()),
        ("feed_forward_length", c.n_ff),
        ("attention.head_count", c.n_head),
        ("attention.head_count_kv", c.n_head_kv),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
        ("attention.sliding_window", c.sliding_window().unwrap_or(4)),
    ];
    sizes.into_iter().for_each(|(key, n)| h.set(format!("gemma2.{key}"), n as u32));
    h.set("gemma2.attention.layer_norm_rms_epsilon", c.rms_eps);
    h.set("gemma2.attention.scale", c.attn_scale);
    h.set_vocab(&vocab());
    h.set("tokenizer.chat_template", GEMMA2_TEMPLATE);
    h
}

/// A GGUF file of the model `config`, whose matrices are of type `ty` where they are whole blocks of
/// it. `change` may change its [`metadata`], and `values` what a tensor holds.
pub fn gguf_of(
    config: &Config,
    ty: QuantType,
    change: impl FnOnce(&mut Header),
    values: impl Fn(&TensorSpec, &mut [f32]),
) -> Vec<u8> {
    let (specs, mut header) = (tensors(config, false), metadata(config));
    let ty = |spec: &TensorSpec| match (spec.role(), ty.row_bytes(spec.cols())) {
        (Role::Matrix, Some(_)) => ty,
        _ => QuantType::F32,
    };
    for spec in &specs {
        header.add_tensor(&spec.name, ty(spec), &spec.shape).unwrap();
    }
    change(&mut header);
    let others: Vec<u64> = header.tensors()[specs.len()..].iter().map(|t| t.bytes).collect();
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    for spec in &specs {
        let mut x = weights(spec);
        values(spec, &mut x);
        writer.write(&encoded(ty(spec), &x)).unwrap();
    }
    // Tensors that `change` has added hold zeros.
    others.into_iter().for_each(|n| writer.write(&vec![0; n as usize]).unwrap());
    writer.finish().unwrap()
}

/// `x` as `ty`; of a type that is only read, any blocks.
fn encoded(ty: QuantType, x: &[f32]) -> Vec<u8> {
    let Some(quantize) = ty.traits().quantize else {
        let mut byte = 0u8;
        let bytes = || {
            byte = byte.wrapping_mul(29).wrapping_add(17);
            byte
        };
        return blocks(ty, x.len() / ty.block_len(), bytes, |_, _| 0x1c00);
    };
    let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
    quantize(x, &mut bytes);
    bytes
}

/// The small model as a GGUF file of Q8_0 with changed [`metadata`].
pub fn gguf(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    gguf_of(&config(), QuantType::Q8_0, change, |_, _| ())
}

/// Norms are one; matrices have small values of both signs.
fn weights(spec: &TensorSpec) -> Vec<f32> {
    let value = |i: usize| match spec.role() {
        Role::Norm => 1.0,
        Role::Matrix => ((i * 7919 % 101) as f32 - 50.0) / 500.0,
    };
    (0..spec.values()).map(value).collect()
}

/// `config.json`.
pub fn config_json() -> Value {
    let c = config();
    json!({
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_size": c.n_embd,
        "intermediate_size": c.n_ff,
        "num_hidden_layers": c.n_layer(),
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_head_kv,
        "head_dim": c.head_dim,
        "query_pre_attn_scalar": 16,
        "vocab_size": c.n_vocab,
        "max_position_embeddings": c.n_ctx_train,
        "sliding_window": c.sliding_window(),
        "eos_token_id": [1, 5],
        "rope_scaling": null,
    })
}

/// `tokenizer.json`.
pub fn tokenizer_json() -> Value {
    let vocab = vocab();
    let pieces: Vec<Piece> = vocab.pieces.iter().collect();
    let ids = pieces.iter().enumerate().map(|(id, piece)| (piece.text.to_string(), json!(id)));
    let control = pieces.iter().enumerate().filter(|(_, p)| p.kind == PieceKind::Control);
    let added = control.map(|(id, p)| json!({"id": id, "content": p.text, "special": true}));
    json!({
        "added_tokens": added.collect::<Vec<_>>(),
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": ids.collect::<serde_json::Map<_, _>>(),
            "merges": ["▁ t", ["h", "e"], "▁t he", "t he"],
        },
    })
}

/// `tokenizer_config.json`.
pub fn tokenizer_config_json() -> Value {
    json!({
        "add_bos_token": true,
        "bos_token": "<bos>",
        "eos_token": {"content": "<eos>", "special": true},
        "added_tokens_decoder": {"4": {"content": "<start_of_turn>", "special": true}},
        "chat_template": GEMMA2_TEMPLATE,
    })
}

/// The header of the weights, and the weights.
pub fn safetensors() -> (Value, Vec<u8>) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for spec in tensors(&config(), false) {
        let start = data.len();
        let bf16 = |x: &f32| (x.to_bits() >> 16) as u16;
        // A checkpoint's norms hold what is added to one.
        let x =
            weights(&spec).into_iter().map(|x| x - f32::from(u8::from(spec.role() == Role::Norm)));
        x.for_each(|x| data.extend(bf16(&x).to_le_bytes()));
        let shape: Vec<usize> = spec.shape.iter().rev().copied().collect();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(spec.hf_name, entry);
    }
    (header.into(), data)
}

/// The bytes of a safetensors file.
pub fn safetensors_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Writes a checkpoint into `dir`.
pub fn write_checkpoint(dir: &Path) {
    let json = [
        ("config.json", config_json()),
        ("generation_config.json", json!({"eos_token_id": [1, 5]})),
        ("tokenizer.json", tokenizer_json()),
        ("tokenizer_config.json", tokenizer_config_json()),
    ];
    for (name, value) in json {
        fs::write(dir.join(name), value.to_string()).unwrap();
    }
    let (header, data) = safetensors();
    let bytes = safetensors_bytes(&header.to_string(), &data);
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
}
