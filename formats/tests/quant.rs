//! Compares the block types with independent programs and with plain arithmetic. Tests loop over the
//! registry, so a new type is tested as soon as it has a row.

use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use lapidary_formats::gguf::Gguf;
use lapidary_formats::imatrix::Imatrix;
use lapidary_formats::quant::{blocks::BlockQ8K, Effort, Plain, QuantType};
use proptest::prelude::*;

use crate::blocks::blocks;

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = tests_dir().join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn bf16s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
}

fn quantize(ty: QuantType, x: &[f32]) -> Vec<u8> {
    let mut y = vec![0; ty.row_bytes(x.len()).expect("whole blocks")];
    (ty.traits().quantize.expect("a type that is written"))(x, &mut y);
    y
}

fn dequantize(ty: QuantType, x: &[u8]) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / ty.traits().block_bytes * ty.block_len()];
    (ty.traits().dequantize)(x, &mut y);
    y
}

/// Types that are written, and not only read.
fn written() -> impl Iterator<Item = QuantType> {
    QuantType::all().filter(|ty| ty.is_written())
}

/// Those of blocks, which have scales, unlike F32, F16 and BF16.
fn scaled() -> impl Iterator<Item = QuantType> {
    written().filter(|ty| ty.block_len() > 1)
}

/// Uniform noise in ±1, the same on every call.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn registry_knows_its_types() {
    for ty in QuantType::all() {
        assert_eq!(QuantType::from_ggml(ty as u32), Some(ty));
        assert_eq!(QuantType::from_name(&ty.name().to_lowercase()), Some(ty));
        assert_eq!(ty.row_bytes(0), Some(0));
        assert_eq!(ty.row_bytes(ty.block_len()), Some(ty.traits().block_bytes));
        let activation = ty.traits().activation;
        assert_eq!(activation.traits().activation, activation, "activations meet their own type");
    }
    assert_eq!(QuantType::Q4_K.row_bytes(255), None);
    assert_eq!(QuantType::F32.row_bytes(usize::MAX), None);
    assert_eq!(QuantType::from_ggml(9999), None);
}

/// Random blocks, bit for bit as Python's `gguf` dequantizes them.
#[test]
fn dequantize_is_bit_equal_to_gguf() {
    for ty in QuantType::all().filter(|ty| ty.traits().stored && *ty != QuantType::F32) {
        let blocks = read(format!("goldens/quant/{ty}.blocks"));
        let want = f32s(&read(format!("goldens/quant/{ty}.f32")));
        let got = dequantize(ty, &blocks);
        assert_eq!(got.len(), want.len(), "{ty}");
        let differs = (0..got.len()).find(|i| got[*i].to_bits() != want[*i].to_bits());
        assert_eq!(differs.map(|i| (i, got[i], want[i])), None, "{ty}: (place, got, want)");
    }
}

/// Weights that llama.cpp's quantizers were measured on, and the importance of their columns.
struct Measured {
    name: &'static str,
    x: Vec<f32>,
    /// `[cols]`
    importance: Vec<f32>,
}

/// All data sets, including the embedding of Gemma 3 270M if `LAPIDARY_GEMMA3` names its file.
fn measured() -> Vec<Measured> {
    let checkpoint = read("fixtures/tiny-gemma2/model.safetensors");
    let checkpoint = safetensors::SafeTensors::deserialize(&checkpoint).unwrap();
    let trained = |name: &str| bf16s(checkpoint.tensor(name).unwrap().data());
    let imatrix = Imatrix::open(tests_dir().join("goldens/quant/tiny_imatrix.gguf")).unwrap();
    let known = |name: &str| {
        let entry = &imatrix.entries[&format!("{name}.weight")];
        imatrix.importance(&format!("{name}.weight"), entry.sums.len()).unwrap().weights
    };
    let energies = f32s(&read("goldens/quant/energies.f32"));
    let set = |name, x, importance: &[f32]| Measured { name, x, importance: importance.to_vec() };
    let mut all = vec![
        set("gaussian", bf16s(&read("goldens/quant/gaussian.bf16")), &energies),
        set("laplace", bf16s(&read("goldens/quant/laplace.bf16")), &energies),
    ];
    for (name, hf_name) in [
        ("blk.1.attn_q", "model.layers.1.self_attn.q_proj.weight"),
        ("blk.1.ffn_gate", "model.layers.1.mlp.gate_proj.weight"),
        ("blk.1.ffn_down", "model.layers.1.mlp.down_proj.weight"),
        ("token_embd", "model.embed_tokens.weight"),
    ] {
        all.push(set(name, trained(hf_name), &known(name)));
    }
    if let Some(file) = std::env::var_os("LAPIDARY_GEMMA3") {
        let gguf = Gguf::open(Path::new(&file)).unwrap();
        let embedding = gguf.tensor("token_embd.weight").unwrap();
        let row_bytes = embedding.data.len() / embedding.rows();
        let rows = (1usize << 20).div_ceil(embedding.cols());
        let mut x = vec![0.0; rows * embedding.cols()];
        (embedding.ty.traits().dequantize)(&embedding.data[..rows * row_bytes], &mut x);
        x.truncate(1 << 20);
        all.push(set("gemma3_270m.token_embd", x, &energies));
    }
    all
}

fn rms(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len() as f64;
    (x.map(|x| x * x).sum::<f64>() / n).sqrt()
}

impl Measured {
    /// The root of the mean squared error. If `weighted`, the quantizer is given the importance and
    /// the error is weighted by it.
    fn error(&self, ty: QuantType, weighted: bool, effort: Effort) -> f64 {
        let Self { x, importance, .. } = self;
        let cols = importance.len();
        let mean = importance.iter().map(|w| f64::from(*w)).sum::<f64>() / cols as f64;
        let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
        let row_bytes = ty.row_bytes(cols).unwrap();
        for (x, bytes) in x.chunks(cols).zip(bytes.chunks_mut(row_bytes)) {
            ty.quantize_by(Plain, x, weighted.then_some(importance), effort, bytes);
        }
        let y = dequantize(ty, &bytes);
        let error = |i: usize| {
            let w = if weighted { f64::from(importance[i % cols]) / mean } else { 1.0 };
            w.sqrt() * (f64::from(x[i]) - f64::from(y[i]))
        };
        rms((0..x.len()).map(error))
    }
}

/// The largest squared error that is accepted, relative to that of llama.cpp's quantizer.
///
/// Coarse types, where errors matter most, have to be 5 % better. Two miss that where llama.cpp is
/// given the importance. Q3_K comes to 0.98 of llama.cpp's error on the tiny model, even with
/// [`Effort::Best`] (seven scales of scales, all integers nearby, three refits), so there is nothing
/// left to find. Q4_K comes to 0.95, also with [`Effort::Best`]. Q5_1 finds its scale and offset from
/// a grid and is a thousandth above llama.cpp. Q8_0 has the same bytes as llama.cpp's, and differs
/// only by the rounding of the sums in the two programs.
fn limit(ty: QuantType, weighted: bool, effort: Effort) -> f64 {
    use QuantType::{IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_1, Q8_0};
    match (ty, weighted, effort) {
        (Q4_K, true, Effort::Default) => 0.97,
        (Q3_K, true, _) => 0.995,
        (Q2_K | Q3_K | Q4_K | IQ4_NL | IQ4_XS, ..) => 0.95,
        (Q5_1, true, _) => 1.002,
        (Q8_0, ..) => 1.0001,
        _ => 1.0,
    }
}

/// For every type and data set, with and without importance. `--nocapture` prints the ratios of the
/// squared errors.
#[test]
fn quantize_errs_less_than_llama_cpp() {
    let table: serde_json::Value =
        serde_json::from_slice(&read("goldens/quant/llama_cpp_rmse.json")).unwrap();
    let mut failures = Vec::new();
    for data in measured() {
        let (name, mark) = (data.name, &table["data"][data.name]);
        let mark_rms = mark["rms"].as_f64().unwrap_or_else(|| panic!("{name}: not in the table"));
        let found_rms = rms(data.x.iter().map(|x| f64::from(*x)));
        assert!(
            (found_rms / mark_rms - 1.0).abs() < 1e-6,
            "{name} has changed: run tests/scripts/oracles/llama_quantizer_error.py"
        );
        for (key, weighted) in [("rmse", false), ("weighted_rmse", true)] {
            for (ty, theirs) in mark[key].as_object().unwrap() {
                let ty = QuantType::from_name(ty).unwrap();
                // Data that was Q8_0 before is restored exactly, without an error on either side.
                let theirs = theirs.as_f64().unwrap().max(1e-12);
                // The long search only for types that gain by it, and not for too many weights.
                let best = (matches!(ty, QuantType::Q3_K | QuantType::Q4_K)
                    && data.x.len() < 1 << 20)
                    .then_some(Effort::Best);
                for effort in [Some(Effort::Default), best].into_iter().flatten() {
                    let ratio = (data.error(ty, weighted, effort) / theirs).powi(2);
                    println!("{name:22} {key:13} {ty:5} {effort:?} {ratio:.4}");
                    if ratio > limit(ty, weighted, effort) {
                        failures.push(format!("{name} {key} {ty} {effort:?}: {ratio:.4}"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "of llama.cpp's squared error: {failures:#?}");
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The same bytes on every machine and from every compiler. If the search is changed on purpose,
/// compare the errors first, then copy the new digests from the failure.
#[test]
fn quantized_bytes_are_the_same_everywhere() {
    #[rustfmt::skip]
    let pinned = [
        0xeb91d51ae7d50a4e, 0xf0071d29627418ea, 0x7051e5fc6c0b7c56, 0xb20ea079d12b1da9,
        0x0947e8d2d8cf7b99, 0x1db4ae04d611d3d1, 0x32cb630ded990cd8, 0xfc478c51d387d3ec,
        0x5326526710e40b0c, 0xdad04288d57ea7ef, 0xd5af8842d1a062be, 0x22e951971dc71cc7,
        0xefeef98995db218e, 0xd5caa5c2f7e509bb, 0x8a2ab801a3cd1da1, 0x1475f13877dd6be1,
    ];
    let x = &bf16s(&read("goldens/quant/gaussian.bf16"))[..4096];
    let digests: Vec<_> = written().map(|ty| digest(&quantize(ty, x))).collect();
    assert_eq!(digests, pinned, "in the registry's order: {digests:#018x?}");
}

/// A row of blocks whose bytes are all `fill`, except the scales, which are 1 / 256.
fn filled(ty: QuantType, cols: usize, fill: u8) -> Vec<u8> {
    blocks(ty, cols / ty.block_len(), || fill, |_, _| 0x1c00)
}

/// Compares a dot product with that of the dequantized rows in f64.
fn assert_dot(ty: QuantType, w: &[u8], a: &[f32], what: &str) {
    let activation = ty.traits().activation;
    let a = quantize(activation, a);
    let got = f64::from((ty.traits().dot)(w, &a));
    let (w, a) = (dequantize(ty, w), dequantize(activation, &a));
    let exact: f64 = w.iter().zip(&a).map(|(w, a)| f64::from(*w) * f64::from(*a)).sum();
    // Sums within a block are exact, because they are sums of integers. Rounded are a few products
    // per block, and one addition per block of at least 32 values (or per 32 floats), whose terms are
    // at most `bound`. A dequantized weight has been rounded three times. The factor 16 covers both.
    let chunk = activation.block_len().max(32);
    let largest = |x: &[f32]| x.iter().fold(0f64, |max, x| max.max(f64::from(x.abs())));
    let chunks = w.chunks(chunk).zip(a.chunks(chunk));
    let bound: f64 = chunks.map(|(w, a)| w.len() as f64 * largest(w) * largest(a)).sum();
    let roundings = (w.len() / chunk + 16) as f64;
    let tolerance = roundings * f64::from(f32::EPSILON) / 2.0 * bound;
    assert!((got - exact).abs() <= tolerance, "{ty}, {what}: {got} for {exact} ± {tolerance:.2e}");
}

#[test]
fn dot_agrees_with_dequantized_values() {
    const COLS: usize = 4096;
    let activations = [
        ("noise", noise(COLS)),
        ("all 127", vec![1.0; COLS]),
        ("all -127", vec![-1.0; COLS]),
        ("±127", (0..COLS).map(|i| 1.0 - (i % 2 * 2) as f32).collect()),
        ("zero", vec![0.0; COLS]),
    ];
    for ty in QuantType::all() {
        for (name, a) in &activations {
            if ty.is_written() {
                let x: Vec<f32> = noise(2 * COLS)[COLS..].to_vec();
                assert_dot(ty, &quantize(ty, &x), a, &format!("noise · {name}"));
            }
            // Codes, scales and minimums at their limits, with both signs.
            for fill in [0x00, 0xff, 0x0f, 0xf0, 0x7f, 0x80, 0x55, 0xaa] {
                let what = format!("{fill:#04x} · {name}");
                assert_dot(ty, &filled(ty, COLS, fill), a, &what);
            }
        }
    }
}

#[test]
fn dot_of_a_golden_row() {
    for ty in QuantType::all().filter(|ty| ty.traits().stored && ty.block_len() > 1) {
        for block in read(format!("goldens/quant/{ty}.blocks")).chunks(8 * ty.traits().block_bytes)
        {
            let n = block.len() / ty.traits().block_bytes * ty.block_len();
            if dequantize(ty, block).iter().all(|x| x.is_finite()) {
                assert_dot(ty, block, &noise(n), "golden");
            }
        }
    }
}

/// A row whose length is not a multiple of the number of partial sums.
#[test]
fn dot_of_floats_counts_the_tail() {
    for ty in QuantType::all().filter(|ty| ty.block_len() == 1) {
        for n in [0, 1, 31, 32, 33, 67] {
            assert_dot(ty, &quantize(ty, &noise(n)), &noise(n), &format!("{n} values"));
        }
    }
}

/// Values that a type can hold exactly give the same bytes again.
#[test]
fn requantizing_changes_nothing() {
    use QuantType::*;
    for ty in [F32, F16, BF16, Q8_0, Q8_K] {
        let once = quantize(ty, &noise(4096));
        assert_eq!(quantize(ty, &dequantize(ty, &once)), once, "{ty}");
    }
}

#[test]
fn q8_0_rounds_half_away_from_zero() {
    let mut x = [0.0; 32];
    x[..7].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, -1.5, 2.499, -2.499]);
    let block = quantize(QuantType::Q8_0, &x);
    let codes: &[i8] = cast_slice(&block[2..]);
    assert_eq!(codes[..8], [127, 1, -1, 2, -2, 2, -2, 0]);
}

#[test]
fn q8_k_stays_within_127_and_sums() {
    for x in [noise(256), vec![-1e30; 256], vec![3e-38; 256], vec![f32::NEG_INFINITY; 256]] {
        let block: BlockQ8K = *bytemuck::from_bytes(&quantize(QuantType::Q8_K, &x));
        assert!(block.qs.iter().all(|q| *q >= -127));
        for (i, qs) in block.qs.chunks(16).enumerate() {
            assert_eq!(block.bsum(i), qs.iter().map(|q| i32::from(*q)).sum::<i32>());
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for ty in written() {
        assert!(dequantize(ty, &quantize(ty, &[0.0; 256])).iter().all(|y| *y == 0.0), "{ty}");
    }
}

/// A block of equal values keeps its value, except for the rounding of `d` or `m` to f16 (2^-11) and
/// the small error of the two integer scales.
#[test]
fn constant_blocks_keep_their_value() {
    for ty in scaled() {
        for x in [1.0f32, -1.0, 0.037, -0.037, 300.0, -300.0] {
            for y in dequantize(ty, &quantize(ty, &[x; 256])) {
                assert!((y - x).abs() <= x.abs() / 1024.0, "{ty}: {y} for {x}");
            }
        }
    }
}

/// All values negative, or with a mean far from zero: the case that minimums are for.
#[test]
fn one_sided_blocks_are_no_worse_than_their_steps() {
    for ty in scaled() {
        for (low, high) in [(-2.0, -1.0), (1.0, 2.0), (-0.01, 0.1)] {
            let x: Vec<f32> =
                noise(256).iter().map(|x| low + (high - low) * (x + 1.0) / 2.0).collect();
            let y = dequantize(ty, &quantize(ty, &x));
            let error = rms(x.iter().zip(&y).map(|(x, y)| f64::from(x - y)));
            // Two bits over 0..2 have steps of 2 / 3, and uniform errors an rms of step / √12.
            assert!(error <= 2.0 / 3.0 / 12f64.sqrt() * 1.2, "{ty} {low}..{high}: {error}");
        }
    }
}

/// Far below and above the range of f16 scales: the nearest value is 0 or the limit, never NaN.
#[test]
fn extremes_stay_finite() {
    let magnitudes = [1e-45, 1e-38, 1e-30, 3e-8, 1e-7, 1e-6, 1e5, 1e9, 1e30, f32::MAX];
    for ty in scaled() {
        for magnitude in magnitudes {
            let x: Vec<f32> = noise(256).iter().map(|x| x * magnitude).collect();
            for (x, y) in x.iter().zip(dequantize(ty, &quantize(ty, &x))) {
                assert!(y.is_finite(), "{ty}: {y} for {x}");
                assert!(y.abs() <= 1.5 * magnitude.max(1e-6), "{ty}: {y} for {x}");
            }
        }
    }
}

#[test]
fn large_values_become_the_largest_f16() {
    for x in [65504.0, 65519.0, 65520.0, 1e9, f32::MAX, f32::INFINITY] {
        assert_eq!(
            dequantize(QuantType::F16, &quantize(QuantType::F16, &[x, -x])),
            [65504.0, -65504.0]
        );
    }
}

#[test]
fn nan_becomes_zero_in_a_block() {
    for ty in scaled() {
        let mut x = noise(256);
        x.iter_mut().step_by(7).for_each(|x| *x = f32::NAN);
        let zeroed: Vec<f32> = x.iter().map(|x| if x.is_nan() { 0.0 } else { *x }).collect();
        assert_eq!(quantize(ty, &x), quantize(ty, &zeroed), "{ty}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Arbitrary bits as f32 never panic, and types with a scale give finite values only.
    #[test]
    fn any_floats_give_finite_blocks(bits in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        for ty in written() {
            let y = dequantize(ty, &quantize(ty, &x));
            prop_assert!(ty.block_len() == 1 || y.iter().all(|y| y.is_finite()), "{}", ty);
        }
    }

    /// Finite values in f16's range stay finite in every type, and near their value.
    #[test]
    fn values_in_f16_range_stay_near(
        x in prop::collection::vec(-1f32..1.0, 256),
        exponent in -24i32..16,
    ) {
        let x: Vec<f32> = x.iter().map(|x| x * 2f32.powi(exponent)).collect();
        let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        for ty in written() {
            for (x, y) in x.iter().zip(dequantize(ty, &quantize(ty, &x))) {
                // The worst case is two bits, where outer values are clipped. Below the normal f16
                // values the error is half their spacing per step of the largest code, Q8_0's 127.
                let tolerance = 0.6 * largest + 127.0 * 2f32.powi(-25);
                prop_assert!((x - y).abs() <= tolerance, "{}: {} for {} of {}", ty, y, x, largest);
            }
        }
    }
}
