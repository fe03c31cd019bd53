//! The operations against plain computations in double precision, with every instruction set.

use std::num::NonZeroUsize;

use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;

use super::*;
use crate::kernels::matmul::tests::{random, Noise};
use crate::kernels::{Attention, Isa, Matrix};

/// Uniform in ±1, always the same.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    (0..n).map(|_| noise.float()).collect()
}

/// What `run` gives with one thread and the reference, after a comparison with all others, bit for bit.
fn on_all(what: &str, run: impl Fn(&Cpu) -> Vec<f32>) -> Vec<f32> {
    let on = |threads, isa| run(&Cpu::new(NonZeroUsize::new(threads), isa).unwrap());
    let expected = on(1, Isa::SCALAR);
    for isa in Isa::available() {
        for threads in [1, 3] {
            assert!(on(threads, isa) == expected, "{what}: {} on {threads}", isa.name());
        }
    }
    expected
}

/// `tolerance` is a part of the root mean square of what is expected.
fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    let square = expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64;
    let off = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    let worst = off.fold(0.0, f64::max) / square.sqrt();
    assert!(worst <= tolerance, "{what}: {worst:e}");
}

/// Rows that fill no strip of 128, gradients that fill no sixteen, and two strips of columns.
#[test]
fn transposed_products_of_every_type() {
    const ROWS: usize = 130;
    for ty in QuantType::all() {
        for (cols, n) in [(2 * 256, 19), (300_usize.next_multiple_of(ty.block_len()), 81)] {
            let bytes = random(ty, ROWS, cols, &mut Noise(1));
            let (shape, y) = ([cols, ROWS], noise(n * ROWS, 3));
            let w = Matrix::new(TensorView { name: "", ty, shape: &shape, data: &bytes });
            let what = format!("{ty}, {cols} × {n}");
            let found = on_all(&what, |cpu| {
                let mut out = vec![0.0; n * cols];
                cpu.matmul_back(&[(&w, &y), (&w, &y)], &mut out);
                out
            });
            let (mut row, mut expected) = (vec![0.0; cols], vec![0.0; n * cols]);
            for r in 0..ROWS {
                w.dequantize_row(r, &mut row);
                for (t, expected) in expected.chunks_mut(cols).enumerate() {
                    let factor = 2.0 * f64::from(y[t * ROWS + r]);
                    expected
                        .iter_mut()
                        .zip(&row)
                        .for_each(|(sum, w)| *sum += factor * f64::from(*w));
                }
            }
            // Sums of 128 products and of a few such sums, in single precision.
            assert_near(&found, &expected, 1e-5, &what);
        }
    }
}

/// The gradients of attention by its formulas.
fn attention_back(shape: &Attention, x: [&[f32]; 3], gradient: &[f32]) -> Vec<f64> {
    let Attention { n_head, n_head_kv, head_dim: dim, scale, softcap, window } = *shape;
    let (n, scale) = (gradient.len() / (n_head * dim), f64::from(scale));
    let wide = |x: &[f32], row: usize, heads: usize, head: usize| -> Vec<f64> {
        x[(row * heads + head) * dim..][..dim].iter().map(|x| f64::from(*x)).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut sums = x.map(|x| vec![0.0; x.len()]);
    let mut add = |of: usize, row: usize, head: usize, factor: f64, x: &[f64]| {
        let heads = if of == 0 { n_head } else { n_head_kv };
        let to = &mut sums[of][(row * heads + head) * dim..][..dim];
        to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
    };
    for (head, t) in (0..n_head).flat_map(|head| (0..n).map(move |t| (head, t))) {
        let head_kv = head / (n_head / n_head_kv);
        let (q, g) = (wide(x[0], t, n_head, head), wide(gradient, t, n_head, head));
        let keys: Vec<usize> = (0..=t).filter(|key| t - key < window).collect();
        let rows = |of: usize| keys.iter().map(move |key| wide(x[of], *key, n_head_kv, head_kv));
        let (k, v): (Vec<_>, Vec<_>) = (rows(1).collect(), rows(2).collect());
        let score = |raw: f64| match softcap.map(f64::from) {
            Some(cap) => (cap * (raw / cap).tanh(), 1.0 - (raw / cap).tanh().powi(2)),
            None => (raw, 1.0),
        };
        let scores: Vec<_> = k.iter().map(|k| score(scale * dot(&q, k))).collect();
        let total: f64 = scores.iter().map(|(score, _)| score.exp()).sum();
        let weights: Vec<_> = scores.iter().map(|(score, _)| score.exp() / total).collect();
        let d_weights: Vec<_> = v.iter().map(|v| dot(&g, v)).collect();
        let mean = dot(&weights, &d_weights);
        for (i, key) in keys.iter().enumerate() {
            let d_raw = weights[i] * (d_weights[i] - mean) * scores[i].1 * scale;
            add(0, t, head, d_raw, &k[i]);
            add(1, *key, head_kv, d_raw, &q);
            add(2, *key, head_kv, weights[i], &g);
        }
    }
    sums.concat()
}

#[test]
fn attention_of_every_shape() {
    let shape = |n_head, n_head_kv, head_dim, softcap, window| Attention {
        n_head,
        n_head_kv,
        head_dim,
        scale: 0.7,
        softcap,
        window,
    };
    let all = usize::MAX;
    for (n, shape) in [
        (1, shape(2, 1, 16, None, all)),
        (16, shape(3, 1, 32, Some(4.0), 16)),
        (37, shape(4, 2, 24, None, 10)),
        (50, shape(2, 2, 6, Some(2.0), 1)),
        (70, shape(4, 2, 40, None, 33)),
    ] {
        let what = format!("{n} positions, {shape:?}");
        let (q, kv) = (n * shape.n_head * shape.head_dim, n * shape.n_head_kv * shape.head_dim);
        let x = [noise(q, 1), noise(kv, 2), noise(kv, 3)];
        let (x, gradient) = (x.each_ref().map(Vec::as_slice), noise(q, 4));
        let found = on_all(&what, |cpu| shape.back(cpu, x, &gradient).concat());
        // Of a few dozen products and an exponential, in single precision.
        assert_near(&found, &attention_back(&shape, x, &gradient), 1e-5, &what);
    }
}

#[test]
fn norms_geglu_and_rope() {
    const COLS: usize = 50;
    let (x, weight, gradient) = (noise(3 * COLS, 1), noise(COLS, 2), noise(3 * COLS, 3));
    // Differences of a function in double precision, each element moved by itself.
    let differences = |x: &[f32], value: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
        let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let n = x.len();
        let mut moved = |i: usize, by: f64| {
            x[i] += by;
            let value = value(&x);
            x[i] -= by;
            value
        };
        (0..n).map(|i| (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5).collect()
    };
    let products = |y: &mut dyn Iterator<Item = f64>| -> f64 {
        y.zip(&gradient).map(|(y, g)| y * f64::from(*g)).sum()
    };

    let found = on_all("norm", |cpu| {
        let mut of_x = gradient.clone();
        cpu.rms_norm_back(&x, &weight, 0.01, &mut of_x);
        of_x
    });
    let norm = |x: &[f64]| {
        let rows = x.chunks(COLS).flat_map(|row| {
            let rms = (row.iter().map(|x| x * x).sum::<f64>() / COLS as f64 + 0.01).sqrt();
            row.iter().zip(&weight).map(move |(x, weight)| x / rms * f64::from(*weight))
        });
        products(&mut rows.into_iter())
    };
    assert_near(&found, &differences(&x, &norm), 1e-6, "norm");

    let gate: Vec<f32> = x.iter().map(|x| 4.0 * x).collect();
    let both = [&gate[..], &x].concat();
    let found = on_all("GeGLU", |cpu| {
        let (mut gate, mut up) = (gate.clone(), x.clone());
        cpu.geglu_back(&mut gate, &mut up, &gradient);
        [gate, up].concat()
    });
    let geglu = |both: &[f64]| {
        let (gate, up) = both.split_at(x.len());
        let gelu = |x: f64| 0.5 * x * (1.0 + (0.797_884_56 * (x + 0.044_715 * x * x * x)).tanh());
        products(&mut gate.iter().zip(up).map(|(gate, up)| gelu(*gate) * up))
    };
    assert_near(&found, &differences(&both, &geglu), 1e-6, "GeGLU");

    let mut rope = Rope::new(10, crate::kernels::RopeSpec::default());
    rope.prepare([5, 6, 100]);
    let found = on_all("RoPE", |cpu| {
        let (mut q, mut k) = (x.clone(), gradient.clone());
        cpu.rope(&rope, 3, &mut q, &mut k);
        cpu.rope_back(&rope, 3, &mut q, &mut k);
        [q, k].concat()
    });
    let before: Vec<f64> = [&x[..], &gradient].concat().iter().map(|x| f64::from(*x)).collect();
    assert_near(&found, &before, 1e-6, "RoPE");
}

#[test]
fn likelihood_through_the_softcap() {
    const VOCAB: usize = 37;
    const LABELS: [usize; 2] = [3, 36];
    let raw: Vec<f32> = noise(2 * VOCAB, 1).iter().map(|x| 8.0 * x).collect();
    for cap in [None, Some(5.0f32)] {
        let squash = |x: f64| cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh());
        let found = on_all("likelihood", |cpu| {
            let mut logits: Vec<f32> = raw.iter().map(|x| squash(f64::from(*x)) as f32).collect();
            cpu.log_likelihood_back(&mut logits, VOCAB, cap, |row, _| LABELS[row]);
            logits
        });
        let rows = raw.chunks(VOCAB).zip(LABELS).flat_map(|(row, label)| {
            let capped: Vec<f64> = row.iter().map(|x| squash(f64::from(*x))).collect();
            let total: f64 = capped.iter().map(|x| x.exp()).sum();
            let slope = |x: f64| cap.map_or(1.0, |cap| 1.0 - (x / f64::from(cap)).powi(2));
            let of = move |(i, x): (usize, f64)| {
                (f64::from(u8::from(i == label)) - x.exp() / total) * slope(x)
            };
            capped.into_iter().enumerate().map(of)
        });
        assert_near(&found, &rows.collect::<Vec<_>>(), 1e-5, "likelihood");
    }
}
