//! Rounding column after column, each to what makes up for those before.

use super::grid::Grid;
use super::sub_block::SubBlock;
use super::tile::{keep_better, Scales, Tile};
use super::{Fit, Row};
use crate::quant::lanes::Lanes;
use crate::quant::range::Integers;

/// Rounds all columns.
#[inline(always)]
pub fn round<L: Lanes, C: Integers>(
    l: L,
    tiles: &mut [Tile],
    codes: C,
    fit: Fit<'_>,
    refits: usize,
) {
    let (h, len) = (tiles[0].h, tiles[0].grid.len);
    for block in 0..h.len() / len {
        let start = block * len;
        for tile in &mut *tiles {
            tile.g.copy_from_slice(&tile.x[start..start + len]);
        }
        gather(l, tiles, start, start, |panel| &h.m(panel)[..start]);
        for tile in &mut *tiles {
            round_block(l, tile, block, codes, fit, refits);
        }
    }
}

/// Rows of the panels and of the tiles that are multiplied before the next tile: 32 kB of a panel stay in
/// the cache.
const CHUNK: usize = 512;

/// Adds to the columns of a block, from `start` on, what the residuals of the first `rows` columns give
/// when they are multiplied with the panels.
#[inline(always)]
pub fn gather<'p, L: Lanes>(
    l: L,
    tiles: &mut [Tile],
    start: usize,
    rows: usize,
    panel: impl Fn(usize) -> &'p [Row],
) {
    for (i, at) in (start..start + tiles[0].grid.len).step_by(16).enumerate() {
        let panel = panel(at / 16);
        for from in (0..rows).step_by(CHUNK) {
            let chunk = from..rows.min(from + CHUNK);
            for tile in &mut *tiles {
                let sums = tile.g[16 * i..].first_chunk_mut().expect("blocks are whole panels");
                add_products(l, &tile.r[chunk.clone()], &panel[chunk.clone()], sums);
            }
        }
    }
}

/// `sums[i] += Σ r[k] · p[k][i]`, from the first `k` to the last.
#[inline(always)]
pub fn add_products<L: Lanes>(l: L, r: &[Row], p: &[Row], sums: &mut [Row; 16]) {
    // Eight sums at a time fit the registers of all instruction sets.
    for (half, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mut of_half = [l.splat(0.0); 8];
        for (of_half, sum) in of_half.iter_mut().zip(&*sums) {
            *of_half = l.load(&sum.0);
        }
        for (r, p) in r.iter().zip(p) {
            let r = l.load(&r.0);
            for (sum, p) in of_half.iter_mut().zip(&p.0.as_chunks::<8>().0[half]) {
                *sum = l.add(*sum, l.mul(l.splat(*p), r));
            }
        }
        for (of_half, sum) in of_half.iter().zip(sums) {
            l.store(*of_half, &mut sum.0);
        }
    }
}

/// Rounds a block, of which `g` has what the feedback from the columns before makes of its weights.
#[inline(always)]
fn round_block<L: Lanes, C: Integers>(
    l: L,
    tile: &mut Tile,
    block: usize,
    codes: C,
    fit: Fit<'_>,
    refits: usize,
) {
    let len = tile.grid.len;
    let columns = block * len..(block + 1) * len;
    let mut target = [Row::default(); 256];
    target[..len].copy_from_slice(&tile.g);
    let mut best = Rounded::new();
    for _ in 0..=refits {
        let mut trial = Rounded::new();
        trial.scales = fitted(tile, &target[..len], &tile.h.d()[columns.clone()], fit);
        trial.round(l, tile, columns.start, codes, &mut target);
        best.keep_better(l, &trial, len);
    }
    tile.q[columns.clone()].copy_from_slice(&best.q[..len]);
    tile.r[columns].copy_from_slice(&best.r[..len]);
    tile.scales[block] = best.scales;
}

/// The scales that the usual quantizer chooses for each row.
#[inline(always)]
fn fitted(tile: &Tile, x: &[Row], importance: &[f32], fit: Fit<'_>) -> Scales {
    let Grid { len, block_bytes, parts, .. } = *tile.grid;
    let (mut row, mut block) = ([0.0; 256], [0; 512]);
    let mut scales = Scales::default();
    for lane in 0..tile.rows {
        for (to, x) in row.iter_mut().zip(x) {
            *to = x.0[lane];
        }
        fit(&row[..len], importance, &mut block[..block_bytes]);
        scales.set_lane(lane, &parts(&block[..block_bytes]));
    }
    scales
}

/// A block of each row.
struct Rounded {
    loss: Row,
    scales: Scales,
    q: [Row; 256],
    r: [Row; 256],
}

impl Rounded {
    fn new() -> Self {
        let zero = [Row::default(); 256];
        Self { loss: Row([f32::MAX; 16]), scales: Scales::default(), q: zero, r: zero }
    }

    /// Rounds the block that begins with column `start`, with scales near those that it has. Writes to
    /// `target` what each column should have been.
    #[inline(always)]
    fn round<L: Lanes, C: Integers>(
        &mut self,
        l: L,
        tile: &Tile,
        start: usize,
        codes: C,
        target: &mut [Row; 256],
    ) {
        let Grid { len, sub, .. } = *tile.grid;
        let mut total = l.splat(0.0);
        let (d, dmin) = (l.load(&self.scales.d.0), l.load(&self.scales.dmin.0));
        for (j, at) in (0..len).step_by(sub).enumerate() {
            let mut base = [Row::default(); 32];
            base[..sub].copy_from_slice(&tile.g[at..at + sub]);
            for (i, sums) in base.as_chunks_mut::<16>().0[..sub / 16].iter_mut().enumerate() {
                let panel = tile.h.m((start + at) / 16 + i);
                add_products(l, &self.r[..at], &panel[start..start + at], sums);
            }
            let column = start + at;
            let sub_block = SubBlock {
                x: &tile.x[column..column + sub],
                base: &base[..sub],
                chain: tile.h.feedback.of(column, sub),
                d,
                dmin,
            };
            let [scale, min] = [&self.scales.scales[j], &self.scales.mins[j]].map(|x| x.0);
            let near = [l.load(&scale), l.load(&min)];
            let (_, [scale, min]) = sub_block.least(l, codes, tile.grid.scales, near);
            let (q, r) = (&mut self.q[at..at + sub], &mut self.r[at..at + sub]);
            let loss = sub_block.round(l, codes, [scale, min], q, r, &mut target[at..at + sub]);
            l.store(scale, &mut self.scales.scales[j].0);
            l.store(min, &mut self.scales.mins[j].0);
            total = l.add(total, loss);
        }
        l.store(total, &mut self.loss.0);
    }

    /// Takes over the rows of `other` that have a smaller loss.
    #[inline(always)]
    fn keep_better<L: Lanes>(&mut self, l: L, other: &Self, len: usize) {
        let [old, new] = [l.load(&self.loss.0), l.load(&other.loss.0)];
        let (q, r) = (&mut self.q[..len], &mut self.r[..len]);
        keep_better(l, [old, new], q, &other.q);
        keep_better(l, [old, new], r, &other.r);
        self.scales.keep_better(l, [old, new], &other.scales);
        l.store(l.min(new, old), &mut self.loss.0);
    }
}
