//! Whether fewer trials find scales as good as those of a search that tries more.

use crate::quant::affine::{self, Affine};
use crate::quant::lanes::Plain;
use crate::quant::range::Range;
use crate::quant::search::MANY_ENDS;
use crate::quant::symmetric::{self, Symmetric};
use crate::quant::{q3_k, q6_k};

/// All sixteen scales near the real one, after every fit too. `Effort::Fast` is to be no worse, in half the
/// time.
const MANY: affine::Trials = affine::Trials {
    ends: MANY_ENDS,
    d_factors: &[1.0],
    dmin_factors: &[1.0],
    scales: 16,
    refits: 1,
    refit_scales: 16,
    offset_shifts: &[],
};

/// The same for `Effort::Default`.
const MORE: affine::Trials = affine::Trials {
    d_factors: &[1.0, 16.0 / 15.0],
    dmin_factors: &[1.0, 16.0 / 15.0],
    refits: 2,
    ..MANY
};

const MANY_SYMMETRIC: symmetric::Trials = symmetric::Trials {
    real_scales: 16,
    d_factors: &[1.0],
    scales: 16,
    refits: 0,
    refit_scales: 16,
};

const MORE_SYMMETRIC: symmetric::Trials =
    symmetric::Trials { d_factors: &[1.0, 16.0 / 15.0], refits: 1, ..MANY_SYMMETRIC };

/// Weights of a kind, in blocks.
struct Data {
    name: &'static str,
    x: Vec<[f32; 256]>,
}

/// Numbers in 0..1, the same on every call.
fn uniform() -> impl FnMut() -> f64 {
    let mut state = 11u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

/// Normally distributed numbers.
fn normal() -> impl FnMut() -> f64 {
    let mut next = uniform();
    move || (-2.0 * next().ln()).sqrt() * (std::f64::consts::TAU * next()).cos()
}

/// Gaussian weights, ones with heavy tails (Student's t with four degrees of freedom), and those of the bundled
/// model.
fn data() -> [Data; 3] {
    const BLOCKS: usize = 512;
    let mut next = normal();
    let gaussian = (0..BLOCKS).map(|_| std::array::from_fn(|_| 0.03 * next() as f32)).collect();
    let mut t = || {
        let squares: f64 = (0..4).map(|_| next().powi(2)).sum();
        0.03 * (next() / (squares / 4.0).sqrt()) as f32
    };
    let heavy = (0..BLOCKS).map(|_| std::array::from_fn(|_| t())).collect();
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-gemma2/model.safetensors");
    let file = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut model = Vec::new();
    for (name, tensor) in file.tensors() {
        // One block of every few, so that all matrices have their share.
        let blocks = tensor.data().as_chunks::<512>().0.iter().step_by(7);
        if name.contains("proj") {
            model.extend(blocks.map(|block| {
                let value = |i: usize| half::bf16::from_le_bytes([block[2 * i], block[2 * i + 1]]);
                std::array::from_fn(|i| value(i).to_f32())
            }));
        }
    }
    let named = |name, x| Data { name, x };
    [named("gaussian", gaussian), named("heavy tails", heavy), named("bundled model", model)]
}

/// Compares the weighted squared errors of two ways to quantize a block.
fn assert_no_worse<B>(
    what: &str,
    fit: impl Fn(&[f32], &[f32], bool) -> B,
    dequantize: impl Fn(&B, &mut [f32]),
) {
    let mut next = normal();
    let importance: [f32; 256] = std::array::from_fn(|_| next().exp() as f32);
    for Data { name, x } in data() {
        for (w, name) in
            [([1.0; 256], name.to_owned()), (importance, format!("{name}, importance"))]
        {
            let error = |few: bool| {
                let mut y = [0.0; 256];
                let mut sum = 0.0;
                for x in &x {
                    dequantize(&fit(x, &w, few), &mut y);
                    let errors = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2));
                    sum += errors.zip(w).map(|(error, w)| f64::from(w) * error).sum::<f64>();
                }
                sum
            };
            let ratio = error(true) / error(false);
            println!("{what:12} {name:26} {ratio:.5}");
            assert!(ratio < 1.001, "{what}, {name}: {ratio}");
        }
    }
}

fn assert_affine<const SUBS: usize, const ROWS: usize>(ty: &str, ranges: (Range, Range)) {
    let pairs =
        [("fast", &affine::TRIALS.fast, &MANY), ("default", &affine::TRIALS.default, &MORE)];
    for (effort, few, many) in pairs {
        let fit = |x: &[f32], w: &[f32], fewer: bool| {
            let trials = if fewer { few } else { many };
            Affine::<SUBS>::fit::<_, ROWS>(Plain, x, w, ranges, trials)
        };
        assert_no_worse(&format!("{ty} {effort}"), fit, Affine::<SUBS>::dequantize);
    }
}

#[test]
fn with_minimums_fewer_trials_are_no_worse() {
    assert_affine::<16, 16>("Q2_K", (Range::unsigned(2), Range::unsigned(4)));
    assert_affine::<8, 32>("Q4_K", (Range::unsigned(4), Range::unsigned(6)));
    assert_affine::<8, 32>("Q5_K", (Range::unsigned(5), Range::unsigned(6)));
}

#[test]
fn without_minimums_fewer_trials_are_no_worse() {
    for fast in [true, false] {
        let many = if fast { &MANY_SYMMETRIC } else { &MORE_SYMMETRIC };
        let effort = if fast { "fast" } else { "default" };
        let of = |trials: &'static crate::quant::effort::ByEffort<symmetric::Trials>| {
            if fast {
                &trials.fast
            } else {
                &trials.default
            }
        };
        let ranges = (Range::signed(3), Range::signed(6));
        let fit = |x: &[f32], w: &[f32], fewer: bool| {
            let trials = if fewer { of(&q3_k::TRIALS) } else { many };
            Symmetric::fit::<_, _, 16, 16>(Plain, x, w, ranges, trials)
        };
        assert_no_worse(&format!("Q3_K {effort}"), fit, Symmetric::dequantize);
        let ranges = (Range::signed(6), Range::signed(8));
        let fit = |x: &[f32], w: &[f32], fewer: bool| {
            let trials = if fewer { of(&q6_k::TRIALS) } else { many };
            Symmetric::fit::<_, _, 16, 16>(Plain, x, w, ranges, trials)
        };
        assert_no_worse(&format!("Q6_K {effort}"), fit, Symmetric::dequantize);
    }
}
