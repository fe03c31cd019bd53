//! Sub-blocks, and then the scales of blocks, chosen again while all others stay as they are.

use super::grid::Grid;
use super::hessian::Row;
use super::ldlq::{add_products, gather};
use super::sub_block::SubBlock;
use super::tile::{keep_better, Tile};
use crate::quant::float::F16;
use crate::quant::lanes::Lanes;
use crate::quant::range::Integers;

/// A new choice has to be better by this factor: sums in another order differ by less.
const BETTER: f32 = 1.0 - 1e-5;

/// Chooses everything once more.
#[inline(always)]
pub fn sweep<L: Lanes, C: Integers>(l: L, tiles: &mut [Tile], codes: C) {
    let (h, len) = (tiles[0].h, tiles[0].grid.len);
    for block in 0..h.len() / len {
        for tile in &mut *tiles {
            tile.g.fill(Row::default());
        }
        gather(l, tiles, block * len, h.len(), |panel| h.h(panel));
        for tile in &mut *tiles {
            let mut of_block = Block::new(tile, block);
            for j in 0..len / tile.grid.sub {
                of_block.choose(l, tile, codes, j);
            }
            of_block.refit(l, tile);
        }
    }
}

/// A block of each row.
struct Block {
    block: usize,
    /// The first column.
    start: usize,
    /// How the residuals of the block's columns have changed since `g = H r` was computed.
    change: [Row; 256],
}

impl Block {
    fn new(tile: &Tile, block: usize) -> Self {
        Self { block, start: block * tile.grid.len, change: [Row::default(); 256] }
    }

    /// `g` of sixteen columns of the block, with the changes of its first `changed` columns.
    #[inline(always)]
    fn gradient<L: Lanes>(&self, l: L, tile: &Tile, at: usize, changed: usize) -> [Row; 16] {
        let mut g = *tile.g[at..].first_chunk().expect("sub-blocks are whole panels");
        let panel = &tile.h.h((self.start + at) / 16)[self.start..self.start + changed];
        add_products(l, &self.change[..changed], panel, &mut g);
        g
    }

    /// Chooses sub-block `j` again.
    #[inline(always)]
    fn choose<L: Lanes, C: Integers>(&mut self, l: L, tile: &mut Tile, codes: C, j: usize) {
        let Grid { sub, scales: range, .. } = *tile.grid;
        let at = j * sub;
        let columns = self.start + at..self.start + at + sub;
        let chain = tile.h.own.of(columns.start, sub);
        let mut best = [Row::default(); 32];
        for i in 0..sub / 16 {
            let g = self.gradient(l, tile, at + 16 * i, at);
            best[16 * i..16 * (i + 1)].copy_from_slice(&g);
        }
        // The values that would be best, if they could be any: those that there are plus `H⁻¹ g`.
        let old_loss = solve(l, &mut best[..sub], chain.m, chain.d);
        for (i, best) in best[..sub].iter_mut().enumerate() {
            let [x, r] = [tile.x[columns.start + i], tile.r[columns.start + i]];
            let value = l.sub(l.load(&x.0), l.load(&r.0));
            l.store(l.add(value, l.load(&best.0)), &mut best.0);
        }
        let scales = &tile.scales[self.block];
        let (d, dmin) = (l.load(&scales.d.0), l.load(&scales.dmin.0));
        let sub_block = SubBlock { x: &best[..sub], base: &best[..sub], chain, d, dmin };
        let near = [l.load(&scales.scales[j].0), l.load(&scales.mins[j].0)];
        let (_, new) = sub_block.least(l, codes, range, near);
        let (mut q, mut left, mut target) =
            ([Row::default(); 32], [Row::default(); 32], [Row::default(); 32]);
        let new_loss = sub_block.round(l, codes, new, &mut q, &mut left, &mut target);
        let losses = [l.mul(old_loss, l.splat(BETTER)), new_loss];
        let mut r = [Row::default(); 32];
        r[..sub].copy_from_slice(&tile.r[columns.clone()]);
        keep_better(l, losses, &mut tile.q[columns.clone()], &q);
        let scales = &mut tile.scales[self.block];
        for (to, new) in [&mut scales.scales[j], &mut scales.mins[j]].into_iter().zip(new) {
            let old = l.load(&to.0);
            l.store(l.select_less(losses[1], losses[0], new, old), &mut to.0);
        }
        self.residuals(l, tile, j);
        let news = tile.r[columns].iter().zip(&r);
        for (change, (new, old)) in self.change[at..].iter_mut().zip(news) {
            l.store(l.sub(l.load(&new.0), l.load(&old.0)), &mut change.0);
        }
    }

    /// Computes what is left of the weights of sub-block `j`.
    #[inline(always)]
    fn residuals<L: Lanes>(&self, l: L, tile: &mut Tile, j: usize) {
        let sub = tile.grid.sub;
        let scales = &tile.scales[self.block];
        let a = l.mul(l.load(&scales.d.0), l.load(&scales.scales[j].0));
        let b = l.mul(l.load(&scales.dmin.0), l.load(&scales.mins[j].0));
        for i in self.start + j * sub..self.start + (j + 1) * sub {
            let value = l.sub(l.mul(a, l.load(&tile.q[i].0)), b);
            l.store(l.sub(l.load(&tile.x[i].0), value), &mut tile.r[i].0);
        }
    }

    /// Fits `d` and `dmin` to the integers: with `u` what `d` is multiplied with and `v` what `dmin` is,
    /// least squares in two unknowns.
    #[inline(always)]
    fn refit<L: Lanes>(&mut self, l: L, tile: &mut Tile) {
        let Grid { len, sub, .. } = *tile.grid;
        let scales = tile.scales[self.block];
        let (mut u, mut v) = ([Row::default(); 256], [Row::default(); 256]);
        for i in 0..len {
            let scale = l.load(&scales.scales[i / sub].0);
            l.store(l.mul(scale, l.load(&tile.q[self.start + i].0)), &mut u[i].0);
            v[i] = scales.mins[i / sub];
        }
        let [mut uu, mut uv, mut vv, mut ug, mut vg] = [l.splat(0.0); 5];
        for at in (0..len).step_by(16) {
            let panel = &tile.h.h((self.start + at) / 16)[self.start..self.start + len];
            let (mut hu, mut hv) = ([Row::default(); 16], [Row::default(); 16]);
            add_products(l, &u[..len], panel, &mut hu);
            add_products(l, &v[..len], panel, &mut hv);
            let g = self.gradient(l, tile, at, len);
            for i in 0..16 {
                let (u, v, g) = (l.load(&u[at + i].0), l.load(&v[at + i].0), l.load(&g[i].0));
                let (hu, hv) = (l.load(&hu[i].0), l.load(&hv[i].0));
                uu = l.add(uu, l.mul(u, hu));
                uv = l.add(uv, l.mul(v, hu));
                vv = l.add(vv, l.mul(v, hv));
                ug = l.add(ug, l.mul(u, g));
                vg = l.add(vg, l.mul(v, g));
            }
        }
        let all = [uu, uv, vv, ug, vg].map(|x| l.to_array(x));
        let mut changed = tile.scales[self.block];
        for lane in 0..16 {
            let [uu, uv, vv, ug, vg] = all.map(|x| f64::from(x[lane]));
            let (d, dmin) = (changed.d.0[lane], changed.dmin.0[lane]);
            if let Some([d, dmin]) = fit([uu, uv, vv, ug, vg], d, dmin) {
                (changed.d.0[lane], changed.dmin.0[lane]) = (d, dmin);
            }
        }
        tile.scales[self.block] = changed;
        for j in 0..len / sub {
            self.residuals(l, tile, j);
        }
    }
}

/// The best `d` and `dmin`, if they are better than those that there are.
fn fit([uu, uv, vv, ug, vg]: [f64; 5], d: f32, dmin: f32) -> Option<[f32; 2]> {
    let determinant = uu * vv - uv * uv;
    let step = match determinant > 1e-6 * uu * vv {
        true => [(ug * vv - uv * vg) / determinant, (uv * ug - uu * vg) / determinant],
        false if uu > 0.0 => [ug / uu, 0.0],
        false => return None,
    };
    let half = |x: f64| F16::from_f32(x as f32).to_f32();
    let new = [half(f64::from(d) + step[0]), half(f64::from(dmin) + step[1])];
    let (a, b) = (f64::from(new[0]) - f64::from(d), f64::from(new[1]) - f64::from(dmin));
    let change = -2.0 * a * ug + 2.0 * b * vg + a * a * uu - 2.0 * a * b * uv + b * b * vv;
    (change < 0.0 && new[0] != 0.0 && new.iter().all(|x| x.is_finite())).then_some(new)
}

/// Replaces `g` by `H⁻¹ g`, where `H = M D Mᵀ` of a sub-block, and `m` is `M` transposed. Returns
/// `gᵀ H⁻¹ g`.
#[inline(always)]
fn solve<L: Lanes>(l: L, g: &mut [Row], m: &[f32], d: &[f32]) -> L::F {
    let sub = g.len();
    let mut total = l.splat(0.0);
    for i in (0..sub).rev() {
        let y = l.load(&g[i].0);
        for k in 0..i {
            let rest = l.sub(l.load(&g[k].0), l.mul(y, l.splat(m[i * sub + k])));
            l.store(rest, &mut g[k].0);
        }
    }
    for i in 0..sub {
        let y = l.load(&g[i].0);
        let mut z = l.div(y, l.splat(d[i]));
        total = l.add(total, l.mul(y, z));
        for (m, g) in m[i * sub..][..i].iter().zip(&*g) {
            z = l.sub(z, l.mul(l.load(&g.0), l.splat(*m)));
        }
        l.store(z, &mut g[i].0);
    }
    total
}
