//! Attention against a plain computation in double precision, and against itself.

use std::num::NonZeroUsize;

use super::*;
use crate::kernels::Isa;

fn cpu(isa: Isa) -> Cpu {
    Cpu::new(NonZeroUsize::new(2), isa).unwrap()
}

/// Uniform in ± `limit`, always the same.
fn noise(n: usize, seed: u64, limit: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| limit * next()).collect()
}

struct Case {
    shape: Attention,
    /// `[positions, n_head * head_dim]`
    q: Vec<f32>,
    /// `[positions, n_head_kv * head_dim]`
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(shape: Attention, positions: usize) -> Self {
        let (q, kv) = (shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim);
        Self {
            shape,
            q: noise(positions * q, 1, 3.0),
            k: noise(positions * kv, 2, 3.0),
            v: noise(positions * kv, 3, 1.0),
        }
    }

    fn positions(&self) -> usize {
        self.q.len() / (self.shape.n_head * self.shape.head_dim)
    }

    /// The output of all positions, evaluated `piece` at a time, with a cache of all positions.
    fn run(&self, isa: Isa, kv: KvType, piece: usize) -> Vec<f32> {
        self.run_within(self.positions(), isa, kv, piece)
    }

    /// The same, with room for `capacity` positions.
    fn run_within(&self, capacity: usize, isa: Isa, kv: KvType, piece: usize) -> Vec<f32> {
        let Attention { n_head, n_head_kv, head_dim, .. } = self.shape;
        let (cpu, new) = (cpu(isa), || KvRows::new(kv, n_head_kv, head_dim, capacity));
        let (mut keys, mut values, mut all) = (new(), new(), Vec::new());
        let mut partials = Partials::default();
        let (row, kv_row) = (n_head * head_dim, n_head_kv * head_dim);
        for pos in (0..self.positions()).step_by(piece) {
            let end = (pos + piece).min(self.positions());
            keys.push(&cpu, &self.k[pos * kv_row..end * kv_row]);
            values.push(&cpu, &self.v[pos * kv_row..end * kv_row]);
            let q = &self.q[pos * row..end * row];
            let mut out = vec![f32::NAN; q.len()];
            let range = CausalRange { pos, n: end - pos, k: &keys, v: &values };
            self.shape.run(&cpu, &[range], q, &mut partials, &mut out);
            all.extend(out);
        }
        all
    }

    /// In double precision, from the definition.
    fn exact(&self) -> Vec<f64> {
        let Attention { n_head, n_head_kv, head_dim: d, scale, softcap, window } = self.shape;
        let mut out = Vec::new();
        for (pos, q) in self.q.chunks(n_head * d).enumerate() {
            for (h, q) in q.chunks(d).enumerate() {
                let at = |j: usize| (j * n_head_kv + h / (n_head / n_head_kv)) * d;
                let first = (pos + 1).saturating_sub(window);
                let weight = |j: usize| {
                    let k = &self.k[at(j)..][..d];
                    let dot: f64 =
                        q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let score = dot * f64::from(scale);
                    softcap
                        .map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                        .exp()
                };
                let weights: Vec<f64> = (first..=pos).map(weight).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..d).map(|i| {
                    let value = |j: usize| f64::from(self.v[at(first + j)..][i]);
                    weights.iter().enumerate().map(|(j, w)| w * value(j)).sum::<f64>() / sum
                }));
            }
        }
        out
    }
}

/// Shapes with and without a window and a softcap, narrow heads, several groups of query heads.
fn cases() -> Vec<Case> {
    let shape = |heads: (usize, usize), head_dim, softcap, window| Attention {
        n_head: heads.0,
        n_head_kv: heads.1,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        softcap,
        window,
    };
    vec![
        Case::new(shape((4, 2), 64, Some(50.0), usize::MAX), 600),
        Case::new(shape((4, 2), 64, Some(50.0), 100), 600),
        Case::new(shape((2, 2), 24, Some(50.0), 7), 40),
        Case::new(shape((6, 2), 32, None, usize::MAX), 300),
        Case::new(shape((3, 1), 80, None, 257), 530),
        Case::new(shape((2, 1), 16, Some(300.0), usize::MAX), 300),
    ]
}

#[test]
fn close_to_double_precision() {
    for (i, case) in cases().iter().enumerate() {
        let (found, exact) = (case.run(Isa::best(), KvType::F32, 64), case.exact());
        for (found, exact) in found.iter().zip(&exact) {
            // Values are within ±1 and weights within 1; scores of up to 9 √d are rounded to
            // 2^-24 of that before they are exponentiated.
            assert!((f64::from(*found) - exact).abs() <= 1e-5, "case {i}: {found} for {exact}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_reference() {
    for (i, case) in cases().iter().enumerate() {
        for kv in KvType::ALL {
            let expected = case.run(Isa::SCALAR, kv, 64);
            for isa in Isa::available() {
                assert!(case.run(isa, kv, 64) == expected, "case {i}, {}, {kv:?}", isa.name());
            }
        }
    }
}

/// One position at a time and a few (spans are shared out), and many (positions are shared out).
#[test]
fn pieces_change_nothing() {
    for (i, case) in cases().iter().enumerate() {
        let whole = case.run(Isa::best(), KvType::F16, usize::MAX / 2);
        for piece in [1, 3, 17] {
            assert!(case.run(Isa::best(), KvType::F16, piece) == whole, "case {i}, {piece}");
        }
    }
}

#[test]
fn a_ring_gives_the_bits_of_a_whole_cache() {
    let mut wrapped = 0;
    for (i, case) in cases().iter().enumerate() {
        for piece in [1, 3, 17, 200] {
            let capacity = KvRows::ring_capacity(case.shape.window.min(case.positions()), piece);
            wrapped += usize::from(capacity < case.positions());
            for kv in KvType::ALL {
                let whole = case.run(Isa::best(), kv, piece);
                let ring = case.run_within(capacity, Isa::best(), kv, piece);
                assert!(ring == whole, "case {i}, pieces of {piece}, {kv:?}");
            }
        }
    }
    assert!(wrapped >= 4, "no ring was full: {wrapped}");
}

/// A block of 32 values within ±m is off by at most m / 254, and by half of the scale's last bit for
/// each of up to 127 steps (m / 4096). So a value within ±1 is off by at most 0.0042, and what the
/// errors of the keys do to the weights is less than that.
#[test]
fn eight_bits_are_near_single_precision() {
    for (i, case) in cases().iter().enumerate() {
        let (found, exact) = (case.run(Isa::best(), KvType::Q8_0, 64), case.exact());
        let square = |x: f64| x * x;
        let error: f64 =
            found.iter().zip(&exact).map(|(a, b)| square(f64::from(*a) - b)).sum::<f64>();
        let rms = (error / found.len() as f64).sqrt();
        assert!(rms <= 0.005, "case {i}: {rms}");
        // More than the error of single precision: the cache did hold eight bits.
        assert!(rms >= 1e-5, "case {i}: {rms}");
    }
}

#[test]
fn positions_that_were_cut_are_forgotten() {
    let (case, cpu) = (&cases()[0], cpu(Isa::best()));
    let Attention { n_head_kv, head_dim, .. } = case.shape;
    let row = n_head_kv * head_dim;
    let new = || KvRows::new(KvType::F32, n_head_kv, head_dim, 300);
    let (mut once, mut again) = (new(), new());
    once.push(&cpu, &case.k[..5 * row]);
    again.push(&cpu, &case.k[..3 * row]);
    again.push(&cpu, &case.v[..2 * row]);
    again.truncate(3);
    again.push(&cpu, &case.k[3 * row..5 * row]);
    assert_eq!(format!("{once:?}"), format!("{again:?}"));
}

/// What is overwritten is counted from the largest length.
#[test]
fn what_a_ring_still_has() {
    let cpu = cpu(Isa::best());
    let mut rows = KvRows::new(KvType::F16, 1, 16, 512);
    rows.push(&cpu, &vec![1.0; 512 * 16]);
    assert_eq!(rows.first(), 0);
    rows.push(&cpu, &vec![1.0; 100 * 16]);
    assert_eq!(rows.first(), 100);
    rows.truncate(500);
    assert_eq!(rows.first(), 100);
    rows.truncate(0);
    assert_eq!(rows.first(), 0);
}
