//! Second-order rounding against plain arithmetic in double precision. Tests loop over the types with
//! codes and scales, so a new one is tested as soon as it has a row.

use lapidary_formats::quant::{Effort, Hessian, Plain, QuantType, Row, Rows, Search, Start};

/// The types that can be rounded to second order.
fn types() -> impl Iterator<Item = QuantType> {
    QuantType::all().filter(|ty| ty.has_grid())
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

/// A symmetric matrix in double precision, `[n, n]`.
struct Matrix {
    n: usize,
    h: Vec<f64>,
}

impl Matrix {
    fn new(n: usize, h: impl Fn(usize, usize) -> f64) -> Self {
        // Values that single precision has, so that all see the same matrix.
        let h = (0..n * n).map(|at| f64::from(h(at / n, at % n) as f32)).collect();
        Self { n, h }
    }

    fn identity(n: usize) -> Self {
        Self::new(n, |i, j| f64::from(i == j))
    }

    /// Columns of differing energy, the more correlated the nearer they are to each other, and a
    /// little noise in each.
    fn correlated(n: usize, seed: u64) -> Self {
        let sizes = noise(seed, n);
        let size = |i: usize| 1.5 * f64::from(sizes[i]).signum() * f64::from(sizes[i]).exp();
        Self::new(n, |i, j| match i == j {
            true => 1.05 * size(i) * size(i),
            false => size(i) * size(j) * 0.95f64.powi(i.abs_diff(j) as i32),
        })
    }

    /// Only the products within `columns`.
    fn part(&self, columns: std::ops::Range<usize>) -> Self {
        let start = columns.start;
        Self::new(columns.len(), |i, j| self.h[(start + i) * self.n + start + j])
    }

    /// `M D Mᵀ`, `M` unit upper triangular.
    fn hessian(&self) -> Hessian {
        let n = self.n;
        // The upper triangle of what is left of H, in which M takes the places of the columns from the
        // last to the first.
        let (mut m, mut d) = (self.h.clone(), vec![0.0; n]);
        for j in (0..n).rev() {
            d[j] = m[j * n + j];
            let column: Vec<f64> = (0..j).map(|i| m[i * n + j] / d[j]).collect();
            for k in 0..j {
                for i in k..j {
                    m[k * n + i] -= column[k] * d[j] * column[i];
                }
                m[k * n + j] = column[k];
            }
        }
        let at = |k: usize, i: usize| match k == i {
            true => 1.0,
            false if k < i => m[k * n + i] as f32,
            false => 0.0,
        };
        let mut panels = Vec::new();
        for p in 0..n / 16 {
            panels
                .extend((0..16 * (p + 1)).map(|k| Row(std::array::from_fn(|i| at(k, 16 * p + i)))));
        }
        let h = (0..n / 16).flat_map(|p| (0..n).map(move |k| (p, k)));
        let h = h.map(|(p, k)| Row(std::array::from_fn(|i| self.h[k * n + 16 * p + i] as f32)));
        Hessian::new(n, h.collect(), panels, d.iter().map(|d| *d as f32).collect())
    }

    /// `Σ rᵀ H r` over the rows of `r`, `[rows, n]`.
    fn loss(&self, r: &[f64]) -> f64 {
        let of_row = |r: &[f64]| -> f64 {
            let rows = self.h.chunks_exact(self.n).zip(r);
            rows.map(|(h, r_i)| r_i * h.iter().zip(r).map(|(h, r)| h * r).sum::<f64>()).sum()
        };
        r.chunks_exact(self.n).map(of_row).sum()
    }
}

/// What the values of some rows, `x`, differ from those of `bytes`.
fn left(ty: QuantType, x: &[f32], bytes: &[u8]) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    (ty.traits().dequantize)(bytes, &mut y);
    x.iter().zip(y).map(|(x, y)| f64::from(*x) - f64::from(y)).collect()
}

fn rounded(ty: QuantType, hessians: &[Hessian], x: &[f32], search: Search) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
    quantize(ty, hessians, x, search, &mut bytes);
    bytes
}

fn quantize(ty: QuantType, hessians: &[Hessian], x: &[f32], search: Search, bytes: &mut [u8]) {
    let cols = hessians.iter().map(Hessian::len).sum();
    let fit = |x: &[f32], importance: &[f32], y: &mut [u8]| {
        ty.quantize_by(Plain, x, Some(importance), Effort::Default, y);
    };
    ty.quantize_rows(Plain, &Rows { hessians, x, cols, search }, &fit, bytes);
}

/// The usual way, with the diagonal of `h` as importance.
fn usual(ty: QuantType, h: &Matrix, x: &[f32]) -> Vec<u8> {
    let importance: Vec<f32> = (0..h.n).map(|i| h.h[i * h.n + i] as f32).collect();
    let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
    let row_bytes = ty.row_bytes(h.n).unwrap();
    for (x, y) in x.chunks_exact(h.n).zip(bytes.chunks_exact_mut(row_bytes)) {
        ty.quantize_by(Plain, x, Some(&importance), Effort::Default, y);
    }
    bytes
}

const BEST: Search = Search { start: Start::Columns { refits: 2 }, sweeps: 3 };

/// With equal importance of all columns and no correlation there is nothing to make up for, so that the
/// usual search has the same aim. It is not left behind.
#[test]
fn without_correlation_the_error_is_that_of_the_usual_quantizer() {
    let (h, x) = (Matrix::identity(512), noise(1, 17 * 512));
    let hessians = [h.hessian()];
    for ty in types() {
        let before = h.loss(&left(ty, &x, &usual(ty, &h, &x)));
        let after = h.loss(&left(ty, &x, &rounded(ty, &hessians, &x, BEST)));
        // 0.93 (Q8_0) to 1.0000.
        assert!(after <= 1.0005 * before, "{ty}: {}", after / before);
    }
}

#[test]
fn with_correlation_the_error_is_far_smaller_and_no_sweep_raises_it() {
    let (h, x) = (Matrix::correlated(512, 2), noise(1, 17 * 512));
    let hessians = [h.hessian()];
    for ty in types() {
        let before = h.loss(&left(ty, &x, &usual(ty, &h, &x)));
        let loss = |refits, sweeps| {
            let search = Search { start: Start::Columns { refits }, sweeps };
            h.loss(&left(ty, &x, &rounded(ty, &hessians, &x, search)))
        };
        let losses: Vec<f64> = (0..4).map(|sweeps| loss(0, sweeps)).collect();
        // Without refits and sweeps it is 0.18 (Q8_0) to 0.34 (Q4_1), with all of them 0.15 to 0.27.
        assert!(losses[0] < 0.45 * before, "{ty}: {}", losses[0] / before);
        for (n, pair) in losses.windows(2).enumerate() {
            assert!(pair[1] <= pair[0] * (1.0 + 1e-4), "{ty}, sweep {}: {pair:?}", n + 1);
        }
        assert!(loss(2, 3) < losses[3], "{ty}: refits pay");
    }
}

#[test]
fn blocks_that_are_there_are_kept_until_a_sweep_finds_better_ones() {
    let (h, x) = (Matrix::correlated(512, 12), noise(13, 17 * 512));
    let parts = [h.part(0..256), h.part(256..512)].map(|part| part.hessian());
    for ty in types() {
        let start = usual(ty, &h, &x);
        let improved = |hessians: &[Hessian], sweeps| {
            let mut bytes = start.clone();
            let search = Search { start: Start::Blocks, sweeps };
            quantize(ty, hessians, &x, search, &mut bytes);
            bytes
        };
        assert!(improved(&[h.hessian()], 0) == start, "{ty}");
        assert!(improved(&parts, 0) == start, "{ty}: parts");
        let losses: Vec<f64> =
            (0..3).map(|sweeps| h.loss(&left(ty, &x, &improved(&[h.hessian()], sweeps)))).collect();
        // 0.22 (Q8_0) to 0.5 after two.
        assert!(losses[1] < 0.7 * losses[0] && losses[2] < losses[1], "{ty}: {losses:?}");
    }
}

/// Blocks of 64 rows are what a conversion takes, and sixteen what lies side by side.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    const N: usize = 256;
    let (hessians, x) = ([Matrix::correlated(N, 3).hessian()], noise(4, 64 * N));
    let search = Search { start: Start::Columns { refits: 1 }, sweeps: 1 };
    for ty in types() {
        let row_bytes = ty.row_bytes(N).unwrap();
        let all = rounded(ty, &hessians, &x, search);
        for rows in [0..1, 15..16, 16..17, 63..64, 0..16, 0..17, 40..57] {
            let some = rounded(ty, &hessians, &x[rows.start * N..rows.end * N], search);
            let place = rows.start * row_bytes..rows.end * row_bytes;
            assert!(some == all[place], "{ty}: rows {rows:?}");
        }
    }
}

#[test]
fn parts_of_the_columns_are_rounded_each_by_itself() {
    const N: usize = 512;
    let (h, x) = (Matrix::correlated(N, 5), noise(6, 3 * N));
    let parts = [h.part(0..N / 2), h.part(N / 2..N)].map(|part| part.hessian());
    for ty in types() {
        let half_bytes = ty.row_bytes(N / 2).unwrap();
        let both = rounded(ty, &parts, &x, BEST);
        for (i, part) in parts.iter().enumerate() {
            let halves = x.chunks_exact(N / 2).skip(i).step_by(2);
            let x: Vec<f32> = halves.flatten().copied().collect();
            let alone = rounded(ty, std::slice::from_ref(part), &x, BEST);
            let of_both = both.chunks_exact(half_bytes).skip(i).step_by(2);
            assert!(alone.chunks_exact(half_bytes).eq(of_both), "{ty}: half {i}");
        }
    }
}

/// Rows and matrices at the edges: nothing to keep, one weight that matters alone, columns that were
/// never active.
#[test]
fn odd_rows_stay_finite_and_are_not_worse_than_the_usual_way() {
    const N: usize = 256;
    let mut x = vec![0.0; 8 * N];
    x[N..2 * N].fill(0.75);
    x[2 * N..3 * N].fill(-1e-3);
    x[3 * N + 77] = 1000.0;
    x[4 * N..5 * N].copy_from_slice(&noise(7, N));
    x[4 * N + 5] = -300.0;
    (x[5 * N], x[5 * N + 1]) = (1e-9, -1e-12);
    x[6 * N..7 * N].fill(f32::MIN_POSITIVE / 8.0);
    x[7 * N..].iter_mut().zip(noise(8, N)).for_each(|(x, noise)| *x = 20_000.0 * noise);
    let whole = Matrix::correlated(N, 9);
    // What damping leaves of columns without inputs.
    let is_dead = |i: usize| i.is_multiple_of(3) || i / 32 == 2;
    let dead = Matrix::new(N, |i, j| match (i == j, is_dead(i) || is_dead(j)) {
        (true, true) => 0.05,
        (false, true) => 0.0,
        _ => whole.h[i * N + j],
    });
    for (name, h) in [("whole", &whole), ("dead columns", &dead)] {
        let hessians = [h.hessian()];
        for ty in types() {
            let (old, new) = (usual(ty, h, &x), rounded(ty, &hessians, &x, BEST));
            let row_bytes = old.len() / 8;
            for (i, x) in x.chunks_exact(N).enumerate() {
                let loss =
                    |bytes: &[u8]| h.loss(&left(ty, x, &bytes[i * row_bytes..][..row_bytes]));
                let (before, after) = (loss(&old), loss(&new));
                let square: f64 = h.loss(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
                // Rows of equal weights are nearly exact either way, and then the descent may end where a
                // single step is no gain: at up to 2e-6 of the square of the outputs (IQ4_XS).
                assert!(
                    after <= 1.001 * before + 1e-5 * square,
                    "{ty}, {name}, row {i}: {after:e} {before:e} {square:e}"
                );
            }
        }
    }
}
