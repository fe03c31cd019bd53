//! Perplexity and the divergence of a quantized model from its original.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lapidary::convert::{convert, Options as ConvertOptions, Plan, Recipe};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Rows, Source, State, StateOptions};
use lapidary::perplexity::{
    check_vocabularies, compare, measure, Divergence, Options, PerplexityError, VocabularyMismatch,
};
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary_formats::vocab::{Piece, Vocab};
use tempfile::TempDir;

use crate::fixtures::{held_out, micro, tiny};
use crate::goldens::{golden, ids};

const OPTIONS: Options =
    Options { n_ctx: 128, chunks: None, kv: KvType::F16, reference_kv: KvType::F16, bos: Some(2) };

/// 300 tokens: two chunks of 128.
fn tokens() -> Vec<u32> {
    ids(&golden("tiny.json")["ids"])
}

fn held_out_tokens(source: &Source) -> Vec<u32> {
    let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
    let text = std::fs::read_to_string(held_out()).unwrap();
    tokenizer.encode_with_bos(&text, Special::Plain)
}

fn quantize(source: &Path, dir: &TempDir, recipe: Recipe) -> PathBuf {
    let file = dir.path().join(recipe.name());
    let source = Source::open(source).unwrap();
    let plan = Plan::of_recipe(&source, recipe);
    convert(&source, &file, &plan, ConvertOptions::default(), &mut ()).unwrap();
    file
}

/// On one thread, unless it matters.
fn model(source: &Source) -> Model<'_> {
    Model::load(source, Some(1)).unwrap()
}

fn compare_all(quantized: &Model<'_>, reference: &Model<'_>, options: Options) -> Divergence {
    compare(quantized, reference, &tokens(), options, |_, _| true).unwrap()
}

/// ln softmax, in double precision.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - max - sum.ln()).collect()
}

/// ln P of every token after those of a chunk's second half, by one plain forward pass.
fn predictions(model: &Model<'_>, chunk: &[u32]) -> Vec<Vec<f64>> {
    let mut state = State::new(model.config(), StateOptions::new(chunk.len(), KvType::F16));
    let (inputs, mut rows) = (&chunk[..chunk.len() - 1], Vec::new());
    let sink = |_, logits: &mut [f32]| rows.push(log_softmax(logits));
    model.forward(&mut state, inputs, Rows::From(chunk.len() / 2), sink).unwrap();
    rows
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let source = Source::open(&tiny()).unwrap();
    let model = model(&source);
    let found = compare_all(&model, &model, OPTIONS);
    let kl = found.kl;
    assert_eq!((kl.mean.value, kl.mean.standard_error), (0.0, 0.0));
    assert_eq!((kl.median, kl.percentile_99, kl.maximum), (0.0, 0.0, 0.0));
    assert_eq!((found.ratio.value, found.ratio.standard_error), (1.0, 0.0));
    assert_eq!((found.same_top.value, found.same_top.standard_error), (1.0, 0.0));
    assert_eq!((found.probability_change.value, found.probability_change_rms), (0.0, 0.0));
    assert_eq!(found.quantized, found.reference);
    assert_eq!((found.tokens, found.chunks), (2 * 63, 2));
}

#[test]
fn the_coarser_recipe_diverges_more_and_perplexities_are_those_of_plain_runs() {
    let dir = TempDir::new().unwrap();
    let source = Source::open(&tiny()).unwrap();
    let original = model(&source);
    let tokens = held_out_tokens(&source);
    let options = Options { n_ctx: 512, chunks: Some(2), ..OPTIONS };
    let plain = |model: &Model<'_>| {
        let p = measure(model, &tokens, options, |_, _| true).unwrap();
        (p.perplexity, p.standard_error, p.tokens, p.chunks)
    };
    let divergences = [Recipe::Q2_K, Recipe::Q4_K_M].map(|recipe| {
        let source = Source::open(&quantize(&tiny(), &dir, recipe)).unwrap();
        let quantized = model(&source);
        let found = compare(&quantized, &original, &tokens, options, |_, _| true).unwrap();
        let Divergence { kl, ratio, tokens, chunks, .. } = found;
        for (side, model) in [(found.quantized, &quantized), (found.reference, &original)] {
            assert_eq!((side.value, side.standard_error, tokens, chunks), plain(model));
        }
        assert!(0.0 < kl.median && kl.median < kl.percentile_99 && kl.percentile_99 < kl.maximum);
        assert!(kl.mean.value < kl.percentile_99 && kl.mean.standard_error < kl.mean.value);
        // exp of a mean of differences is the quotient of exps of means, but for roundings.
        assert!((ratio.value * found.reference.value / found.quantized.value - 1.0).abs() < 1e-12);
        // Pairs: without them the error would be that of a perplexity, 5 %, or larger.
        assert!(
            ratio.standard_error < 0.2 * found.quantized.standard_error / found.quantized.value
        );
        assert!(found.same_top.value > 0.5 && found.same_top.value < 1.0);
        // By Pinsker's inequality no probability changes by more than √(KL / 2) at any position.
        assert!(found.probability_change_rms <= (kl.mean.value / 2.0).sqrt());
        kl.mean.value
    });
    assert!(divergences[0] > 4.0 * divergences[1] && divergences[1] > 0.0, "{divergences:?}");
}

/// Positions, direction and every figure, against the definition.
#[test]
fn figures_are_those_of_plain_forward_passes() {
    let dir = TempDir::new().unwrap();
    let source = Source::open(&tiny()).unwrap();
    let tokens = held_out_tokens(&source);
    let file = Source::open(&quantize(&tiny(), &dir, Recipe::Q3_K_M)).unwrap();
    let (quantized, reference) = (model(&file), model(&source));
    // The first score comes in the first ubatch of 512 positions, the last in the second.
    let n_ctx = 700;
    let options = Options { n_ctx, chunks: Some(1), ..OPTIONS };
    let found = compare(&quantized, &reference, &tokens, options, |_, _| true).unwrap();
    let chunk = &tokens[..n_ctx];
    let next = &chunk[n_ctx / 2 + 1..];
    let (q, p) = (predictions(&quantized, chunk), predictions(&reference, chunk));
    assert_eq!((found.tokens, p.len()), (next.len(), next.len()));
    let n = next.len() as f64;
    let mean = |values: &dyn Fn(usize) -> f64| (0..next.len()).map(values).sum::<f64>() / n;
    let kl = |i: usize| p[i].iter().zip(&q[i]).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let right = |x: &[Vec<f64>], i: usize| x[i][next[i] as usize];
    // The kernels' exponentials are good to 1e-6, and errors of many pieces even out.
    let near = |found: f64, expected: f64| {
        assert!((found - expected).abs() <= 2e-6 * expected.abs(), "{found} for {expected}");
    };
    near(found.quantized.value, (-mean(&|i| right(&q, i))).exp());
    near(found.reference.value, (-mean(&|i| right(&p, i))).exp());
    near(found.kl.mean.value, mean(&kl));
    near(found.kl.maximum, (0..next.len()).map(kl).fold(0.0, f64::max));
    let change = |i| right(&q, i).exp() - right(&p, i).exp();
    near(found.probability_change_rms, mean(&|i| change(i) * change(i)).sqrt());
    assert!((found.probability_change.value - mean(&change)).abs() < 1e-7);
    let top = |x: &[f64]| (0..x.len()).max_by(|a, b| x[*a].total_cmp(&x[*b]));
    let same = mean(&|i| if top(&p[i]) == top(&q[i]) { 1.0 } else { 0.0 });
    assert!((found.same_top.value - same).abs() < 1e-12);
    let mean_difference = mean(&|i| right(&p, i) - right(&q, i));
    let variance = mean(&|i| (right(&p, i) - right(&q, i) - mean_difference).powi(2)) / (n - 1.0);
    // Of the differences, 0.1, the roundings of the logarithms are up to 1e-5.
    let error = mean_difference.exp() * variance.sqrt();
    assert!((found.ratio.standard_error / error - 1.0).abs() < 1e-4);
}

#[test]
fn figures_depend_neither_on_threads_nor_on_instructions() {
    let dir = TempDir::new().unwrap();
    let source = Source::open(&tiny()).unwrap();
    let file = Source::open(&quantize(&tiny(), &dir, Recipe::Q2_K)).unwrap();
    let found = |threads: usize, isa: Isa| {
        let cpu = Cpu::new(NonZeroUsize::new(threads), isa).unwrap();
        let (quantized, reference) =
            (Model::on(cpu.clone(), &file).unwrap(), Model::on(cpu, &source).unwrap());
        Divergence { seconds: 0.0, ..compare_all(&quantized, &reference, OPTIONS) }
    };
    let expected = found(1, Isa::SCALAR);
    assert!(expected.kl.mean.value > 0.0);
    for isa in Isa::available() {
        for threads in [1, 3] {
            assert_eq!(found(threads, isa), expected, "{threads} threads, {}", isa.name());
        }
    }
}

#[test]
fn progress_ends_a_comparison() {
    let source = Source::open(&tiny()).unwrap();
    let model = model(&source);
    let mut calls = 0;
    let found = compare(&model, &model, &tokens(), OPTIONS, |so_far, chunks| {
        calls += 1;
        assert_eq!((so_far.chunks, chunks), (1, 2));
        false
    });
    assert_eq!((found.unwrap().chunks, calls), (1, 1));
}

#[test]
fn texts_and_contexts_that_are_too_short_are_refused() {
    let source = Source::open(&tiny()).unwrap();
    let model = model(&source);
    let error = |options: Options, tokens: &[u32]| {
        let result = compare(&model, &model, tokens, options, |_, _| true);
        result.unwrap_err()
    };
    let short = error(OPTIONS, &[2; 127]);
    assert!(matches!(short, PerplexityError::TextTooShort { tokens: 127, n_ctx: 128 }));
    let context = error(Options { n_ctx: 3, ..OPTIONS }, &[2; 127]);
    assert!(matches!(context, PerplexityError::ContextTooShort(3)));
}

/// Another model with the same pieces will do, whatever its sizes.
#[test]
fn models_of_different_sizes_can_be_compared() {
    let (small, trained) = (Source::open(&micro()).unwrap(), Source::open(&tiny()).unwrap());
    check_vocabularies(&small.vocab().unwrap(), &trained.vocab().unwrap()).unwrap();
    let found = compare_all(&model(&small), &model(&trained), OPTIONS);
    assert!(found.kl.mean.value > 1.0 && found.ratio.value > 2.0, "{found:?}");
}

#[test]
fn vocabularies_that_differ_are_told_apart() {
    let vocab = Source::open(&tiny()).unwrap().vocab().unwrap();
    assert_eq!(check_vocabularies(&vocab, &vocab), Ok(()));
    let with =
        |pieces: &[Piece]| Vocab { pieces: pieces.iter().cloned().collect(), ..vocab.clone() };
    let mut pieces: Vec<Piece> = vocab.pieces.iter().collect();
    let spaced = pieces.iter_mut().find(|piece| piece.text.contains('\u{2581}')).unwrap();
    spaced.text = spaced.text.replace('\u{2581}', " ").into();
    assert_eq!(check_vocabularies(&vocab, &with(&pieces)), Ok(()));
    pieces[1000].text = "other".into();
    let (quantized, reference) = (vocab.pieces.text(1000).to_owned(), "other".into());
    let expected = VocabularyMismatch::Piece { id: 1000, quantized, reference };
    assert_eq!(check_vocabularies(&vocab, &with(&pieces)), Err(expected));
    let expected = VocabularyMismatch::Size { quantized: 2048, reference: 2000 };
    assert_eq!(check_vocabularies(&vocab, &with(&pieces[..2000])), Err(expected));
}

/// `lapidary perplexity` on the held-out text.
fn perplexity(model: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("perplexity").arg(model).arg("-f").arg(held_out());
    command.args(["--ctx", "64", "--chunks", "3"]).args(args).output().unwrap()
}

fn json(model: &Path, args: &[&str]) -> serde_json::Value {
    let output = perplexity(model, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_command_compares_with_a_checkpoint_and_with_a_file() {
    let dir = TempDir::new().unwrap();
    let (q2, q8) = (quantize(&tiny(), &dir, Recipe::Q2_K), quantize(&tiny(), &dir, Recipe::Q8_0));
    let plain = json(&q2, &[]);
    for original in [&tiny(), &q8] {
        let reference = ["--reference", original.to_str().unwrap()];
        let found = json(&q2, &reference);
        for key in ["perplexity", "standard_error", "tokens", "chunks"] {
            assert_eq!(found[key], plain[key], "{key}");
        }
        assert_eq!(found["reference"]["perplexity"], json(original, &[])["perplexity"]);
        let kl = &found["kl_divergence"];
        for key in ["mean", "standard_error", "median", "percentile_99", "maximum"] {
            assert!(kl[key].as_f64().unwrap() > 0.0, "{key}");
        }
        let text = String::from_utf8(perplexity(&q2, &reference).stdout).unwrap();
        let mean = format!("KL divergence, mean  {:.6} ± ", kl["mean"].as_f64().unwrap());
        let share = found["same_top"]["value"].as_f64().unwrap();
        let share = format!("same top token  {:.3} ± ", 100.0 * share);
        for part in [&mean, &share, "ratio  ", "93 tokens scored in 3 chunks of 64"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}

#[test]
fn the_command_names_the_piece_that_differs() {
    let dir = TempDir::new().unwrap();
    let file = quantize(&tiny(), &dir, Recipe::Q8_0);
    let vocab = Source::open(&file).unwrap().vocab().unwrap();
    let piece = "\u{2581}LORD";
    let id = vocab.pieces.iter().position(|p| p.text == piece).unwrap();
    let other = dir.path().join("other.gguf");
    let mut bytes = std::fs::read(&file).unwrap();
    let text = [&(piece.len() as u64).to_le_bytes(), piece.as_bytes()].concat();
    let at = bytes.windows(text.len()).position(|x| x == text).unwrap();
    bytes[at + text.len() - 4..][..4].copy_from_slice(b"KING");
    std::fs::write(&other, bytes).unwrap();
    let output = perplexity(&file, &["--reference", other.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), b"".as_slice()), "{stderr}");
    let cause = format!("piece {id} is \"▁LORD\" in the model, but \"▁KING\" in the reference");
    assert!(stderr.contains(&cause) && stderr.contains("other.gguf"), "{stderr}");
    assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
}
