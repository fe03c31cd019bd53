//! Models that contradict themselves or ask for what is not supported, each refused in its own words
//! before it is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::model::{Model, Source, TensorSpec, OUTPUT_NORM, TOKEN_EMBD};
use lapidary::tokenizer::Tokenizer;
use lapidary::verify::verify;
use lapidary_formats::gguf::{Gguf, Header, OwnedValue};
use serde_json::{json, Value};
use tempfile::TempDir;

use super::{common, small};

/// A file of its own.
struct File(TempDir);

impl File {
    fn new(bytes: &[u8]) -> Self {
        let file = Self(TempDir::new().unwrap());
        fs::write(file.path(), bytes).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.gguf")
    }

    /// An error without the file's name, which it has to begin with.
    fn cause(&self, error: impl ToString) -> String {
        let message = error.to_string();
        let name = format!("{}: ", self.path().display());
        assert_eq!(message.matches(&name).count(), 1, "{message}");
        message.strip_prefix(&name).unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    /// Why it is not opened.
    fn refused(&self) -> String {
        self.cause(Source::open(&self.path()).unwrap_err())
    }

    /// Runs a command on it, with a text to read.
    fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut lapidary = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        lapidary.arg(command).arg(self.path()).args(more).output().unwrap()
    }
}

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

const ABSURD: &str = "it is zero or absurdly large";

#[test]
fn no_layers_or_absurdly_many() {
    key_says("block_count", 0u32, &format!("layer count is 0: {ABSURD}"));
    key_says("block_count", u32::MAX, &format!("layer count is 4294967295: {ABSURD}"));
}

#[test]
fn other_layers_than_there_are_tensors_for() {
    let expected = "its configuration asks for 1000 layers, but there are only 24 tensors";
    key_says("block_count", 1000u32, expected);
    key_says("block_count", 3u32, "tensor `blk.2.attn_norm.weight` is missing");
    let expected = "tensor `blk.1.attn_norm.weight` is not part of a Gemma 2 model";
    key_says("block_count", 1u32, expected);
}

#[test]
fn no_heads_or_absurdly_many() {
    key_says("attention.head_count", 0u32, &format!("head count is 0: {ABSURD}"));
    key_says("attention.head_count", 1u32 << 31, &format!("head count is 2147483648: {ABSURD}"));
    key_says("attention.head_count_kv", 0u32, &format!("key/value head count is 0: {ABSURD}"));
    let expected = format!("key/value head count is 4294967295: {ABSURD}");
    key_says("attention.head_count_kv", u32::MAX, &expected);
}

#[test]
fn head_counts_that_disagree() {
    let expected = "key/value head count is 3: it must divide the head count";
    key_says("attention.head_count_kv", 3u32, expected);
    let shape = |found: &str, expected: &str| {
        format!("has shape {found}, its configuration asks for {expected}")
    };
    let expected = format!("tensor `blk.0.attn_q.weight` {}", shape("[32, 32]", "[32, 64]"));
    key_says("attention.head_count", 4u32, &expected);
    let expected = format!("tensor `blk.0.attn_k.weight` {}", shape("[32, 16]", "[32, 32]"));
    key_says("attention.head_count_kv", 2u32, &expected);
    let expected =
        "metadata key \"gemma2.attention.head_count\" holds array i32[2]: 2, 2, expected an \
                    unsigned 32-bit integer";
    key_says("attention.head_count", vec![2i32, 2], expected);
}

#[test]
fn a_head_width_of_zero_or_absurd() {
    let value = |n: u32| move |h: &mut Header| h.set("gemma2.attention.key_length", n);
    says(value(0), &format!("head width is 0: {ABSURD}"));
    says(value(1 << 20), &format!("head width is 1048576: {ABSURD}"));
    says(value(15), "head width is 15: RoPE needs an even width");
}

#[test]
fn head_widths_that_disagree() {
    let both = |h: &mut Header| {
        h.set("gemma2.attention.key_length", 32u32);
        h.set("gemma2.attention.value_length", 32u32);
    };
    let expected =
        "tensor `blk.0.attn_q.weight` has shape [32, 32], its configuration asks for [32, 64]";
    says(both, expected);
    let expected =
        "metadata key `gemma2.attention.value_length` is 8, which is not supported: values \
                    are as long as keys";
    key_says("attention.value_length", 8u32, expected);
    let expected =
        "metadata key `gemma2.rope.dimension_count` is 8, which is not supported: RoPE turns \
                    whole heads";
    key_says("rope.dimension_count", 8u32, expected);
    let same = File::new(&small::gguf(|h| h.set("gemma2.rope.dimension_count", 16u32)));
    assert!(Source::open(&same.path()).is_ok());
}

#[test]
fn constants_that_are_no_numbers() {
    for x in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let expected = format!("RMSNorm epsilon is {x}: it must be finite and above zero");
        key_says("attention.layer_norm_rms_epsilon", x, &expected);
        let expected = format!("RoPE base is {x}: it must be finite and above zero");
        key_says("rope.freq_base", x, &expected);
        let expected = format!("attention scale is {x}: it must be finite and above zero");
        key_says("attention.scale", x, &expected);
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
        let expected = format!("the tokenizer has {n} pieces, the embedding 270 rows");
        assert_eq!(file.cause(source.vocab().unwrap_err()), expected);
    }
}

#[test]
fn token_ids_outside_the_vocabulary() {
    for (key, name) in [("bos", "bos"), ("eos", "eos"), ("eot", "eot"), ("unknown", "unk")] {
        for id in [270, u32::MAX] {
            let expected = format!("{name} has the id {id}, but the vocabulary has 270 pieces");
            vocab_says(&format!("{key}_token_id"), id, &expected);
        }
    }
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
        format!(": tensor `{name}` has shape {found}, its configuration asks for {expected}")
    };
    let gate = "model.layers.0.mlp.gate_proj.weight";
    config_says("intermediate_size", json!(96), &shape(gate, "[32, 64]", "[32, 96]"));
    let embd = "model.embed_tokens.weight";
    config_says("vocab_size", json!(271), &shape(embd, "[32, 270]", "[32, 271]"));
    let layers = ": its configuration asks for 1000 layers, but there are only 24 tensors";
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
    says(|h| h.set("general.type", "mmproj"), "holds a mmproj (general.type), not a model");
    says(|h| h.set("general.type", "imatrix"), "holds a imatrix (general.type), not a model");
}

#[test]
fn other_architectures() {
    for name in ["llama", "gemma3", "gemma2\0"] {
        let shown = name.replace('\0', "\\0");
        let expected = format!("architecture `{shown}` is not supported, only gemma2");
        says(|h| h.set("general.architecture", name), &expected);
    }
}

#[test]
fn what_gemma_2_does_not_do() {
    let refused = |key: &str, value: OwnedValue, shown: &str, rule: &str| {
        let expected =
            format!("metadata key `gemma2.{key}` is {shown}, which is not supported: {rule}");
        key_says(key, value, &expected);
    };
    refused("rope.scaling.type", "yarn".into(), "yarn", "RoPE is not scaled");
    refused("rope.scaling.type", 1u32.into(), "1", "RoPE is not scaled");
    refused("rope.scaling.factor", 4f32.into(), "4", "RoPE is not scaled");
    refused("rope.scale_linear", 2f32.into(), "2", "RoPE is not scaled");
    refused("rope.freq_base_swa", 1e6f32.into(), "1000000", "all layers have one base");
    let pattern = "attention.sliding_window_pattern";
    refused(pattern, 6u32.into(), "6", "every other layer is local");
    refused("attention.causal", false.into(), "false", "attention is causal");
    refused("pooling_type", 1u32.into(), "1", "models of embeddings are not supported");
    refused("expert_count", 8u32.into(), "8", "there are no experts");
    refused("vocab_size", 271u32.into(), "271", "it is the number of the embedding's rows");
}

/// The small model with one bad value in the tensor `name`.
fn with_value(name: &str, value: f32) -> File {
    let bad = |spec: &TensorSpec, x: &mut [f32]| {
        if spec.name == name {
            x[5] = value;
        }
    };
    File::new(&small::gguf_of(|_| (), bad))
}

#[test]
fn norms_that_are_not_finite() {
    for name in ["blk.1.ffn_norm.weight", OUTPUT_NORM] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let file = with_value(name, value);
            let source = Source::open(&file.path()).unwrap();
            let error = Model::load(&source, Some(1)).unwrap_err();
            let expected = format!("tensor `{name}` has values that are NaN or infinite");
            assert_eq!(file.cause(error), expected);
        }
    }
}

/// The small model with a scale of `bits` in the first block of row 3 of tensor `name`.
fn with_scale(name: &str, bits: u16) -> File {
    let file = File::new(&small::gguf(|_| ()));
    let place = {
        let gguf = Gguf::open(file.path()).unwrap();
        let view = gguf.tensor(name).unwrap();
        gguf.place(view.data).unwrap().1.start + 3 * (view.data.len() / view.rows())
    };
    let mut bytes = fs::read(file.path()).unwrap();
    bytes[place..place + 2].copy_from_slice(&bits.to_le_bytes());
    fs::write(file.path(), bytes).unwrap();
    file
}

/// Half precision's infinity, and a NaN.
const BAD_SCALES: [u16; 2] = [0x7c00, 0x7e01];

#[test]
fn block_scales_that_are_not_finite_are_found_by_verify() {
    for bits in BAD_SCALES {
        let file = with_scale("blk.1.ffn_up.weight", bits);
        let output = file.run("verify", &[]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        let expected =
            "tensor `blk.1.ffn_up.weight`: 1 of 64 rows has values that are NaN or infinite, \
                        the first row 3 in block 0";
        assert_eq!(file.cause(text.lines().next().unwrap()), expected);
    }
}

#[test]
fn block_scales_that_are_not_finite_end_what_is_computed() {
    let text = File::new(&b"the hen and the other ".repeat(20));
    let text = text.path();
    let text = text.to_str().unwrap();
    let output = TempDir::new().unwrap();
    let output = output.path().join("out.gguf");
    let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let names = matrices.map(|matrix| format!("blk.1.{matrix}.weight"));
    for name in names.iter().map(String::as_str).chain([TOKEN_EMBD]) {
        for bits in BAD_SCALES {
            let file = with_scale(name, bits);
            let path = file.path();
            let path = path.to_str().unwrap();
            let sound = File::new(&small::gguf(|_| ()));
            let sound = sound.path();
            for (command, more) in [
                ("run", &["-p", "the", "-n", "4"][..]),
                ("run", &["-p", "the", "-n", "4", "--json"]),
                ("perplexity", &["-f", text, "--ctx", "32"]),
                ("perplexity", &["-f", text, "--ctx", "32", "--json"]),
                (
                    "perplexity",
                    &["-f", text, "--ctx", "32", "--reference", sound.to_str().unwrap()],
                ),
            ] {
                let output = file.run(command, more);
                let error = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(1), "{name} {command}: {error}");
                let expected = format!(
                    "lapidary: {path}: the model computes values that are NaN or infinite (`lapidary \
                     verify` looks at its weights)\n"
                );
                assert_eq!(error, expected, "{name} {command}");
                assert!(!String::from_utf8_lossy(&output.stdout).contains("NaN"));
            }
        }
    }
    // The head's own damage is behind what an importance matrix is computed from.
    let file = with_scale("blk.1.ffn_down.weight", BAD_SCALES[0]);
    let result = file.run("imatrix", &["-f", text, "-o", output.to_str().unwrap(), "--ctx", "32"]);
    let error = String::from_utf8(result.stderr).unwrap();
    assert!(error.contains("computes values that are NaN or infinite"), "{error}");
    assert!(!output.exists());
}

/// What a chat with the small model says of its template.
fn chat_fails(template: &str) -> String {
    let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", template)));
    let output = file.run("run", &["--chat", "-p", "the", "-n", "1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    file.cause(error.trim_end().strip_prefix("lapidary: ").unwrap())
}

/// Strings that double, lists without end, a width that no string can have.
#[test]
fn templates_that_take_all_memory() {
    for template in [
        "{% set n = namespace(x='x') %}{% for i in range(70) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ ([1] * 1000000000000) | list | length }}",
        "{{ 'a\nb' | indent(9000000000000000000) }}",
        "{{ 'a' | batch(9000000000000000000) | list }}",
    ] {
        let expected = "the chat template ended its process, which may take 1024 MB";
        assert_eq!(chat_fails(template), expected, "{template}");
    }
}

#[test]
fn templates_that_loop_or_include_or_refuse() {
    let rounds = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
    let message = chat_fails(rounds);
    assert!(message.starts_with("the chat template fails: engine ran out of fuel"), "{message}");
    let message = chat_fails("{% include '/etc/hostname' %}");
    assert!(message.starts_with("the chat template fails: template not found"), "{message}");
    let message = chat_fails("{{ raise_exception('not today') }}");
    assert_eq!(message, "the chat template refuses the conversation: not today");
    let message = chat_fails("{% for %}");
    assert!(message.starts_with("the chat template cannot be parsed: "), "{message}");
}

#[test]
fn templates_of_strangers_are_rendered_as_any() {
    let answer = |template: &str| {
        let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", template)));
        let output = file.run("run", &["--chat", "-p", "the", "-n", "3", "--temp", "0", "--json"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["text"].clone(), json["prompt_tokens"].clone())
    };
    let gemma2 = lapidary::chat::GEMMA2_TEMPLATE;
    // A comment makes it another one.
    assert_eq!(answer(gemma2), answer(&format!("{gemma2}{{# #}}")));
}

#[test]
fn what_steers_a_terminal_is_escaped() {
    let evil = "\x1b[2J\x1b]0;owned\x07\u{9b}31m\u{202e}txt";
    let named = |h: &mut Header| {
        h.set("general.name", evil);
        h.set(evil, evil);
        h.set("strings", vec![evil.to_owned()]);
    };
    let unsound = |h: &mut Header| h.set("tokenizer.ggml.model", evil);
    let template = |h: &mut Header| {
        h.set("tokenizer.chat_template", format!("{{{{ raise_exception('{evil}') }}}}"))
    };
    let stranger = |h: &mut Header| {
        h.add_tensor(evil, lapidary_formats::quant::QuantType::F32, &[8]).unwrap();
    };
    let run: &[&str] = &["--chat", "-p", "the"];
    let cases: [(&dyn Fn(&mut Header), &str, &[&str]); 6] = [
        (&named, "inspect", &[]),
        (&named, "verify", &[]),
        (&unsound, "verify", &[]),
        (&unsound, "run", run),
        (&template, "run", run),
        (&stranger, "inspect", &[]),
    ];
    for (change, command, more) in cases {
        let file = File::new(&small::gguf(change));
        let output = file.run(command, more);
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(steers), "{command}: {text:?}");
        }
    }
}

/// Whoever runs a model while a new one is written in its place goes on with the old one.
#[test]
fn a_file_that_is_replaced_while_it_is_mapped() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("micro.gguf");
    let checkpoint = Source::open(&common::micro()).unwrap();
    let write = |recipe| {
        let plan = Plan::of_recipe(&checkpoint, recipe);
        let options = Options { force: true, ..Options::default() };
        convert(&checkpoint, &out, &plan, options, &mut ()).unwrap();
    };
    write(Recipe::F32);
    let old = fs::read(&out).unwrap();
    let gguf = Gguf::open(&out).unwrap();
    write(Recipe::Q2_K);
    assert!(fs::read(&out).unwrap().len() < old.len() / 4);
    for view in gguf.tensors() {
        let (_, place) = gguf.place(view.data).unwrap();
        assert!(view.data == &old[place], "{}", view.name);
    }
}

#[test]
fn a_part_of_a_path_is_no_model() {
    let error = Source::open(Path::new("no/such/model.gguf")).unwrap_err().to_string();
    assert!(error.starts_with("no/such/model.gguf: "), "{error}");
}
