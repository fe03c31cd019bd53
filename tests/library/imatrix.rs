//! Importance matrices that are computed: the numbers against a plain computation, and the command
//! from end to end.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use assert_cmd::Command;
use lapidary::calibration::CollectError;
use lapidary::imatrix::{collect, Collected, Options};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Source, TensorKind, TensorSpec};
use lapidary_formats::imatrix::Imatrix;
use serde_json::Value;
use tempfile::TempDir;

use crate::directory::names;
use crate::fixtures::{held_out, micro, tiny};
use crate::goldens::{golden, ids};
use crate::nmse::nmse;

fn options(n_ctx: usize, chunks: Option<usize>) -> Options {
    let number = |n: usize| NonZeroUsize::new(n).unwrap();
    Options { n_ctx: number(n_ctx), chunks: chunks.map(number), kv: KvType::F32, bos: None }
}

fn collected(source: &Source, tokens: &[u32], options: Options) -> Collected {
    collect(&Model::load(source, None).unwrap(), tokens, options, |_, _| true).unwrap()
}

/// A model in double precision and plain loops, for texts of one token: attention to a single
/// position gives its value, whatever the scores are.
struct Plain<'a>(&'a Source);

/// What the matrices of a layer read.
struct Inputs {
    attn_in: Vec<f64>,
    attn_out: Vec<f64>,
    ffn_in: Vec<f64>,
    ffn_out: Vec<f64>,
    /// What the halves add to the stream.
    added: [Vec<f64>; 2],
}

impl Plain<'_> {
    fn rows(&self, kind: TensorKind, layer: Option<usize>) -> Vec<Vec<f64>> {
        let is = |spec: &&TensorSpec| (spec.kind, spec.layer) == (kind, layer);
        let spec = self.0.tensors().iter().find(is).unwrap();
        let view = self.0.tensor(spec);
        let mut w = vec![0.0; view.len()];
        (view.ty.traits().dequantize)(view.data, &mut w);
        w.chunks(view.cols()).map(|row| row.iter().map(|w| f64::from(*w)).collect()).collect()
    }

    fn times(&self, layer: usize, kind: TensorKind, x: &[f64]) -> Vec<f64> {
        let dot = |w: Vec<f64>| w.iter().zip(x).map(|(w, x)| w * x).sum();
        self.rows(kind, Some(layer)).into_iter().map(dot).collect()
    }

    /// The checkpoint holds w of the multiplier 1 + w.
    fn norm(&self, kind: TensorKind, layer: Option<usize>, x: &[f64]) -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (square + f64::from(self.0.config().rms_eps)).sqrt();
        let w = self.rows(kind, layer).remove(0);
        x.iter().zip(w).map(|(x, w)| x * scale * (1.0 + w)).collect()
    }

    fn embedding(&self, token: u32) -> Vec<f64> {
        let scale = f64::from(self.0.config().embd_scale);
        self.rows(TensorKind::TokenEmbd, None)[token as usize].iter().map(|x| x * scale).collect()
    }

    /// Takes the stream `x` through a layer.
    fn layer(&self, layer: usize, x: &mut [f64]) -> Inputs {
        use TensorKind::*;
        let c = self.0.config();
        let norm = |kind, x: &[f64]| self.norm(kind, Some(layer), x);
        let add = |x: &mut [f64], y: &[f64]| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        let attn_in = norm(AttnNorm, x);
        let v = self.times(layer, AttnV, &attn_in);
        let heads = v.chunks(c.head_dim).flat_map(|v| [v].repeat(c.n_head / c.n_head_kv));
        let attn_out: Vec<f64> = heads.flatten().copied().collect();
        let attention = norm(PostAttentionNorm, &self.times(layer, AttnOutput, &attn_out));
        add(x, &attention);
        let ffn_in = norm(FfnNorm, x);
        let gelu = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        };
        let [gate, up] = [FfnGate, FfnUp].map(|t| self.times(layer, t, &ffn_in));
        let ffn_out: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gelu(*gate) * up).collect();
        let feed_forward = norm(PostFfwNorm, &self.times(layer, FfnDown, &ffn_out));
        add(x, &feed_forward);
        Inputs { attn_in, attn_out, ffn_in, ffn_out, added: [attention, feed_forward] }
    }
}

fn add_squares(sums: &mut Vec<f64>, x: &[f64]) {
    sums.resize(x.len(), 0.0);
    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
}

/// Of all matrices of a model with odd sizes and a head of its own.
#[test]
fn sums_are_those_of_a_plain_computation() {
    let source = Source::open(&micro()).unwrap();
    let (plain, c) = (Plain(&source), source.config());
    let tokens = [2, 700, 31, 700, 1999];
    let found = collected(&source, &tokens, options(1, None));
    let mut expected = vec![<[Vec<f64>; 4]>::default(); c.n_layer()];
    let (mut added, mut last, mut output) = (vec![[0.0; 2]; c.n_layer()], 0.0, Vec::new());
    for token in tokens {
        let mut x = plain.embedding(token);
        for (layer, (expected, added)) in expected.iter_mut().zip(&mut added).enumerate() {
            let i = plain.layer(layer, &mut x);
            let inputs = [i.attn_in, i.attn_out, i.ffn_in, i.ffn_out];
            expected.iter_mut().zip(&inputs).for_each(|(sums, x)| add_squares(sums, x));
            for (sum, added) in added.iter_mut().zip(&i.added) {
                *sum += added.iter().map(|x| x * x).sum::<f64>();
            }
        }
        last += x.iter().map(|x| x * x).sum::<f64>();
        add_squares(&mut output, &plain.norm(TensorKind::OutputNorm, None, &x));
    }
    let entries = &found.imatrix.entries;
    assert_eq!(entries.len(), 7 * c.n_layer() + 1);
    let check = |name: &str, expected: &[f64]| {
        let entry = &entries[name];
        assert_eq!(entry.count, tokens.len() as f32, "{name}");
        let expected: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
        // Sums of products in single precision are right to some 1e-6, and this is squared.
        let error = nmse(&entry.sums, &expected);
        assert!(error < 1e-10, "{name}: NMSE {error:e}");
    };
    use TensorKind::*;
    const KINDS: [(TensorKind, usize); 7] = [
        (AttnQ, 0),
        (AttnK, 0),
        (AttnV, 0),
        (AttnOutput, 1),
        (FfnGate, 2),
        (FfnUp, 2),
        (FfnDown, 3),
    ];
    for (layer, expected) in expected.iter().enumerate() {
        KINDS.iter().for_each(|(kind, i)| check(&kind.name(Some(layer)), &expected[*i]));
    }
    check(&Output.name(None), &output);
    let n = (tokens.len() * c.n_embd) as f64;
    let close = |found: f64, sum: f64| (found / (sum / n) - 1.0).abs() < 1e-5;
    assert!(close(found.energies.stream, last));
    for (layer, [attention, feed_forward]) in added.into_iter().enumerate() {
        assert!(close(found.energies.attention[layer], attention), "{layer}");
        assert!(close(found.energies.feed_forward[layer], feed_forward), "{layer}");
    }
}

/// Also past the window and past a ubatch of 512 positions.
#[test]
fn threads_and_instructions_do_not_change_a_bit() {
    let source = Source::open(&tiny()).unwrap();
    let ids = ids(&golden("tiny.json")["ids"]);
    let tokens: Vec<u32> = ids.iter().cycle().take(540).copied().collect();
    let run = |threads: usize, isa| {
        let model = Model::on(Cpu::new(NonZeroUsize::new(threads), isa).unwrap(), &source).unwrap();
        collect(&model, &tokens, options(530, None), |_, _| true).unwrap()
    };
    let expected = run(1, Isa::best());
    assert_eq!(expected.imatrix.chunk_count, 1);
    for (threads, isa) in [(3, Isa::best()), (2, Isa::SCALAR)] {
        let found = run(threads, isa);
        assert!(found.imatrix == expected.imatrix, "{threads} threads, {}", isa.name());
        assert_eq!(found.energies, expected.energies);
    }
}

#[test]
fn chunks_are_counted_and_begin_with_bos() {
    let source = Source::open(&micro()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let tokens: Vec<u32> = (10..45).collect();
    let with = |tokens: &[u32], options| collected(&source, tokens, options).imatrix;
    // Three chunks of ten; the rest is left.
    let found = with(&tokens, options(10, None));
    assert_eq!((found.chunk_count, found.chunk_size), (3, 10));
    assert_eq!(found.entries["output.weight"].count, 30.0);
    assert_eq!(with(&tokens, options(10, Some(2))), with(&tokens[..20], options(10, None)));
    assert_eq!(with(&tokens, options(10, Some(99))), found);
    // Every chunk stands for itself: the same chunk twice gives twice the sums.
    let [once, twice] = [1, 2].map(|n| with(&tokens[..10].repeat(n), options(10, None)));
    for (name, entry) in &once.entries {
        let doubled: Vec<f32> = entry.sums.iter().map(|x| x * 2.0).collect();
        assert!(nmse(&twice.entries[name].sums, &doubled) < 1e-12, "{name}");
    }
    let bos = Options { bos: Some(2), ..options(10, None) };
    let mut replaced = tokens.clone();
    [0, 10, 20].into_iter().for_each(|i| replaced[i] = 2);
    assert_eq!(with(&tokens, bos), with(&replaced, options(10, None)));
    assert_ne!(with(&tokens, bos), found);

    let mut seen = Vec::new();
    let stopped = collect(&model, &tokens, options(10, None), |done, all| {
        seen.push((done, all));
        done < 2
    });
    assert_eq!(seen, [(1, 3), (2, 3)]);
    assert_eq!(stopped.unwrap().imatrix, with(&tokens[..20], options(10, None)));
    let short = collect(&model, &tokens, options(36, None), |_, _| true).unwrap_err();
    assert!(matches!(short, CollectError::TextTooShort { tokens: 35, n_ctx: 36 }));
    let unknown = collect(&model, &[1, 9999], options(2, None), |_, _| true).unwrap_err();
    assert!(matches!(unknown, CollectError::Model(_)));
}

fn command(model: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("imatrix").arg(model).arg("-f").arg(held_out()).arg("-o").arg(out).args(more);
    command
}

fn succeeds(mut command: Command) -> (String, String) {
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
    assert!(output.status.success(), "{stderr}");
    (stdout, stderr)
}

#[test]
fn the_command_writes_a_file_and_says_what_is_in_it() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("tiny.imatrix.gguf");
    let args = ["--ctx=64", "--chunks=2", "--json"];
    let (stdout, stderr) = succeeds(command(&tiny(), &out, &args));
    assert_eq!(stderr, "");
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let source = Source::open(&tiny()).unwrap();
    let matrices = 7 * source.config().n_layer() + 1;
    assert_eq!(found["output"], out.to_str().unwrap());
    assert_eq!(found["file_bytes"], fs::metadata(&out).unwrap().len());
    assert_eq!(found["matrices"], matrices);
    assert_eq!([&found["tokens"], &found["chunks"], &found["chunk_size"]], [128, 2, 64]);
    assert_eq!([&found["repaired"], &found["flaws"]], [&serde_json::json!([]); 2]);
    assert!(found["seconds"].as_f64().unwrap() > 0.0);

    let imatrix = Imatrix::open(&out).unwrap();
    assert_eq!(imatrix.datasets, ["kjv-held-out.txt"]);
    assert_eq!((imatrix.chunk_count, imatrix.chunk_size), (2, 64));
    assert_eq!(imatrix.entries.len(), matrices);
    // Every matrix of the model has weights that fit; the embedding is the head here.
    for spec in source.tensors().iter().filter(|spec| spec.shape.len() == 2) {
        let found = imatrix.importance(&spec.name, spec.shape[0]).unwrap();
        assert_eq!(found.repaired, 0, "{}", spec.name);
        let mean = found.weights.iter().sum::<f32>() / spec.shape[0] as f32;
        assert!((mean - 1.0).abs() < 1e-5, "{}: {mean}", spec.name);
    }
    assert_eq!(names(dir.path()), ["tiny.imatrix.gguf"]);
}

#[test]
fn the_command_replaces_only_what_it_may() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("imatrix.gguf");
    fs::write(&out, "precious").unwrap();
    let args = ["--ctx=16", "--chunks=1"];
    let output = command(&micro(), &out, &args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), b"".as_slice()), "{stderr}");
    assert!(stderr.contains(out.to_str().unwrap()) && stderr.contains("--force"), "{stderr}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");

    let forced = [&args[..], &["--force"]].concat();
    let (stdout, stderr) = succeeds(command(&micro(), &out, &forced));
    assert!(stdout.starts_with(out.to_str().unwrap()), "{stdout}");
    assert!(stdout.contains("22 matrices, 16 tokens in 1 chunks of 16"), "{stdout}");
    assert_eq!(stderr, "");
    let first = fs::read(&out).unwrap();
    succeeds(command(&micro(), &out, &[&forced[..], &["--threads=3", "--isa=scalar"]].concat()));
    assert!(fs::read(&out).unwrap() == first);
    assert_eq!(names(dir.path()), ["imatrix.gguf"]);
}

#[test]
fn a_text_shorter_than_a_chunk_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("imatrix.gguf");
    let output = command(&micro(), &out, &["--ctx=100000000"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("kjv-held-out.txt: the text has "), "{stderr}");
    assert!(stderr.contains("one chunk needs 100000000"), "{stderr}");
    assert_eq!(names(dir.path()), [""; 0]);
    command(&micro(), &out, &["--ctx=0"]).assert().code(2);
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_command_and_leaves_nothing_behind() {
    use std::process::{Command, Stdio};
    let dir = TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lapidary"))
        .args(["imatrix".as_ref(), tiny().as_os_str(), "-f".as_ref(), held_out().as_os_str()])
        .arg("-o")
        .arg(dir.path().join("imatrix.gguf"))
        // Hundreds of short chunks, so that it takes long and soon looks up.
        .args(["--ctx=64", "--isa=scalar"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The temporary file is there before the work begins.
    while names(dir.path()).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(130), b"".as_slice()));
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A model whose first layer does not use column 5: its norm multiplies it with zero.
fn model_with_a_silent_column() -> TempDir {
    const NORM: &str = "model.layers.0.input_layernorm.weight";
    let dir = TempDir::new().unwrap();
    for entry in fs::read_dir(micro()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
            if let Some(at) = tensors[NORM]["data_offsets"][0].as_u64() {
                // To which 1 is added.
                assert_eq!(tensors[NORM]["dtype"], "F32");
                bytes[header + at as usize..][5 * 4..][..4].copy_from_slice(&(-1f32).to_le_bytes());
            }
        }
        fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    dir
}

#[test]
fn columns_that_are_silent_are_reported() {
    let (model, dir) = (model_with_a_silent_column(), TempDir::new().unwrap());
    let out = dir.path().join("imatrix.gguf");
    let args = ["--ctx=16", "--chunks=1", "--force"];
    let (_, stderr) = succeeds(command(model.path(), &out, &args));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    for (line, name) in lines.iter().zip(["attn_k", "attn_q", "attn_v"]) {
        assert!(line.starts_with(out.to_str().unwrap()), "{line}");
        let warning = format!("blk.0.{name}.weight: 1 of 96 columns are zero or not finite");
        assert!(line.ends_with(&warning), "{line}");
    }
    let (stdout, stderr) =
        succeeds(command(model.path(), &out, &[&args[..], &["--json"]].concat()));
    assert_eq!(stderr, "");
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let one = |name: &str| serde_json::json!({ "matrix": format!("blk.0.{name}.weight"), "repaired": 1, "columns": 96 });
    assert_eq!(found["repaired"], Value::from(["attn_k", "attn_q", "attn_v"].map(one).to_vec()));
    let entry = &Imatrix::open(&out).unwrap().entries["blk.0.attn_q.weight"];
    assert_eq!(entry.sums.iter().position(|x| *x == 0.0), Some(5));
}
