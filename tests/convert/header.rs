//! The checksum of the header: damaged metadata are found.

use std::fs;
use std::path::Path;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::kernels::KvType;
use lapidary::model::{Model, Source, State, StateOptions};
use lapidary::verify::{verify, Problem};
use lapidary_formats::gguf::Gguf;
use tempfile::TempDir;

use crate::fixtures::micro;

const FLIPS: usize = 1000;

fn convert_micro(out: &Path) -> Vec<u8> {
    let source = Source::open(&micro()).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::Q4_K_M);
    convert(&source, out, &plan, Options::default(), &mut ()).unwrap();
    fs::read(out).unwrap()
}

fn header_len(path: &Path) -> usize {
    let gguf = Gguf::open(path).unwrap();
    let starts = gguf.tensors().map(|tensor| gguf.place(tensor.data).unwrap().1.start);
    starts.min().unwrap()
}

fn logits(path: &Path) -> Vec<f32> {
    let source = Source::open(path).unwrap();
    let model = Model::load(&source, Some(1)).unwrap();
    let mut state = State::new(model.config(), StateOptions::new(4, KvType::F32));
    model.forward_last(&mut state, &[2, 5, 9, 17]).unwrap().to_vec()
}

/// One bit of the header changes, in a thousand places that are spread over all of it. Either `verify`
/// says so, or the change does no harm: the logits are the same.
#[test]
fn every_bit_of_the_header_counts() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("micro.gguf");
    let bytes = convert_micro(&path);
    assert_eq!(verify(&path, Some(1), &mut ()).unwrap().findings, []);
    let (bits, expected) = (header_len(&path) * 8, logits(&path));
    let mut found = 0;
    for flip in 0..FLIPS {
        // A prime, so that all eight bits of bytes have their turn.
        let bit = (flip * (bits / FLIPS) + flip * 7919) % bits;
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, damaged).unwrap();
        match verify(&path, Some(1), &mut ()) {
            Ok(verified) if verified.findings.is_empty() => {
                assert_eq!(logits(&path), expected, "bit {bit}");
            }
            _ => found += 1,
        }
    }
    // All but the padding before the first tensor.
    assert!(found >= FLIPS * 99 / 100, "{found}");
}

#[test]
fn damage_of_the_metadata_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("micro.gguf");
    let mut bytes = convert_micro(&path);
    let key = b"gemma2.attention.scale";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at + 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    let findings = verify(&path, Some(1), &mut ()).unwrap().findings;
    assert!(matches!(findings[0].problem, Problem::Header), "{findings:?}");
    let message = findings[0].to_string();
    assert!(
        message
            .contains("micro.gguf: its metadata or the descriptions of its tensors have changed"),
        "{message}"
    );
}
