//! Sixteen rows that are being rounded, one in each lane.

use std::slice;

use super::grid::{Grid, Parts};
use super::hessian::{Hessian, Row};
use super::sub_block::step;
use crate::quant::lanes::Lanes;
use crate::quant::range::Integers;

/// Rows × the columns of one Hessian.
pub struct Tile<'a> {
    pub h: &'a Hessian,
    pub grid: &'a Grid,
    /// The weights, by column.
    pub x: Vec<Row>,
    /// What is left of them after rounding, by column.
    pub r: Vec<Row>,
    /// The codes, by column.
    pub q: Vec<Row>,
    /// By block.
    pub scales: Vec<Scales>,
    /// What is computed for the columns of one block.
    pub g: Vec<Row>,
    /// How many lanes have a row.
    pub rows: usize,
}

/// The scales of a block of each row.
#[derive(Clone, Copy, Default)]
pub struct Scales {
    pub d: Row,
    pub dmin: Row,
    /// By sub-block.
    pub scales: [Row; 16],
    pub mins: [Row; 16],
}

impl<'a> Tile<'a> {
    /// The columns of `h`, from `start` on, of up to sixteen rows `x`, `[rows, cols]`. Lanes without a
    /// row are 0.
    pub fn new(x: &[f32], cols: usize, start: usize, h: &'a Hessian, grid: &'a Grid) -> Self {
        let mut by_column = vec![Row::default(); h.len()];
        for (lane, row) in x.chunks_exact(cols).enumerate() {
            for (to, x) in by_column.iter_mut().zip(&row[start..]) {
                to.0[lane] = *x;
            }
        }
        Self {
            h,
            grid,
            r: by_column.clone(),
            q: vec![Row::default(); h.len()],
            scales: vec![Scales::default(); h.len() / grid.len],
            g: vec![Row::default(); grid.len],
            rows: x.len() / cols,
            x: by_column,
        }
    }

    /// Takes over the blocks at their places in `y`, `[rows, row_bytes]`, where those of this tile begin with
    /// column `start`.
    #[inline(always)]
    pub fn unpack<L: Lanes, C: Integers>(
        &mut self,
        l: L,
        codes: C,
        y: &[u8],
        row_bytes: usize,
        start: usize,
    ) {
        let Grid { len, sub, block_bytes, parts, values, .. } = *self.grid;
        for (lane, y) in y.chunks_exact(row_bytes).enumerate() {
            let y = y[start / len * block_bytes..].chunks_exact(block_bytes);
            let mut of_block = [0.0; 256];
            for ((scales, q), y) in self.scales.iter_mut().zip(self.q.chunks_exact_mut(len)).zip(y)
            {
                scales.set_lane(lane, &parts(y));
                values(y, &mut of_block[..len]);
                for (q, value) in q.iter_mut().zip(of_block) {
                    q.0[lane] = value;
                }
            }
        }
        // From values to codes, and to what is left.
        for (i, (q, r)) in self.q.iter_mut().zip(&mut self.r).enumerate() {
            let (scales, j) = (&self.scales[i / len], i % len / sub);
            let (_, inverse) = step(l, l.load(&scales.d.0), l.load(&scales.scales[j].0));
            let b = l.mul(l.load(&scales.dmin.0), l.load(&scales.mins[j].0));
            let value = l.load(&q.0);
            l.store(codes.nearest_lanes(l, l.mul(l.add(value, b), inverse)), &mut q.0);
            l.store(l.sub(l.load(&r.0), value), &mut r.0);
        }
    }

    /// Writes the blocks to their places in `y`, `[rows, row_bytes]`, where those of this tile begin with
    /// column `start`.
    pub fn pack(&self, y: &mut [u8], row_bytes: usize, start: usize) {
        let Grid { len, block_bytes, pack, .. } = *self.grid;
        for (lane, y) in y.chunks_exact_mut(row_bytes).enumerate() {
            let y = y[start / len * block_bytes..].chunks_exact_mut(block_bytes);
            let mut q = [0; 256];
            for ((scales, codes), y) in self.scales.iter().zip(self.q.chunks_exact(len)).zip(y) {
                for (q, codes) in q.iter_mut().zip(codes) {
                    *q = codes.0[lane] as i8;
                }
                pack(&scales.lane(lane), &q[..len], y);
            }
        }
    }
}

impl Scales {
    /// Takes over those of the lanes whose second loss is smaller than the first.
    #[inline(always)]
    pub fn keep_better<L: Lanes>(&mut self, l: L, losses: [L::F; 2], other: &Self) {
        keep_better(l, losses, slice::from_mut(&mut self.d), slice::from_ref(&other.d));
        keep_better(l, losses, slice::from_mut(&mut self.dmin), slice::from_ref(&other.dmin));
        keep_better(l, losses, &mut self.scales, &other.scales);
        keep_better(l, losses, &mut self.mins, &other.mins);
    }

    /// Those of one row.
    pub fn lane(&self, lane: usize) -> Parts {
        Parts {
            d: self.d.0[lane],
            dmin: self.dmin.0[lane],
            scales: self.scales.map(|row| row.0[lane]),
            mins: self.mins.map(|row| row.0[lane]),
        }
    }

    /// Replaces those of one row.
    pub fn set_lane(&mut self, lane: usize, parts: &Parts) {
        self.d.0[lane] = parts.d;
        self.dmin.0[lane] = parts.dmin;
        for j in 0..16 {
            self.scales[j].0[lane] = parts.scales[j];
            self.mins[j].0[lane] = parts.mins[j];
        }
    }
}

/// Takes over the lanes whose second loss is smaller than the first.
#[inline(always)]
pub fn keep_better<L: Lanes>(l: L, [old, new]: [L::F; 2], rows: &mut [Row], others: &[Row]) {
    for (row, other) in rows.iter_mut().zip(others) {
        let (x, y) = (l.load(&row.0), l.load(&other.0));
        l.store(l.select_less(new, old, y, x), &mut row.0);
    }
}
