//! Checkpoints as people have them: saved by other programs, wrapped, renamed, with files of other
//! versions beside them. Each is read as the plain model is, or refused by name.

use std::fs;
use std::path::Path;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::kernels::KvType;
use lapidary::model::{Model, Note, Source};
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary_formats::gguf::Gguf;
use serde_json::{json, Value};
use tempfile::TempDir;

use crate::directory::copy_of;
use crate::fixtures::tiny;
use crate::logits::logits_at;
use crate::safetensors::{self, widened, Tensors};

const WEIGHTS: &str = "model.safetensors";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A copy of the trained model, with the tensors that `change` makes of its.
fn with_tensors(change: impl FnOnce(Tensors) -> Tensors) -> TempDir {
    let dir = copy_of(&tiny());
    let path = dir.path().join(WEIGHTS);
    let tensors = safetensors::read(&path);
    safetensors::write(&path, &change(tensors));
    dir
}

fn plain() -> TempDir {
    with_tensors(|tensors| tensors)
}

fn logits(dir: &Path) -> Vec<f32> {
    let source = Source::open(dir).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::load(&source, Some(1)).unwrap();
    let tokens = [2, 5, 9, 17, 33, 65];
    logits_at(&model, [&tokens[..]].into_iter(), &[0, 5], KvType::F32)
}

fn notes(dir: &Path) -> Vec<Note> {
    Source::open(dir).unwrap().notes().to_vec()
}

fn set(dir: &Path, file: &str, key: &str, value: Value) {
    let path = dir.join(file);
    let mut object: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    object[key] = value;
    fs::write(path, object.to_string()).unwrap();
}

#[test]
fn tensors_are_found_under_any_prefix() {
    let expected = logits(plain().path());
    for prefix in [
        "_orig_mod.model.",
        "base_model.model.model.",
        "module._orig_mod.model.",
        "language_model.model.",
        "model.language_model.",
        "",
    ] {
        let renamed = |name: &str| name.replace("model.", prefix);
        let dir = with_tensors(|tensors| {
            tensors.into_iter().map(|(name, tensor)| (renamed(&name), tensor)).collect()
        });
        assert_eq!(logits(dir.path()), expected, "{prefix}");
        assert_eq!(notes(dir.path()), []);
    }
}

#[test]
fn unmerged_adapters_are_refused_by_name() {
    for name in [
        "model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "model.layers.0.self_attn.q_proj.base_layer.weight",
        "model.embed_tokens.modules_to_save.default.weight",
    ] {
        let dir = with_tensors(|mut tensors| {
            let norm = tensors["model.norm.weight"].clone();
            tensors.insert(name.to_owned(), norm);
            tensors
        });
        let message = Source::open(dir.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("an adapter that was not merged into its base model: merge it first"),
            "{message}"
        );
    }
}

/// Some programs save the embedding again, under its other name and in another type.
#[test]
fn an_output_matrix_with_the_embeddings_values_is_the_embedding() {
    let expected = logits(plain().path());
    for widen in [false, true] {
        let dir = with_tensors(|mut tensors| {
            let embedding = &tensors[EMBEDDING];
            let head = if widen { widened(embedding) } else { embedding.clone() };
            tensors.insert("lm_head.weight".to_owned(), head);
            tensors
        });
        for tied in [true, false] {
            set(dir.path(), "config.json", "tie_word_embeddings", json!(tied));
            assert!(!Source::open(dir.path()).unwrap().is_untied());
            assert_eq!((logits(dir.path()), notes(dir.path())), (expected.clone(), vec![]));
        }
    }
}

/// As in transformers, the configuration decides.
#[test]
fn another_output_matrix_gives_way_if_the_configuration_says_so() {
    let dir = with_tensors(|mut tensors| {
        let mut head = tensors[EMBEDDING].clone();
        head.bytes[1000] ^= 1;
        tensors.insert("lm_head.weight".to_owned(), head);
        tensors
    });
    assert_eq!(notes(dir.path()), [Note::OutputMatrix]);
    assert_eq!(logits(dir.path()), logits(plain().path()));
    set(dir.path(), "config.json", "tie_word_embeddings", json!(false));
    assert!(Source::open(dir.path()).unwrap().is_untied());
    assert_eq!(notes(dir.path()), []);
    let none = plain();
    set(none.path(), "config.json", "tie_word_embeddings", json!(false));
    assert_eq!(notes(none.path()), [Note::NoOutputMatrix]);
}

#[test]
fn an_embedding_under_the_name_of_the_output_matrix_is_read() {
    let dir = with_tensors(|mut tensors| {
        let embedding = tensors.remove(EMBEDDING).unwrap();
        tensors.insert("lm_head.weight".to_owned(), embedding);
        tensors
    });
    assert_eq!((logits(dir.path()), notes(dir.path())), (logits(plain().path()), vec![]));
    Source::open(dir.path()).unwrap().vocab().unwrap();
    set(dir.path(), "config.json", "tie_word_embeddings", json!(false));
    let message = Source::open(dir.path()).unwrap_err().to_string();
    assert!(message.ends_with("tensor `model.embed_tokens.weight` is missing"), "{message}");
}

/// Writes the tensors of `dir` to several files, and removes the one they were in.
fn shard(dir: &Path, names: &[&str]) {
    let tensors = safetensors::read(&dir.join(WEIGHTS));
    fs::remove_file(dir.join(WEIGHTS)).unwrap();
    for (i, name) in names.iter().enumerate() {
        let part = tensors.iter().enumerate().filter(|(n, _)| n % names.len() == i);
        let part = part.map(|(_, (name, tensor))| (name.clone(), tensor.clone()));
        safetensors::write(&dir.join(name), &part.collect());
    }
}

#[test]
fn shards_without_an_index_are_read_with_a_note() {
    let expected = logits(plain().path());
    let three = [1, 2, 3].map(|i| format!("model-{i:05}-of-00003.safetensors"));
    let dir = plain();
    shard(dir.path(), &three.each_ref().map(String::as_str));
    assert_eq!((logits(dir.path()), notes(dir.path())), (expected.clone(), vec![Note::NoIndex]));
    fs::remove_file(dir.path().join(&three[1])).unwrap();
    let message = Source::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("shard \"model-00002-of-00003.safetensors\" is missing"),
        "{message}"
    );

    let dir = plain();
    shard(dir.path(), &["gemma-tuned.safetensors"]);
    assert_eq!((logits(dir.path()), notes(dir.path())), (expected, vec![Note::NoIndex]));
    fs::write(dir.path().join("other.safetensors"), b"").unwrap();
    let two = plain();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    shard(two.path(), &names);
    let other = "model-00001-of-00001.safetensors";
    fs::copy(two.path().join(names[0]), two.path().join(other)).unwrap();
    let message = Source::open(two.path()).unwrap_err().to_string();
    assert!(message.ends_with(": there are other weights beside a set of shards"), "{message}");
    let message = Source::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("neither model.safetensors nor"), "{message}");
}

#[test]
fn settings_that_do_not_fit_the_weights_are_noted() {
    let dir = plain();
    let quantized = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    for key in ["quantization_config", "compression_config"] {
        set(dir.path(), "config.json", key, quantized.clone());
        assert_eq!(notes(dir.path()), [Note::QuantizationConfig], "{key}");
        set(dir.path(), "config.json", key, Value::Null);
        assert_eq!(notes(dir.path()), [], "{key}");
    }
    set(dir.path(), "config.json", "logit_scale", json!(2));
    assert_eq!(notes(dir.path()), [Note::UnknownKeys(vec!["logit_scale".into()])]);
    assert_eq!(logits(dir.path()), logits(plain().path()));
}

/// The ids that end a text of the model at `path`.
fn stop_ids(path: &Path) -> Vec<u32> {
    let source = Source::open(path).unwrap();
    source.stop_ids(&source.vocab().unwrap())
}

fn to_gguf(dir: &Path) -> std::path::PathBuf {
    let (source, out) = (Source::open(dir).unwrap(), dir.join("out.gguf"));
    let plan = Plan::of_recipe(&source, Recipe::F16);
    let options = Options { force: true, ..Options::default() };
    convert(&source, &out, &plan, options, &mut ()).unwrap();
    out
}

#[test]
fn all_ends_are_kept() {
    let dir = copy_of(&tiny());
    let ids = |path: &Path| stop_ids(path);
    assert_eq!((ids(dir.path()), ids(&to_gguf(dir.path()))), (vec![1, 107], vec![1, 107]));
    set(dir.path(), "generation_config.json", "eos_token_id", json!([1, 107, 108, 7, 9]));
    let out = to_gguf(dir.path());
    assert_eq!((ids(dir.path()), ids(&out)), (vec![1, 7, 9, 107, 108], vec![1, 7, 9, 107, 108]));
    // llama.cpp has a key for one of them, and a program with a list has them all.
    let gguf = Gguf::open(&out).unwrap();
    assert_eq!(gguf.u32("tokenizer.ggml.eom_token_id").unwrap(), Some(7));
    let list = gguf.array("tokenizer.ggml.eos_token_ids").unwrap().unwrap();
    assert_eq!(
        list.values().filter_map(|id| id.as_int()).collect::<Vec<u32>>(),
        [1, 7, 9, 107, 108]
    );
    // From one GGUF file to another.
    let again = dir.path().join("again.gguf");
    let source = Source::open(&out).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::Q8_0);
    let report = convert(&source, &again, &plan, Options::default(), &mut ()).unwrap();
    assert_eq!(ids(&again), vec![1, 7, 9, 107, 108]);
    assert_eq!(
        report.llama_cpp.unwrap(),
        "does not end texts at these tokens of the model: [9, 108]"
    );
    set(dir.path(), "generation_config.json", "eos_token_id", json!([1, 256_000, -7]));
    set(dir.path(), "generation_config.json", "pad_token_id", json!(2048));
    set(dir.path(), "config.json", "pad_token_id", json!(2048));
    let beyond = ["eos_token_id 256000", "eos_token_id -7", "pad_token_id 2048"];
    let beyond = beyond.map(str::to_owned).to_vec();
    assert_eq!(notes(dir.path()), [Note::WithoutRow(beyond)]);
    assert_eq!(ids(&to_gguf(dir.path())), vec![1, 107]);
}

/// Fine-tunes end their turns with a token of their own, and often declare `<eos>` as before.
#[test]
fn known_ends_stop_a_text() {
    let dir = copy_of(&tiny());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap().replace("\"<unused0>\"", "\"<|im_end|>\"");
        fs::write(path, text).unwrap();
    }
    assert_eq!(stop_ids(dir.path()), [1, 7, 107]);
    assert_eq!(stop_ids(&to_gguf(dir.path())), [1, 7, 107]);
    let report = Source::open(dir.path()).unwrap();
    let plan = Plan::of_recipe(&report, Recipe::Q8_0);
    let out = dir.path().join("report.gguf");
    let report = convert(&report, &out, &plan, Options::default(), &mut ()).unwrap();
    // It finds the end by its name.
    assert_eq!(report.llama_cpp, None);

    // A file whose end of a text is the end of a turn, and which says `<eos>`.
    let dir = copy_of(&tiny());
    set(dir.path(), "tokenizer_config.json", "eos_token", json!("<end_of_turn>"));
    set(dir.path(), "config.json", "eos_token_id", json!(107));
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    assert_eq!(stop_ids(dir.path()), [1, 107]);
    assert_eq!(stop_ids(&to_gguf(dir.path())), [1, 107]);
}

/// A fine-tune with two added tokens, in the five forms in which the hub has models. All of them give
/// the same tokens, ends and templates.
#[test]
fn forms_of_a_download_are_one_model() {
    let whole = tuned();
    let form = |change: &dyn Fn(&Path)| {
        let dir = copy_of(whole.path());
        change(dir.path());
        to_gguf(dir.path());
        dir
    };
    let remove = |dir: &Path, name: &str| fs::remove_file(dir.join(name)).unwrap();
    let two = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let forms = [
        form(&|_| ()),
        form(&|dir| {
            let tensors = safetensors::read(&dir.join(WEIGHTS));
            shard(dir, &two);
            let names =
                tensors.keys().enumerate().map(|(i, name)| (name.clone(), json!(two[i % 2])));
            let index = json!({"weight_map": names.collect::<serde_json::Map<_, _>>()});
            fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }),
        form(&|dir| remove(dir, "tokenizer.model")),
        form(&|dir| remove(dir, "tokenizer.json")),
        // As transformers 5 writes it.
        form(&|dir| {
            let path = dir.join("tokenizer_config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let config = config.as_object_mut().unwrap();
            config.remove("added_tokens_decoder");
            let template = config.remove("chat_template").unwrap();
            fs::write(dir.join("chat_template.jinja"), template.as_str().unwrap()).unwrap();
            config.insert("backend".into(), json!("tokenizers"));
            fs::write(path, Value::Object(config.clone()).to_string()).unwrap();
        }),
    ];
    let text = "<|im_start|>user\nAnd it came to pass,  in\tthose days<|im_end|>\n<b>é</b>";
    let read = |dir: &TempDir| {
        let source = Source::open(&dir.path().join("out.gguf")).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        let ids = [Special::Plain, Special::Trusted].map(|special| tokenizer.encode(text, special));
        let stop_ids = source.stop_ids(tokenizer.vocab());
        (ids, stop_ids, source.chat_template().unwrap())
    };
    let expected = read(&forms[0]);
    assert_eq!((expected.0[1][0], expected.1.as_slice()), (2048, &[1, 107, 2049][..]));
    assert!(expected.2.as_ref().unwrap().contains("im_start"));
    for (i, form) in forms.iter().enumerate() {
        assert_eq!(read(form), expected, "form {i}");
    }
}

/// The trained model with two more rows in the embedding, for the tokens of ChatML.
fn tuned() -> TempDir {
    let dir = copy_of(&tiny());
    let path = dir.path().join(WEIGHTS);
    let mut tensors = safetensors::read(&path);
    let embedding = tensors.get_mut(EMBEDDING).unwrap();
    let row = embedding.bytes.len() / embedding.shape[0];
    let more = embedding.bytes[..2 * row].to_vec();
    embedding.bytes.extend(more);
    embedding.shape[0] += 2;
    safetensors::write(&path, &tensors);
    set(dir.path(), "config.json", "vocab_size", json!(2050));
    let token = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "normalized": false});
    let tokens = [token(2048, "<|im_start|>"), token(2049, "<|im_end|>")];
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().extend(tokens.clone());
    fs::write(path, tokenizer.to_string()).unwrap();
    let path = dir.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for token in &tokens {
        config["added_tokens_decoder"][token["id"].to_string()] = token.clone();
    }
    config["chat_template"] = json!(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    );
    fs::write(path, config.to_string()).unwrap();
    dir
}
