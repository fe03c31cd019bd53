//! Models whose header is sound and whose weights, names or sizes are not what anybody would expect.

use std::fs;
use std::num::NonZeroUsize;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::kernels::{Cpu, Isa, KvType, RopeSpec};
use lapidary::model::{Config, LayerSpec, Model, Rows, Source, State, StateOptions, TensorSpec};
use lapidary_formats::gguf::{Gguf, Header};
use lapidary_formats::quant::QuantType;
use tempfile::TempDir;

use super::file::File;
use super::random::Random;
use super::small;

/// The random checkpoint with odd sizes.
const MICRO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro-gemma2");

/// The small model with one bad value in the tensor `name`.
fn with_value(name: &str, value: f32) -> File {
    let bad = |spec: &TensorSpec, x: &mut [f32]| {
        if spec.name == name {
            x[5] = value;
        }
    };
    File::new(&small::gguf_of(&small::config(), QuantType::Q8_0, |_| (), bad))
}

#[test]
fn norms_that_are_not_finite() {
    for name in ["blk.1.ffn_norm.weight", "output_norm.weight"] {
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
    for name in names.iter().map(String::as_str).chain(["token_embd.weight"]) {
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
                     verify` checks its weights)\n"
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
        h.add_tensor(evil, QuantType::F32, &[8]).unwrap();
    };
    let run: &[&str] = &["--chat", "-p", "the"];
    type Case<'a> = (&'a dyn Fn(&mut Header), &'a str, &'a [&'a str]);
    let cases: [Case; 6] = [
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
    let checkpoint = Source::open(MICRO.as_ref()).unwrap();
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

/// Sizes that no model has, but that do not contradict each other: each runs.
#[test]
fn models_of_strange_sizes() {
    let random = &mut Random(3);
    let cpu = Cpu::new(NonZeroUsize::new(2), Isa::best()).unwrap();
    for _ in 0..200 {
        let n_head_kv = 1 + random.below(3);
        let softcap = random.one_of(&[None, Some(1e-3), Some(50.0), Some(1e30)]);
        let base = random.one_of(&[1.0, 1e4, 1e12]);
        let layers = small::layers(1 + random.below(3), 1 + random.below(12)).into_iter();
        let rope = RopeSpec { base, factor: 1.0 };
        let layers = layers.map(|layer| LayerSpec { softcap, rope, ..layer }).collect();
        let n_embd = random.one_of(&[1, 2, 31, 32, 33, 96, 256, 512]);
        let config = Config {
            n_ctx_train: 1 + random.below(40),
            n_embd,
            embd_scale: Config::root_of_width(n_embd),
            n_ff: random.one_of(&[1, 3, 32, 64, 255, 256, 288]),
            n_head: n_head_kv * (1 + random.below(3)),
            n_head_kv,
            head_dim: 2 * (1 + random.below(40)),
            final_softcap: random.one_of(&[None, Some(1e-3), Some(30.0)]),
            layers,
            rms_eps: random.one_of(&[1e-12, 1e-6, 1.0]),
            ..small::config()
        };
        let types = QuantType::all().filter(|ty| ty.traits().stored).collect::<Vec<_>>();
        let ty = random.one_of(&types);
        let softcaps = |h: &mut Header| {
            // Zero stands for none.
            h.set("gemma2.attn_logit_softcapping", softcap.unwrap_or(0.0));
            h.set("gemma2.final_logit_softcapping", config.final_softcap.unwrap_or(0.0));
            h.set("gemma2.rope.freq_base", base);
        };
        let file = File::new(&small::gguf_of(&config, ty, softcaps, |_, _| ()));
        let source = Source::open(&file.path()).unwrap();
        assert_eq!(*source.config(), config);
        let model = Model::on(cpu.clone(), &source).unwrap();
        let options = StateOptions::new(1 + random.below(40), random.one_of(&KvType::ALL));
        let mut state =
            State::new(&config, StateOptions { n_ubatch: 1 + random.below(9), ..options });
        let tokens: Vec<u32> =
            (0..options.n_ctx).map(|i| (i * 37 % small::N_VOCAB) as u32).collect();
        let mut rows = 0;
        model.forward(&mut state, &tokens, Rows::All, |_, _| rows += 1).unwrap();
        assert_eq!(rows, tokens.len(), "{config:?} {ty} {options:?}");
    }
}
