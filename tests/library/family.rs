//! The rest of the family against Hugging Face transformers in f32: random models whose sizes exercise
//! every branch (goldens/transformers/README.md says how the goldens were made, and what an error of
//! each kind would give).

use std::fs;
use std::num::NonZeroUsize;

use lapidary::convert::{convert, fit, Budget, Options, Plan, Recipe, Weighting};
use lapidary::imatrix;
use lapidary::kernels::KvType;
use lapidary::model::{Architecture, Model, Note, Source, State, StateOptions};
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary::verify::verify;
use serde_json::Value;
use tempfile::TempDir;

use crate::fixtures::{held_out, micro, tests_dir, tiny};
use crate::goldens::{golden, ids};
use crate::logits::{changed_checkpoint, golden_f32, greedy, logits_at, CACHES, F32_NMSE};
use crate::nmse::nmse;

/// The goldens, and the architecture of each.
const MODELS: [(&str, Architecture); 5] = [
    ("micro-gemma1", Architecture::Gemma),
    ("micro-gemma3", Architecture::Gemma3),
    ("micro-gemma3-conditional", Architecture::Gemma3),
    ("micro-vaultgemma", Architecture::VaultGemma),
    ("micro-vaultgemma-global", Architecture::VaultGemma),
];

/// A golden, and the checkpoint that it is of.
struct Golden {
    json: Value,
    dir: TempDir,
}

impl Golden {
    /// A copy of the fixture with the golden's changes to `config.json`.
    fn new(name: &str) -> Self {
        let json = golden(&format!("{name}.json"));
        let fixture = tests_dir("fixtures").join(json["fixture"].as_str().unwrap());
        let dir = changed_checkpoint(&fixture, &json["config"]);
        Self { json, dir }
    }

    fn source(&self) -> Source {
        Source::open(self.dir.path()).unwrap()
    }

    /// Logits at the golden's positions, `[positions, n_vocab]`, evaluated in pieces of `piece` tokens.
    fn logits(&self, model: &Model<'_>, piece: usize, kv: KvType) -> Vec<f32> {
        let (ids, positions) = (ids(&self.json["ids"]), ids(&self.json["positions"]));
        logits_at(model, ids.chunks(piece), &positions, kv)
    }
}

/// In f32 every branch is told apart: the smallest error that is known is 5e-8. A cache in 8 bits moves
/// random models with large scores by some 1e-4, and is allowed what one position may have.
#[test]
fn logits_are_those_of_transformers_at_every_position() {
    for (name, architecture) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        assert_eq!(source.config().architecture, architecture, "{name}");
        let model = Model::load(&source, None).unwrap();
        let expected = golden_f32(&format!("{name}.logits.f32"));
        for (kv, _, tolerance) in CACHES {
            let found = golden.logits(&model, usize::MAX, kv);
            let error = nmse(&found, &expected);
            println!("{name}, {kv:?}: NMSE {error:.2e}");
            assert!(error <= tolerance, "{name}, {kv:?}: NMSE {error:e}");
            if kv != KvType::F32 {
                continue;
            }
            let n_vocab = model.config().n_vocab;
            for (at, (found, expected)) in
                found.chunks(n_vocab).zip(expected.chunks(n_vocab)).enumerate()
            {
                let error = nmse(found, expected);
                assert!(error <= F32_NMSE, "{name}, {at}th position: NMSE {error:e}");
            }
        }
    }
}

/// Every product is computed in one order whatever the number of rows, so equal means equal.
#[test]
fn a_prompt_gives_the_same_logits_whole_in_pieces_and_token_by_token() {
    for (name, _) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        let model = Model::load(&source, None).unwrap();
        for kv in KvType::ALL {
            let whole = golden.logits(&model, usize::MAX, kv);
            for piece in [1, 7, 129] {
                let found = golden.logits(&model, piece, kv);
                assert!(found == whole, "{name}: pieces of {piece}, {kv:?}");
            }
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for (name, _) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        let model = Model::load(&source, None).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        let prompt = golden.json["prompt"].as_str().unwrap();
        let expected = ids(&golden.json["greedy_ids"]);
        let prompt = tokenizer.encode_with_bos(prompt, Special::Plain);
        assert_eq!(prompt, ids(&golden.json["prompt_ids"]), "{name}");
        let found = greedy(&model, &prompt, expected.len());
        assert_eq!(found, expected, "{name}");
    }
}

/// A GGUF file is the same model as the checkpoint that it was made from.
#[test]
fn a_converted_file_has_the_configuration_and_the_bits_of_its_checkpoint() {
    for (name, _) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        let out = golden.dir.path().join("out.gguf");
        let plan = Plan::of_recipe(&source, Recipe::F32);
        convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
        let file = Source::open(&out).unwrap();
        assert_eq!(file.config(), source.config(), "{name}");
        assert_eq!(file.vocab().unwrap(), source.vocab().unwrap(), "{name}");
        let logits =
            |source| golden.logits(&Model::load(source, None).unwrap(), usize::MAX, KvType::F32);
        assert!(logits(&file) == logits(&source), "{name}");
    }
}

/// Every recipe runs, and loses little: the random models have no rows of 256, so that recipes fall
/// back to types with blocks of 32.
#[test]
fn every_recipe_of_every_architecture_runs() {
    for (name, _) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        let exact = golden_f32(&format!("{name}.logits.f32"));
        for recipe in Recipe::all() {
            let out = golden.dir.path().join(format!("{recipe}.gguf"));
            let plan = Plan::of_recipe(&source, recipe);
            convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
            let file = Source::open(&out).unwrap();
            let model = Model::load(&file, None).unwrap();
            let error = nmse(&golden.logits(&model, usize::MAX, KvType::F16), &exact);
            // Random weights with large gains amplify rounding; what a swapped tensor gives is 1 and more.
            let limit = if recipe.base().block_len() == 1 { 1e-4 } else { 0.5 };
            assert!(error <= limit, "{name} {recipe}: NMSE {error:e}");
        }
    }
}

/// What llama.cpp does otherwise with a file is said, and nothing where it does the same.
#[test]
fn what_llama_cpp_does_otherwise_is_said() {
    let scale = |architecture, inferred, scale| {
        Some(format!(
            "uses {inferred} as the attention scale of {architecture} in these sizes, but this model \
             has {scale}: its answers will differ"
        ))
    };
    for (name, expected) in [
        ("micro-gemma1", None),
        ("micro-gemma3", scale("Gemma 3", 0.17677669, 0.20412415)),
        (
            "micro-vaultgemma",
            Some("does not support VaultGemma: the file runs only in Lapidary".to_owned()),
        ),
    ] {
        let golden = Golden::new(name);
        let (source, out) = (golden.source(), golden.dir.path().join("out.gguf"));
        let plan = Plan::of_recipe(&source, Recipe::F16);
        let report = convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
        assert_eq!(report.llama_cpp, expected, "{name}");
    }
    let (source, dir) = (Source::open(&micro()).unwrap(), TempDir::new().unwrap());
    let plan = Plan::of_recipe(&source, Recipe::F16);
    let out = dir.path().join("out.gguf");
    let report = convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
    let expected =
        "does not load Gemma 2 with an output matrix of its own (output.weight): the file runs only in \
         Lapidary";
    assert_eq!(report.llama_cpp.as_deref(), Some(expected));
    let source = Source::open(&tiny()).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::F16);
    let options = Options { force: true, ..Options::default() };
    let report = convert(&source, &out, &plan, options, &mut ()).unwrap();
    assert_eq!(report.llama_cpp, None);
}

/// Parts that read images are left out of a conversion, and counted.
#[test]
fn vision_is_left_out() {
    let golden = Golden::new("micro-gemma3-conditional");
    let source = golden.source();
    assert!(matches!(source.notes(), [Note::Vision(n)] if *n > 0));
    assert!(source
        .tensors()
        .iter()
        .all(|spec| source.tensor(spec).name.contains("language_model")));
    assert!(Golden::new("micro-gemma3").source().notes().is_empty());
}

/// An output matrix that belongs to nothing around the model is not left out in silence.
#[test]
fn an_output_matrix_under_another_name_is_refused() {
    let golden = Golden::new("micro-gemma3-conditional");
    let path = golden.dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let at = bytes.len() - end;
    header["other.lm_head.weight"] =
        serde_json::json!({"dtype": "F32", "shape": [1, 1], "data_offsets": [at, at + 4]});
    let header = header.to_string().into_bytes();
    let mut changed = (header.len() as u64).to_le_bytes().to_vec();
    changed.extend(header);
    changed.extend(bytes.drain(end..));
    changed.extend([0; 4]);
    fs::write(&path, changed).unwrap();
    let error = Source::open(golden.dir.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("tensor `other.lm_head.weight` is not part of a Gemma 3 model"),
        "{error}"
    );
}

/// Sequences are saved and restored, and rings wrap: what the held-out text gives in small pieces is
/// what it gives with whole caches.
#[test]
fn rings_of_local_layers_give_the_bits_of_whole_caches() {
    let text = fs::read_to_string(held_out()).unwrap();
    for (name, _) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        let model = Model::load(&source, None).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        let ids = &tokenizer.encode_with_bos(&text, Special::Plain)[..600];
        let run = |rings| {
            let options =
                StateOptions { n_ubatch: 40, rings, ..StateOptions::new(600, KvType::F16) };
            let mut state = State::new(model.config(), options);
            model.forward_last(&mut state, ids).unwrap().to_vec()
        };
        assert!(run(true) == run(false), "{name}");
    }
}

/// What is done with models besides running them: importance matrices, budgets, saved sequences, the look
/// for damage.
#[test]
fn everything_that_is_done_with_a_model_is_done_with_every_architecture() {
    for (name, _) in MODELS {
        let golden = Golden::new(name);
        let source = golden.source();
        let (c, ids) = (source.config(), ids(&golden.json["ids"]));
        let model = Model::load(&source, None).unwrap();

        let options = imatrix::Options {
            n_ctx: NonZeroUsize::new(32).unwrap(),
            chunks: None,
            kv: KvType::F32,
            bos: Some(2),
        };
        let collected = imatrix::collect(&model, &ids, options, |_, _| true).unwrap();
        assert_eq!(collected.imatrix.entries.len(), 7 * c.n_layer() + 1, "{name}");
        let weighting = Weighting::new(&source, &collected.imatrix);
        assert_eq!(
            (weighting.len(), &weighting.flaws[..]),
            (7 * c.n_layer() + 1, &[][..]),
            "{name}"
        );

        let budget = Budget::BitsPerWeight(5.5);
        let fitted =
            fit(&source, budget, Some(&weighting), None, Options::default(), &mut ()).unwrap();
        let out = golden.dir.path().join("fitted.gguf");
        let plan = fitted.plan.weighted(Some(weighting));
        let report = convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
        assert!(
            report.totals.bits_per_weight() <= 5.5 && report.file_bytes <= fitted.limit,
            "{name}"
        );
        let verified = verify(&out, None, &mut ()).unwrap();
        assert_eq!((&verified.findings[..], verified.checksums), (&[][..], source.tensors().len()));

        let mut state = State::new(c, StateOptions::new(256, KvType::F16));
        model.forward_last(&mut state, &ids[..100]).unwrap();
        let saved = state.save(name, &ids[..100], "", Vec::new()).unwrap();
        let options = StateOptions { n_ubatch: 8, ..*state.options() };
        let len = saved.len() as u64;
        let mut restored = State::restore(c, options, name, saved.as_slice(), len).unwrap();
        let found = model.forward_last(&mut restored.state, &ids[100..]).unwrap().to_vec();
        assert!(found == model.forward_last(&mut state, &ids[100..]).unwrap(), "{name}");
    }
}
