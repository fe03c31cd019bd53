//! Conversion of the fixtures: what is written is what was read, as exactly as its type allows.

use std::path::Path;

use lapidary::chat::GEMMA2_TEMPLATE;
use lapidary::convert::{convert, Options, Plan, Progress, Recipe, Report};
use lapidary::kernels::Isa;
use lapidary::model::{Role, Source, TensorSpec};
use lapidary_formats::gguf::{Header, Writer};
use lapidary_formats::quant::QuantType;
use tempfile::TempDir;

use crate::directory::{copy_of, names};
use crate::fixtures::{micro, tiny};
use crate::nmse::nmse;
use crate::splits::split;

fn plan(source: &Source, recipe: Recipe) -> Plan {
    Plan::of_recipe(source, recipe)
}

fn open(path: &Path) -> Source {
    Source::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn to(out: &Path, source: &Path, recipe: Recipe) -> Report {
    let source = open(source);
    let result = convert(&source, out, &plan(&source, recipe), Options::default(), &mut ());
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// The bytes of a file that was converted, but for its source's fingerprint and the checksum of the
/// header: what has to be equal when two files of the same values are converted.
fn but_for_the_fingerprint(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).unwrap();
    // After the key: the value's type, its length if it is a text, and the value.
    for (key, before, len) in
        [("lapidary.source.fingerprint", 4 + 8, 16), ("lapidary.checksum.header", 4, 8)]
    {
        let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
        let start = at + key.len() + before;
        bytes[start..start + len].fill(b'-');
    }
    bytes
}

/// A tensor's values as they lie in the file.
fn values(source: &Source, spec: &TensorSpec) -> Vec<f32> {
    let view = source.tensor(spec);
    let mut values = vec![0.0; view.len()];
    (view.ty.traits().dequantize)(view.data, &mut values);
    values
}

/// The largest error that is allowed: mean square, relative to that of the weights.
fn tolerance(ty: QuantType) -> f64 {
    use QuantType::*;
    match ty {
        F32 => 0.0,
        F16 => 1e-6,
        BF16 => 1e-5,
        Q8_0 => 1e-4,
        Q6_K => 1e-3,
        Q5_K | Q5_1 => 5e-3,
        Q5_0 => 7e-3,
        Q4_K | Q4_1 | IQ4_NL | IQ4_XS => 2e-2,
        Q4_0 => 3e-2,
        Q3_K => 8e-2,
        Q2_K => 3e-1,
        Q8_K => unreachable!("no file holds it"),
        _ => unreachable!("{ty} is not written"),
    }
}

/// Converts to `recipe`, opens the file again and compares everything.
fn round_trip(model: &Path, recipe: Recipe) {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    let report = to(&out, model, recipe);
    assert_eq!(names(dir.path()), ["out.gguf"]);
    assert_eq!(std::fs::metadata(&out).unwrap().len(), report.file_bytes);

    let (before, after) = (open(model), open(&out));
    assert_eq!(before.config(), after.config());
    assert_eq!(before.vocab().unwrap(), after.vocab().unwrap());
    assert_eq!(before.is_untied(), after.is_untied());
    assert_eq!(before.tensors(), after.tensors());
    let gguf = after.gguf().unwrap();
    assert_eq!(gguf.u32("general.file_type").unwrap(), Some(recipe.file_type()));
    assert_eq!(gguf.tensors().map(|t| t.data.len() as u64).sum::<u64>(), report.totals.bytes());
    for spec in before.tensors() {
        let (name, ty) = (&spec.name, after.tensor(spec).ty);
        assert_eq!(ty, recipe.type_of(spec, before.config(), before.is_untied()), "{name}");
        if spec.role() == Role::Norm {
            let expected: Vec<f32> = values(&before, spec).iter().map(|w| 1.0 + w).collect();
            assert_eq!(values(&after, spec), expected, "{name}");
            assert_eq!(after.norm(spec).unwrap(), expected, "{name}");
        } else {
            let error = nmse(&values(&after, spec), &values(&before, spec));
            assert!(error <= tolerance(ty), "{recipe} {name} {ty}: {error:e}");
        }
    }
}

#[test]
fn every_recipe_of_a_trained_model() {
    for recipe in Recipe::all() {
        round_trip(&tiny(), recipe);
    }
}

#[test]
fn every_recipe_of_a_model_with_short_rows_and_its_own_head() {
    for recipe in Recipe::all() {
        round_trip(&micro(), recipe);
    }
}

#[test]
fn short_rows_fall_back_type_by_type() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    to(&out, &micro(), Recipe::Q4_K_M);
    let source = open(&out);
    let ty = |name: &str| source.gguf().unwrap().tensor(name).unwrap().ty;
    assert_eq!(ty("output.weight"), QuantType::Q8_0);
    assert_eq!(ty("token_embd.weight"), QuantType::Q5_0);
    assert_eq!(ty("blk.0.ffn_down.weight"), QuantType::Q5_0);
    assert_eq!(ty("blk.2.ffn_down.weight"), QuantType::Q8_0);
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let dir = TempDir::new().unwrap();
    // The trained model has rows of whole k-quants, the other one has not.
    for model in [tiny(), micro()] {
        let source = open(&model);
        for recipe in [Recipe::Q4_K_M, Recipe::Q2_K] {
            let plan = plan(&source, recipe);
            let bytes = |threads, isa| {
                let out = dir.path().join("out.gguf");
                let options =
                    Options { threads: Some(threads), isa, force: true, ..Options::default() };
                convert(&source, &out, &plan, options, &mut ()).unwrap();
                std::fs::read(out).unwrap()
            };
            let reference = bytes(1, Isa::SCALAR);
            for isa in Isa::available() {
                for threads in [1, 2, 7] {
                    let name = isa.name();
                    assert!(bytes(threads, isa) == reference, "{recipe}, {threads}, {name}");
                }
            }
        }
    }
}

#[test]
fn a_gguf_file_of_the_same_values_gives_the_same_file() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    to(&path("BF16"), &tiny(), Recipe::BF16);
    let report = to(&path("two steps"), &path("BF16"), Recipe::Q4_K_M);
    assert_eq!(report.requantized, 0);
    to(&path("one step"), &tiny(), Recipe::Q4_K_M);
    let [two, one] = ["two steps", "one step"].map(|name| but_for_the_fingerprint(&path(name)));
    assert!(two == one);
}

#[test]
fn tensors_that_have_their_type_are_copied() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    to(&path("once"), &micro(), Recipe::Q4_K_M);
    let report = to(&path("twice"), &path("once"), Recipe::Q4_K_M);
    assert_eq!(report.requantized, 0);
    let [once, twice] = ["once", "twice"].map(|name| but_for_the_fingerprint(&path(name)));
    assert!(once == twice);
    // Q5_0 becomes Q4_0, Q8_0 remains in the head alone.
    let report = to(&path("smaller"), &path("once"), Recipe::Q2_K);
    assert_eq!(report.requantized, 22);
    open(&path("smaller"));
}

#[test]
fn splits_become_one_file_and_are_not_overwritten() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    to(&path("whole"), &micro(), Recipe::BF16);
    let splits = split(&path("whole"), dir.path());
    to(&path("from splits"), &splits[1], Recipe::Q4_K_M);
    to(&path("from whole"), &path("whole"), Recipe::Q4_K_M);
    let [a, b] = ["from splits", "from whole"].map(|name| std::fs::read(path(name)).unwrap());
    assert!(a == b);
    let force = Options { force: true, ..Options::default() };
    let source = open(&splits[0]);
    for split in &splits {
        let plan = plan(&source, Recipe::Q4_K_M);
        let error = convert(&source, split, &plan, force, &mut ()).unwrap_err();
        assert!(error.to_string().contains("being read"), "{error}");
    }
}

/// A copy of the random checkpoint whose file `name` is edited as JSON.
fn edited(name: &str, edit: impl FnOnce(&mut serde_json::Value)) -> TempDir {
    let dir = copy_of(&micro());
    let path = dir.path().join(name);
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    dir
}

#[test]
fn a_model_without_a_template_gets_the_official_one() {
    let own = "{{ bos_token }}{{ messages[0]['content'] }}";
    for (template, expected) in [(None, GEMMA2_TEMPLATE), (Some(own), own)] {
        let dir = edited("tokenizer_config.json", |json| json["chat_template"] = template.into());
        let out = dir.path().join("out.gguf");
        to(&out, dir.path(), Recipe::Q8_0);
        let source = open(&out);
        assert_eq!(source.chat_template().unwrap().as_deref(), Some(expected));
    }
}

#[test]
fn stop_ids_beyond_those_of_the_vocabulary_are_kept() {
    let ids = serde_json::json!([1, 107, 106]);
    let dir = edited("generation_config.json", |json| json["eos_token_id"] = ids);
    let out = dir.path().join("out.gguf");
    to(&out, dir.path(), Recipe::Q8_0);
    let source = open(&out);
    let id = |key: &str| source.gguf().unwrap().u32(&format!("tokenizer.ggml.{key}")).unwrap();
    let stop = [id("eos_token_id"), id("eot_token_id"), id("eom_token_id")];
    assert_eq!(stop, [Some(1), Some(107), Some(106)]);
}

#[test]
fn what_another_file_says_of_the_model_is_kept_and_of_its_storage_is_not() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    to(&path("plain"), &micro(), Recipe::BF16);
    let plain = open(&path("plain"));
    let gguf = plain.gguf().unwrap();
    let mut header = Header::new();
    gguf.metadata().for_each(|(key, value)| header.set(key, value));
    header.set("general.author", "somebody");
    header.set("general.tags", vec!["a".to_owned(), "b".to_owned()]);
    header.set("quantize.imatrix.file", "imatrix.dat");
    header.set("lapidary.of.a.later.version", true);
    for t in gguf.tensors() {
        header.add_tensor(t.name, t.ty, t.shape).unwrap();
    }
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    gguf.tensors().for_each(|t| writer.write(t.data).unwrap());
    std::fs::write(path("more"), writer.finish().unwrap()).unwrap();

    to(&path("out"), &path("more"), Recipe::Q8_0);
    let out = open(&path("out"));
    let gguf = out.gguf().unwrap();
    assert_eq!(gguf.str("general.author").unwrap(), Some("somebody"));
    assert_eq!(gguf.array("general.tags").unwrap().unwrap().len(), 2);
    assert_eq!(gguf.get("quantize.imatrix.file"), None);
    assert_eq!(gguf.get("lapidary.of.a.later.version"), None);
    assert_eq!(gguf.str("lapidary.recipe").unwrap(), Some("Q8_0"));
    assert_eq!(gguf.u32("general.file_type").unwrap(), Some(Recipe::Q8_0.file_type()));
}

/// What a file says of the model that it was made from.
fn fingerprint(model: &Path) -> String {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    to(&out, model, Recipe::Q8_0);
    let source = open(&out);
    source.gguf().unwrap().str("lapidary.source.fingerprint").unwrap().unwrap().to_owned()
}

#[test]
fn the_fingerprint_is_that_of_the_model_wherever_it_lies() {
    let micro_fingerprint = fingerprint(&micro());
    let same = edited("generation_config.json", |_| {});
    // The helper writes the file anew, without line feeds.
    let original = micro().join("generation_config.json");
    std::fs::copy(original, same.path().join("generation_config.json")).unwrap();
    assert_eq!(fingerprint(same.path()), micro_fingerprint);
    let template = edited("tokenizer_config.json", |json| json["chat_template"] = "{{ 1 }}".into());
    let stop = edited("generation_config.json", |json| json["eos_token_id"] = 107.into());
    let softcap = edited("config.json", |json| json["final_logit_softcapping"] = 31.0.into());
    let others = [tiny(), template.path().into(), stop.path().into(), softcap.path().into()];
    let mut all: Vec<String> = others.iter().map(|model| fingerprint(model)).collect();
    all.push(micro_fingerprint);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5);
}

/// Adds up what it is told.
#[derive(Default)]
struct Counter {
    total: u64,
    tensors: usize,
    bytes_in: u64,
    bytes_out: u64,
    finished: bool,
}

impl Progress for Counter {
    fn started(&mut self, bytes: u64) {
        self.total = bytes;
    }

    fn tensor(&mut self, _name: &str) {
        self.tensors += 1;
    }

    fn advanced(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    fn finished(&mut self) {
        self.finished = true;
    }
}

#[test]
fn progress_adds_up() {
    let dir = TempDir::new().unwrap();
    let mut counter = Counter::default();
    let out = dir.path().join("out.gguf");
    let source = open(&micro());
    let plan = plan(&source, Recipe::Q8_0);
    let report = convert(&source, &out, &plan, Options::default(), &mut counter).unwrap();
    assert!(counter.finished);
    assert_eq!(counter.tensors, report.totals.tensors());
    assert_eq!([counter.total, counter.bytes_in], [report.bytes_read; 2]);
    assert_eq!(counter.bytes_out, report.totals.bytes());
}
