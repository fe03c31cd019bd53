//! Files of the types that are read and not written: they run, are verified and are converted from.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use lapidary::convert::{convert, fit, model_header, Budget, ConvertError, Options, Plan, Recipe};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Role, Rows, Source, State, StateOptions};
use lapidary::verify::verify;
use lapidary_formats::gguf::Writer;
use lapidary_formats::quant::QuantType;
use tempfile::TempDir;

use crate::blocks::blocks;
use crate::fixtures::tiny;
use crate::nmse::nmse;

fn foreign() -> impl Iterator<Item = QuantType> {
    QuantType::all().filter(|ty| !ty.is_written())
}

fn dequantized(ty: QuantType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / ty.traits().block_bytes * ty.block_len()];
    (ty.traits().dequantize)(bytes, &mut values);
    values
}

/// Random blocks for matrices with rows of `cols` values, which are about 1/√cols in size.
fn random(ty: QuantType, count: usize, cols: usize, seed: u64) -> Vec<u8> {
    let make = |scale: f32| {
        let mut state = seed;
        let byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        blocks(ty, count, byte, |_, _| f16::from_f32(scale).to_bits())
    };
    let x = dequantized(ty, &make(1.0));
    let size = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    make(1.0 / (size * (cols as f32).sqrt()))
}

/// Writes the small model with matrices of random blocks of `ty`, and the same values in f32.
fn files(ty: QuantType, dir: &Path) -> [PathBuf; 2] {
    let source = Source::open(&tiny()).unwrap();
    let matrices: Vec<Vec<u8>> = source
        .tensors()
        .iter()
        .enumerate()
        .map(|(i, spec)| match spec.role() {
            Role::Norm => Vec::new(),
            _ => random(ty, spec.values() / ty.block_len(), spec.cols(), i as u64),
        })
        .collect();
    [ty, QuantType::F32].map(|file_ty| {
        let vocab = source.vocab().unwrap();
        let stop_ids = source.stop_ids(&vocab);
        let mut header = model_header(source.config(), 0, &vocab, None, &stop_ids);
        for spec in source.tensors() {
            let ty = if spec.role() == Role::Norm { QuantType::F32 } else { file_ty };
            header.add_tensor(&spec.name, ty, &spec.shape).unwrap();
        }
        let mut writer = Writer::new(Vec::new(), header).unwrap();
        for (spec, blocks) in source.tensors().iter().zip(&matrices) {
            let values = match spec.role() {
                Role::Norm => source.norm(spec).unwrap(),
                _ if file_ty == ty => {
                    writer.write(blocks).unwrap();
                    continue;
                }
                _ => dequantized(ty, blocks),
            };
            writer.write(bytemuck::cast_slice(&values)).unwrap();
        }
        let path = dir.join(format!("{file_ty}.gguf"));
        fs::write(&path, writer.finish().unwrap()).unwrap();
        path
    })
}

fn logits(file: &Path, isa: Isa) -> Vec<f32> {
    let ids: Vec<u32> = (2..37).collect();
    let source = Source::open(file).unwrap();
    let model = Model::on(Cpu::new(None, isa).unwrap(), &source).unwrap();
    let mut state = State::new(model.config(), StateOptions::new(ids.len() + 1, KvType::F32));
    let mut all = Vec::new();
    let mut forward = |ids: &[u32]| {
        model.forward(&mut state, ids, Rows::All, |_, row| all.extend_from_slice(row)).unwrap();
    };
    // Many columns, and one.
    forward(&ids);
    forward(&[7]);
    all
}

#[test]
fn they_run_alike_on_every_instruction_set() {
    for ty in foreign() {
        let dir = TempDir::new().unwrap();
        let [file, in_f32] = files(ty, dir.path());
        let reference = logits(&file, Isa::SCALAR);
        for isa in Isa::available() {
            assert!(logits(&file, isa) == reference, "{ty} with {}", isa.name());
        }
        // What is left is the rounding of activations to 8 bits, which is 1e-5 of a product's square
        // and grows from layer to layer.
        let error = nmse(&reference, &logits(&in_f32, Isa::best()));
        assert!(error < 1e-3, "{ty}: {error:e}");
    }
}

#[test]
fn they_are_sound_and_are_converted_from() {
    for ty in foreign() {
        let dir = TempDir::new().unwrap();
        let [file, in_f32] = files(ty, dir.path());
        let findings = verify(&file, Some(2), &mut ()).unwrap().findings;
        assert!(findings.is_empty(), "{ty}: {findings:?}");
        let convert_to = |file: &Path, recipe, name: &str| {
            let (source, out) = (Source::open(file).unwrap(), dir.path().join(name));
            let plan = Plan::of_recipe(&source, recipe);
            let report = convert(&source, &out, &plan, Options::default(), &mut ()).unwrap();
            (Source::open(&out).unwrap(), report.requantized)
        };
        for recipe in [Recipe::F32, Recipe::IQ4_XS] {
            let (found, requantized) = convert_to(&file, recipe, &format!("a {recipe}"));
            let (expected, _) = convert_to(&in_f32, recipe, &format!("b {recipe}"));
            for spec in expected.tensors() {
                assert!(found.tensor(spec).data == expected.tensor(spec).data, "{ty} {recipe}");
            }
            let matrices = expected.tensors().iter().filter(|spec| spec.role() == Role::Matrix);
            assert_eq!(requantized, matrices.count());
        }
    }
}

#[test]
fn they_are_kept_but_not_made() {
    let dir = TempDir::new().unwrap();
    let [file, in_f32] = files(QuantType::IQ3_S, dir.path());
    let out = dir.path().join("out.gguf");
    let make = |source: &Source, plan: &Plan| {
        convert(source, &out, plan, Options { force: true, ..Options::default() }, &mut ())
    };
    // With room for more, they stay as they are.
    let source = Source::open(&file).unwrap();
    let budget = Budget::BitsPerWeight(9.0);
    let plan = fit(&source, budget, None, None, Options::default(), &mut ()).unwrap().plan;
    assert_eq!(make(&source, &plan).unwrap().requantized, 0);
    let copy = Source::open(&out).unwrap();
    for spec in source.tensors() {
        assert!(copy.tensor(spec).data == source.tensor(spec).data, "{}", spec.name);
    }
    let error = make(&Source::open(&in_f32).unwrap(), &plan).unwrap_err();
    assert!(matches!(error, ConvertError::NotWritten { ty: QuantType::IQ3_S, .. }), "{error}");
    let expected = "is to become IQ3_S, which is read, but not written";
    assert!(error.to_string().contains(expected), "{error}");
}
