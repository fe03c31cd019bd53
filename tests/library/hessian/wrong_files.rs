//! Files that are no statistics, or damaged, or a stranger's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::bf16;
use lapidary::convert::{convert, ConvertError, Options, Plan, Recipe, SecondOrder};
use lapidary::kernels::second_order::Gram;
use lapidary::kernels::Isa;
use lapidary_formats::gguf::{Gguf, Header, Writer};
use lapidary_formats::imatrix::Imatrix;
use lapidary_formats::quant::Effort;

use super::{options, tokens, Place, N_CTX};

/// Writes `path` anew, with other metadata or tensors.
fn rewritten(
    path: &Path,
    keep: impl Fn(&str) -> bool,
    set: impl FnOnce(&mut Header),
    edit: impl Fn(&str, &mut [u8]),
) -> PathBuf {
    let gguf = Gguf::open(path).unwrap();
    let mut header = Header::new();
    gguf.metadata().filter(|(key, _)| keep(key)).for_each(|(key, value)| header.set(key, value));
    set(&mut header);
    let tensors = || gguf.tensors().filter(|t| keep(t.name));
    tensors().for_each(|t| header.add_tensor(t.name, t.ty, t.shape).unwrap());
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    for t in tensors() {
        let mut data = t.data.to_vec();
        edit(t.name, &mut data);
        writer.write(&data).unwrap();
    }
    let out = path.with_file_name("other");
    fs::write(&out, writer.finish().unwrap()).unwrap();
    out
}

/// What a conversion with the statistics in `path` says; it writes nothing.
#[track_caller]
fn refused(place: &Place, path: &Path) -> String {
    let plan = |file| {
        let second_order = SecondOrder::new(file, Effort::Default)?;
        second_order.imatrix(&place.source)?;
        let mut plan = Plan::of_recipe(&place.source, Recipe::Q4_K_M);
        plan.second_order = Some(std::sync::Arc::new(second_order));
        Ok::<_, ConvertError>(plan)
    };
    let error = match place.open(path) {
        Err(error) => error.to_string(),
        Ok(file) => {
            let out = place.path("out.gguf");
            let done = plan(file)
                .and_then(|plan| convert(&place.source, &out, &plan, Options::default(), &mut ()));
            let error = done.expect_err("statistics that cannot be used").to_string();
            let _ = fs::remove_file(place.path("out.gguf.part"));
            assert!(!out.exists());
            error
        }
    };
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn other_files_and_damaged_ones_are_refused_in_one_line() {
    let place = Place::new("micro-gemma2");
    let good = place.collect("good", &tokens(9 * N_CTX), options(N_CTX, 64), 2, Isa::best());
    let check = |path: &Path, cause: &str| {
        let error = refused(&place, path);
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains(cause), "{error}");
    };
    check(&place.path("nothing"), "");
    fs::write(place.path("text"), "not a GGUF file").unwrap();
    check(&place.path("text"), "GGUF");
    let plan = Plan::of_recipe(&place.source, Recipe::Q8_0);
    let gguf = place.path("model.gguf");
    convert(&place.source, &gguf, &plan, Options::default(), &mut ()).unwrap();
    check(&gguf, "it has no second-order statistics; `lapidary hessian` makes them");
    let imatrix = place.path("imatrix.gguf");
    Imatrix::default().write(File::create(&imatrix).unwrap()).unwrap();
    check(&imatrix, "it has no second-order statistics");
    let other = Place::new("micro-gemma3");
    let others = other.collect("other", &tokens(N_CTX), options(N_CTX, 64), 2, Isa::best());
    check(&others, "these statistics are those of another model");

    let bytes = fs::read(&good).unwrap();
    for len in [0, 20, bytes.len() / 2, bytes.len() - 100] {
        fs::write(place.path("cut"), &bytes[..len]).unwrap();
        check(&place.path("cut"), "");
    }
    let all = |_: &str| true;
    let nothing = |_: &str, _: &mut [u8]| ();
    for key in ["hessian.tokens", "hessian.columns"] {
        let damaged = rewritten(&good, |name| name != key, |_| (), nothing);
        check(&damaged, &format!("`{key}` is missing or 0"));
        let damaged = rewritten(&good, all, |header| header.set(key, 0u32), nothing);
        check(&damaged, &format!("`{key}` is missing or 0"));
    }
    for name in ["blk.0.attn_in.1", "blk.2.ffn_out.0", "output.0"] {
        let damaged = rewritten(&good, |other| other != name, |_| (), nothing);
        check(&damaged, &format!("the tensor {name} is missing or has not"));
    }
    // Parts that other limits would make are none of this file's.
    let damaged = rewritten(&good, all, |header| header.set("hessian.columns", 32u64), nothing);
    check(&damaged, "is missing or has not");
}

#[test]
fn values_that_cannot_be_right_are_refused() {
    let place = Place::new("micro-gemma2");
    let good =
        place.collect("good", &tokens(9 * N_CTX), options(N_CTX, usize::MAX), 2, Isa::best());
    let check = |name: &str, at: usize, value: &[u8]| {
        let damaged = rewritten(
            &good,
            |_| true,
            |_| (),
            |other, data| {
                if other == name {
                    data[at..at + value.len()].copy_from_slice(value);
                }
            },
        );
        let error = refused(&place, &damaged);
        let cause = format!("the tensor {name} has values that cannot be right");
        assert!(error.contains(&cause), "{error}");
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (name, at) in [("blk.1.attn_in.0", 0), ("blk.0.ffn_out.0", 4 * 777), ("output.0", 64)] {
            check(name, at, &value.to_le_bytes());
        }
    }
    // The first value is the square of the first column.
    check("blk.1.attn_out.0", 0, &(-1.0f32).to_le_bytes());
    check("blk.1.ffn_in.held_out", 2 * 50, &bf16::NAN.to_le_bytes());
}

/// Sums that no inputs give but that are finite: whatever they are, the file is whole and finite.
#[test]
fn a_strangers_sums_give_a_sound_file() {
    let place = Place::new("micro-gemma2");
    let good =
        place.collect("good", &tokens(3 * N_CTX), options(N_CTX, usize::MAX), 2, Isa::best());
    let mut state = 1u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let tables: Vec<f32> = (0..1 << 16).map(|_| next() as f32 / (1 << 23) as f32 - 1.0).collect();
    for size in [1.0, 1e-44, 3e38] {
        // The diagonal is not below zero, and all else is larger than it may be.
        let damaged = rewritten(
            &good,
            |_| true,
            |_| (),
            |_, data| {
                let n = (1..).find(|n| 16 * Gram::len(16 * n) * 4 >= data.len()).unwrap();
                let mut place = 0;
                for p in 0..n {
                    for k in 0..16 * (p + 1) {
                        for i in 0..16 {
                            let x = tables[(place * 31) % tables.len()] * size;
                            let x = if k == 16 * p + i { (x * 1e-3).abs() } else { x };
                            data[4 * place..][..4].copy_from_slice(&x.to_le_bytes());
                            place += 1;
                        }
                    }
                }
            },
        );
        let second_order = SecondOrder::new(place.open(&damaged).unwrap(), Effort::Best).unwrap();
        let mut plan = Plan::of_recipe(&place.source, Recipe::Q4_K_M);
        plan.second_order = Some(std::sync::Arc::new(second_order));
        let out = place.path("out.gguf");
        let options = Options { force: true, ..Options::default() };
        convert(&place.source, &out, &plan, options, &mut ()).unwrap();
        let verified = lapidary::verify::verify(&out, Some(2), &mut ()).unwrap();
        assert_eq!(verified.findings, [], "{size:e}");
    }
}
