//! Sub-blocks side by side, so that every instruction computes with all of them.

use crate::quant::lanes::{Lanes, LANES};

/// A number for each weight of a block, in rows: the numbers of the first weights of all sub-blocks, one in each
/// lane, then those of the second weights, and so on. Of a single sub-block, they are in the order of the
/// weights, and all lanes read each of them.
pub(super) type Rows<const ROWS: usize> = [[f32; LANES]; ROWS];

/// The weights of a block of `SUBS` sub-blocks. Lane `i` computes with sub-block `i % SUBS`. Where there are
/// fewer sub-blocks than lanes, each has several lanes, and each of these sides makes other trials.
///
/// Blocks are sixteen sub-blocks of 16 weights (16 rows), eight of 32 (32 rows, in which each is twice), or one
/// of 32 (2 rows).
pub(in crate::quant) struct SubBlocks<const SUBS: usize, const ROWS: usize> {
    x: Rows<ROWS>,
    /// The weights' importances.
    w: Rows<ROWS>,
    /// Whether all importances are 1.
    equal: bool,
}

impl<const SUBS: usize, const ROWS: usize> SubBlocks<SUBS, ROWS> {
    /// Weights of a sub-block.
    pub(super) const LEN: usize = if SUBS == 1 { ROWS * LANES } else { ROWS };

    /// How many trials of a sub-block are made at once.
    pub(in crate::quant) const SIDES: usize = LANES / SUBS;

    /// The number of each lane's side.
    const SIDE: [f32; LANES] = {
        let (mut side, mut i) = ([0.0; LANES], 0);
        while i < LANES {
            side[i] = (i / SUBS) as f32;
            i += 1;
        }
        side
    };

    /// The values `x` and importances `w` of a block, `[SUBS * LEN]` each.
    #[inline(always)]
    pub(in crate::quant) fn new(x: &[f32], w: &[f32]) -> Self {
        let mut y = Self { x: [[0.0; LANES]; ROWS], w: [[1.0; LANES]; ROWS], equal: true };
        Self::fill(x, &mut y.x);
        y.equal = w.iter().fold(true, |equal, w| equal & (*w == 1.0));
        if !y.equal {
            Self::fill(w, &mut y.w);
        }
        y
    }

    #[inline(always)]
    fn fill(x: &[f32], rows: &mut Rows<ROWS>) {
        if SUBS == 1 {
            rows.as_flattened_mut().copy_from_slice(x);
            return;
        }
        for (j, x) in x.chunks_exact(ROWS).enumerate() {
            for (x, row) in x.iter().zip(&mut *rows) {
                for side in 0..Self::SIDES {
                    row[side * SUBS + j] = *x;
                }
            }
        }
    }

    /// The weights' values.
    #[inline(always)]
    pub(super) fn x(&self) -> &Rows<ROWS> {
        &self.x
    }

    /// The weights' importances.
    #[inline(always)]
    pub(super) fn w(&self) -> &Rows<ROWS> {
        &self.w
    }

    /// The numbers of weight `i` of every sub-block.
    #[inline(always)]
    pub(super) fn at<L: Lanes>(l: L, rows: &Rows<ROWS>, i: usize) -> L::F {
        if SUBS == 1 {
            l.splat(rows.as_flattened()[i])
        } else {
            l.load(&rows[i])
        }
    }

    /// Whether all importances are 1, so that nothing need be multiplied with them.
    #[inline(always)]
    pub(super) fn equal(&self) -> bool {
        self.equal
    }

    /// The numbers of the trials that are made in step `step` of `steps`. Those of a side follow each
    /// other, and the first side has the first.
    #[inline(always)]
    pub(in crate::quant) fn numbers<L: Lanes>(l: L, step: usize, steps: usize) -> L::F {
        let first = l.mul(l.splat(steps as f32), l.load(&Self::SIDE));
        l.add(first, l.splat(step as f32))
    }

    /// What the trials of step `step` are given, of one number for each trial in the order of
    /// [`numbers`](Self::numbers): as many as a whole number of steps makes.
    #[inline(always)]
    pub(super) fn of_step<L: Lanes>(l: L, trials: &[f32], step: usize) -> L::F {
        let steps = trials.len() / Self::SIDES;
        match Self::SIDES {
            1 => l.splat(trials[step]),
            2 => {
                let (first, second) = (l.splat(trials[step]), l.splat(trials[steps + step]));
                l.select_less(l.load(&Self::SIDE), l.splat(0.5), first, second)
            }
            _ => l.load(trials.first_chunk().expect("one trial for each lane")),
        }
    }

    /// Folds the numbers of the weights of each sub-block. First those in 16 chains, then the chains in
    /// halves: one chain through all would take the latency of as many instructions.
    #[inline(always)]
    pub(super) fn fold<L: Lanes>(
        l: L,
        x: &[L::F; ROWS],
        pair: impl Fn(L::F, L::F) -> L::F,
        pair_one: impl Fn(f32, f32) -> f32,
    ) -> L::F {
        if SUBS == 1 {
            let mut all = x[0];
            for x in &x[1..] {
                all = pair(all, *x);
            }
            return l.splat(halves(&l.to_array(all), pair_one));
        }
        let mut chains = [x[0]; 16];
        for i in 0..16 {
            chains[i] = if ROWS == 32 { pair(x[i], x[i + 16]) } else { x[i] };
        }
        halves(&chains, pair)
    }

    /// The sum of the numbers of the weights of each sub-block.
    #[inline(always)]
    pub(super) fn sum<L: Lanes>(l: L, x: &[L::F; ROWS]) -> L::F {
        Self::fold(l, x, |a, b| l.add(a, b), |a, b| a + b)
    }
}

/// Folds sixteen values, in halves.
#[inline(always)]
pub(super) fn halves<T: Copy>(x: &[T; 16], pair: impl Fn(T, T) -> T) -> T {
    let (mut eight, mut four) = ([x[0]; 8], [x[0]; 4]);
    for i in 0..8 {
        eight[i] = pair(x[i], x[i + 8]);
    }
    for i in 0..4 {
        four[i] = pair(eight[i], eight[i + 4]);
    }
    pair(pair(four[0], four[2]), pair(four[1], four[3]))
}

/// The best trial of each lane.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Best<F, const N: usize> {
    /// What has to be small.
    pub(in crate::quant) error: F,
    /// What was tried.
    pub(in crate::quant) values: [F; N],
}

impl<F: Copy, const N: usize> Best<F, N> {
    /// No trial yet. Those whose error is not below `error` do not count.
    #[inline(always)]
    pub(in crate::quant) fn below<L: Lanes<F = F>>(l: L, error: f32) -> Self {
        Self { error: l.splat(error), values: [l.splat(0.0); N] }
    }

    /// Keeps in each lane the trial with the smaller error, the earlier one if they are equal.
    #[inline(always)]
    pub(in crate::quant) fn keep<L: Lanes<F = F>>(&mut self, l: L, error: F, values: [F; N]) {
        for (best, value) in self.values.iter_mut().zip(values) {
            *best = l.select_less(error, self.error, value, *best);
        }
        self.error = l.min(error, self.error);
    }

    /// The best trial of each sub-block, in all its lanes; that of the first side if they are equal.
    #[inline(always)]
    pub(in crate::quant) fn of_sides<L: Lanes<F = F>, const SUBS: usize>(self, l: L) -> Self {
        const { assert!(SUBS == LANES || SUBS == LANES / 2 || SUBS == 1) };
        let mut best = self;
        if SUBS == 1 {
            let at = l.least(self.error);
            best.error = l.splat(l.to_array(self.error)[at]);
            for value in &mut best.values {
                *value = l.splat(l.to_array(*value)[at]);
            }
        } else if SUBS < LANES {
            let other = l.swap_halves(self.error);
            let (side, half) = (l.load(&SubBlocks::<SUBS, 32>::SIDE), l.splat(0.5));
            for value in &mut best.values {
                let swapped = l.swap_halves(*value);
                let first = l.select_less(other, self.error, swapped, *value);
                let second = l.select_less(self.error, other, *value, swapped);
                *value = l.select_less(side, half, first, second);
            }
            best.error = l.min(other, self.error);
        }
        best
    }

    /// The sum of the errors in all lanes.
    #[inline(always)]
    pub(in crate::quant) fn total<L: Lanes<F = F>>(&self, l: L) -> f32 {
        halves(&l.to_array(self.error), |a, b| a + b)
    }
}
