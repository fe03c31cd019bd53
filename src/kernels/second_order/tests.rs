//! The factor and the sums against double precision, and equal bits everywhere.

use std::num::NonZeroUsize;

use lapidary_formats::quant::{Effort, Hessian, QuantType, Row, Search, Start};

use super::factor::factor;
use super::{panels, round_rows, squares, Damping, Gram, Lost, Rounding, RowFeedback};
use crate::kernels::{Cpu, Isa};

fn cpu(threads: usize, isa: Isa) -> Cpu {
    Cpu::new(NonZeroUsize::new(threads), isa).unwrap()
}

/// Numbers in ±1, the same for the same seed.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Inputs of three kinds: hardly correlated; all columns nearly the same; and every third column, and
/// a whole panel, never active.
fn inputs(kind: usize, rows: usize, cols: usize) -> Vec<f32> {
    let (mut x, common) = (noise(kind as u64, rows * cols), noise(77, rows));
    for (row, x) in x.chunks_exact_mut(cols).enumerate() {
        for (i, x) in x.iter_mut().enumerate() {
            match kind {
                1 => *x = (1.0 + i as f32 / cols as f32) * (common[row] + 1e-3 * *x),
                2 if i % 3 == 0 || i / 16 == 1 => *x = 0.0,
                _ => {}
            }
        }
    }
    x
}

fn gram(cpu: &Cpu, x: &[f32], cols: usize) -> Gram {
    let mut gram = Gram::new(cols);
    // In pieces that have no common length.
    for rows in x.chunks(cols * 37) {
        gram.add(cpu, &panels(rows, cols, 0..cols));
    }
    gram
}

/// Value (`k`, `i`) of what is stored by panels down to the last column's row.
fn upper(m: &[Row], k: usize, i: usize) -> f64 {
    f64::from(m[Hessian::panel(i / 16).start + k].0[i % 16])
}

#[test]
fn sums_are_those_of_double_precision() {
    let (rows, cols) = (150, 96);
    let cpu = cpu(2, Isa::best());
    for kind in 0..3 {
        let x = inputs(kind, rows, cols);
        let gram = gram(&cpu, &x, cols);
        assert_eq!((gram.columns(), gram.rows()), (cols, rows));
        for i in 0..cols {
            for k in 0..=i {
                let products = (0..rows)
                    .map(|row| f64::from(x[row * cols + k]) * f64::from(x[row * cols + i]));
                let (sum, size) =
                    products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                // Of 150 roundings of sums that are at most `size`, each 2^-24.
                let error = (f64::from(gram.at(k, i)) - sum).abs();
                assert!(error <= 1e-5 * size, "{kind}: {k} {i}: {error:e} of {size:e}");
            }
        }
        let diagonal: Vec<f32> = (0..cols).map(|i| gram.at(i, i)).collect();
        assert_eq!(gram.diagonal(), diagonal);
    }
}

#[test]
fn the_factor_multiplies_to_the_damped_matrix() {
    let cpu = cpu(2, Isa::best());
    for n in [32, 96, 512] {
        // As many rows as columns, fewer, and none.
        for (kind, rows) in [(0, n), (1, 2 * n), (2, n), (0, n / 4), (0, 0)] {
            let gram = gram(&cpu, &inputs(kind, rows, n), n);
            let h = gram.damped(&cpu, Damping::LAYER);
            let (m, d) = factor(&cpu, n, &h);
            let at = |k: usize, i: usize| f64::from(h[i / 16 * n + k].0[i % 16]);
            let mean = (0..n).map(|i| at(i, i)).sum::<f64>() / n as f64;
            assert!((0.5..4.0).contains(&mean), "{mean}");
            assert!(d.iter().all(|d| *d > 0.0));
            for i in 0..n {
                assert_eq!(upper(&m, i, i), 1.0);
                for k in 0..=i {
                    assert_eq!(at(k, i), at(i, k));
                    let below = |j: usize, c: usize| if c < j { 0.0 } else { upper(&m, j, c) };
                    let product: f64 =
                        (i..n).map(|c| below(k, c) * f64::from(d[c]) * below(i, c)).sum();
                    // M, D and the sums of 256 columns at a time are in single precision; the worst of
                    // these errors is 4e-7 of the geometric mean of the two diagonal values.
                    let error = (product - at(k, i)).abs() / (at(k, k) * at(i, i)).sqrt();
                    assert!(error < 3e-6, "{n} {kind} {rows}: {k} {i}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn without_inputs_all_columns_are_equally_important() {
    let cpu = cpu(1, Isa::best());
    let h = Gram::new(32).damped(&cpu, Damping::LAYER);
    for p in 0..2 {
        for k in 0..32 {
            let row: [f32; 16] = std::array::from_fn(|i| f32::from(u8::from(16 * p + i == k)));
            assert_eq!(h[32 * p + k].0, row);
        }
    }
}

/// The unit of `H` is a power of two, so that inputs of any size give the same codes.
#[test]
fn the_size_of_the_inputs_does_not_matter() {
    let (n, isa) = (256, Isa::best());
    let cpu = cpu(2, isa);
    let (inputs, x) = (inputs(0, 300, n), noise(5, 16 * n));
    let rounded = |size: f32| {
        let inputs: Vec<f32> = inputs.iter().map(|x| size * x).collect();
        let hessians = [gram(&cpu, &inputs, n).hessian(&cpu, Damping::LAYER)];
        bytes(isa, QuantType::Q4_K, &hessians, &x, n)
    };
    let want = rounded(1.0);
    for exponent in [-50, -20, 20, 55] {
        assert!(rounded(2f32.powi(exponent)) == want, "2^{exponent}");
    }
    // Squares that are smaller than single precision has, in full or at all: the weights are kept.
    for exponent in [-70, -75, -100] {
        let mut y = vec![0.0; x.len()];
        (QuantType::Q4_K.traits().dequantize)(&rounded(2f32.powi(exponent)), &mut y);
        let squares: f32 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
        // 0.0009 to 0.0013 of a mean square of 1/3.
        assert!(squares / (x.len() as f32) < 0.003, "2^{exponent}: {squares}");
    }
}

fn bytes(isa: Isa, ty: QuantType, hessians: &[Hessian], x: &[f32], cols: usize) -> Vec<u8> {
    let search = Search { start: Start::Columns { refits: 1 }, sweeps: 2 };
    let rounding = Rounding { ty, hessians, search, effort: Effort::Default };
    let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
    round_rows(isa, rounding, x, cols, &mut bytes);
    bytes
}

#[test]
fn threads_and_instruction_sets_give_the_same_bits() {
    let n = 256;
    let (inputs, x) = (inputs(0, 100, n), noise(6, 19 * n));
    let types: Vec<_> = QuantType::all().filter(|ty| ty.has_grid()).collect();
    let all = |cpu: &Cpu, with_bytes: bool| {
        let gram = gram(cpu, &inputs, n);
        let h = gram.damped(cpu, Damping::OUTPUT);
        let (m, d) = factor(cpu, n, &h);
        let hessians = [gram.hessian(cpu, Damping::OUTPUT)];
        let bytes: Vec<_> = match with_bytes {
            true => types.iter().map(|ty| bytes(cpu.isa(), *ty, &hessians, &x, n)).collect(),
            false => Vec::new(),
        };
        let held_out = panels(&inputs[..96 * n], n, 0..n);
        let squares = squares(cpu.isa(), &held_out[..n], &held_out[..2 * n]).to_bits();
        (gram.sums().to_vec(), h, m, d, squares, bytes)
    };
    let want = all(&cpu(1, Isa::SCALAR), true);
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            // Rows are rounded on one thread.
            let with_bytes = threads == 1;
            let found = all(&cpu(threads, isa), with_bytes);
            let name = isa.name();
            assert!(found.0 == want.0, "sums: {name}, {threads} threads");
            assert!(found.1 == want.1, "H: {name}, {threads} threads");
            assert!(found.2 == want.2, "M: {name}, {threads} threads");
            assert!(found.3 == want.3, "D: {name}, {threads} threads");
            assert!(found.4 == want.4, "squares: {name}, {threads} threads");
            for (i, bytes) in found.5.iter().enumerate() {
                assert!(*bytes == want.5[i], "{}: {name}", types[i]);
            }
        }
    }
}

/// `Σ (g · R x)²` over gradients `g` and inputs `x`, where `R` is what rounding left of `w`, `[rows, cols]`.
fn outputs_error(w: &[f32], bytes: &[u8], ty: QuantType, gradients: &[f32], x: &[f32]) -> f64 {
    let cols = 256;
    let rows = w.len() / cols;
    let mut y = vec![0.0; w.len()];
    (ty.traits().dequantize)(bytes, &mut y);
    let left: Vec<f64> = w.iter().zip(&y).map(|(w, y)| f64::from(*w) - f64::from(*y)).collect();
    let mut total = 0.0;
    for x in x.chunks_exact(cols) {
        let product = |row: &[f64]| row.iter().zip(x).map(|(r, x)| r * f64::from(*x)).sum::<f64>();
        let errors: Vec<f64> = left.chunks_exact(cols).map(product).collect();
        for g in gradients.chunks_exact(rows) {
            total += g.iter().zip(&errors).map(|(g, e)| f64::from(*g) * e).sum::<f64>().powi(2);
        }
    }
    total
}

#[test]
fn rows_make_up_for_each_others_errors() {
    let (rows, cols, ty) = (128, 256, QuantType::Q3_K);
    let (x, w) = (inputs(0, 150, cols), noise(9, rows * cols));
    // Gradients that have much in common.
    let (mut gradients, common) = (noise(10, 150 * rows), noise(11, 150));
    for (gradients, common) in gradients.chunks_exact_mut(rows).zip(common) {
        gradients.iter_mut().for_each(|g| *g = common + 0.3 * *g);
    }
    let round = |cpu: &Cpu| {
        let hessians = [gram(cpu, &x, cols).hessian(cpu, Damping::LAYER)];
        let search = Search { start: Start::Columns { refits: 1 }, sweeps: 1 };
        let rounding = Rounding { ty, hessians: &hessians, search, effort: Effort::Default };
        let mut alone = vec![0; ty.row_bytes(w.len()).unwrap()];
        round_rows(cpu.isa(), rounding, &w, cols, &mut alone);
        let mut together = alone.clone();
        // By parts, of which each has an order of its own.
        let grams = [0..64, 64..rows].map(|part| {
            let mut gram = Gram::new(part.len());
            gram.add(cpu, &panels(&gradients, rows, part));
            gram
        });
        RowFeedback::new(cpu, &grams).round(cpu, rounding, &w, cols, &mut together);
        (alone, together)
    };
    let want = round(&cpu(1, Isa::SCALAR));
    let [alone, together] =
        [&want.0, &want.1].map(|bytes| outputs_error(&w, bytes, ty, &gradients, &x));
    // 0.24; and 0.33 if rows were not rounded again.
    assert!(together < 0.28 * alone, "{together} of {alone}: {}", together / alone);
    for isa in Isa::available() {
        for threads in [1, 3] {
            assert!(round(&cpu(threads, isa)) == want, "{}, {threads} threads", isa.name());
        }
    }
}

#[test]
fn rows_make_up_for_what_their_inputs_have_lost() {
    let (rows, cols, n) = (19, 128, 400);
    // Inputs that have much in common, and those that are left of them: a part of each has gone over to
    // its neighbour, and there is noise.
    let (mut x, common) = (noise(20, n * cols), noise(21, n));
    for (x, common) in x.chunks_exact_mut(cols).zip(common) {
        x.iter_mut().for_each(|x| *x += common);
    }
    let noise_of_inputs = noise(22, n * cols);
    let left: Vec<f32> = (0..n * cols)
        .map(|at| 0.8 * x[at] + 0.1 * x[(at + 1) % (n * cols)] + 0.01 * noise_of_inputs[at])
        .collect();
    let w = noise(23, rows * cols);
    let made_up = |cpu: &Cpu| {
        let mut y = w.clone();
        // Two parts of the columns, each by itself.
        for part in [0..64, 64..cols] {
            let mut gram = Gram::new(part.len());
            gram.add(cpu, &panels(&left, cols, part.clone()));
            let mut lost = Lost::new(part.len());
            for (x, left) in x.chunks(150 * cols).zip(left.chunks(150 * cols)) {
                let difference: Vec<f32> = x.iter().zip(left).map(|(x, y)| x - y).collect();
                let [difference, left] = [&difference, left].map(|x| panels(x, cols, part.clone()));
                lost.add(cpu, &difference, &left);
            }
            let hessian = gram.hessian(cpu, Damping::LAYER);
            lost.make_up(cpu, &hessian, gram.unit(), &mut y, cols, part.start);
        }
        y
    };
    let error = |y: &[f32]| -> f64 {
        let product = |w: &[f32], x: &[f32]| -> f64 {
            w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let inputs = || x.chunks_exact(cols).zip(left.chunks_exact(cols));
        let rows = w.chunks_exact(cols).zip(y.chunks_exact(cols));
        rows.flat_map(|(w, y)| inputs().map(move |(x, left)| product(w, x) - product(y, left)))
            .map(|error| error * error)
            .sum()
    };
    let want = made_up(&cpu(1, Isa::SCALAR));
    let (before, after) = (error(&w), error(&want));
    // Half of the errors is a quarter of their squares, where nothing is damped.
    assert!(after < 0.4 * before, "{after} of {before}: {}", after / before);
    for isa in Isa::available() {
        for threads in [1, 3] {
            assert!(made_up(&cpu(threads, isa)) == want, "{}, {threads} threads", isa.name());
        }
    }
}
