//! A step of [`DotK`](super::k::DotK): the products of tiles, and what makes floats of them.
#![allow(clippy::needless_range_loop, reason = "a tile's arrays are walked side by side")]

use super::planes::{Planes, Rows, LOW_BITS, PARTS};
use super::{part, part_mut, Sums, WIDTH};
use crate::kernels::activations::{Line, PlacesK};
use crate::kernels::isa::{SimdInt, Tiles, TILE};
use crate::kernels::unpack::{KBlock, Rule};

/// Where the parts of a block are in a panel.
pub const PLACES: PlacesK = PlacesK::new(WIDTH);

/// The products of some rows and columns, i32: those of the first and of the second tile of rows, each
/// with two tiles of columns.
pub type Products = [[[Line; TILE]; 2]; 2];

/// A block of one or two tiles of rows, the block of a panel that it is multiplied with, and where their
/// products go.
pub struct Step<'a, const C: usize> {
    pub rows: &'a Rows,
    /// The sixteen rows that follow, if there are any in this step.
    pub next: Option<&'a Rows>,
    /// `[registers]`
    pub x: &'a [[Line; C]],
    /// Place of the sums of `rows`, `[C]`; those of `next` are `stride` further on.
    pub sums: usize,
    pub stride: usize,
}

/// What a step has for a register of columns.
struct Column<S: SimdInt> {
    scale: S::Columns,
    /// Of two groups each, as the minimums.
    sums: [S::Columns; 8],
}

impl<const C: usize> Step<'_, C> {
    /// Adds the products of one part of the codes.
    #[inline(always)]
    pub fn multiply<T: Tiles<64>, B: KBlock>(&self, tiles: &mut T, part: usize) {
        let [first, low] = &self.rows.planes;
        let second =
            if Planes::<B>::ONE { self.next.map(|rows| &rows.planes[0]) } else { Some(low) };
        let lines: &[[u8; 64]] = bytemuck::cast_slice(self.x[part * TILE..].as_flattened());
        if part == 0 {
            tiles.zero::<0, 0>();
            tiles.zero::<0, 1>();
            tiles.zero::<1, 0>();
            tiles.zero::<1, 1>();
        }
        tiles.load_columns::<0>(lines, C);
        tiles.load_rows::<0>(bytemuck::cast_ref(&first[part]));
        tiles.dot::<0, 0>();
        if C == 2 {
            tiles.load_columns::<1>(&lines[1..], C);
            tiles.dot::<0, 1>();
        }
        if let Some(second) = second {
            tiles.load_rows::<1>(bytemuck::cast_ref(&second[part]));
            tiles.dot::<1, 0>();
            if C == 2 {
                tiles.dot::<1, 1>();
            }
        }
    }

    /// Stores the products of all parts.
    #[inline(always)]
    pub fn store<T: Tiles<64>, B: KBlock>(&self, tiles: &mut T, to: &mut Products) {
        let [[a, b], [c, d]] = to;
        tiles.store::<0, 0>(bytemuck::cast_mut(a));
        if C == 2 {
            tiles.store::<0, 1>(bytemuck::cast_mut(b));
        }
        if !Planes::<B>::ONE || self.next.is_some() {
            tiles.store::<1, 0>(bytemuck::cast_mut(c));
            if C == 2 {
                tiles.store::<1, 1>(bytemuck::cast_mut(d));
            }
        }
    }

    /// Makes floats of some rows of each tile of `products`, and adds them to `sums`.
    #[inline(always)]
    pub fn finish<S: SimdInt, B: KBlock>(
        &self,
        s: S,
        part_of: usize,
        products: &Products,
        sums: &mut [Sums],
    ) {
        for c in 0..C {
            let [first, second] = [&products[0][c], &products[1][c]];
            for h in 0..TILE / S::COLS {
                let x = self.column::<S, B>(s, c, h);
                for i in 0..TILE / PARTS {
                    let r = part_of * (TILE / PARTS) + i;
                    let [p, q] = [part::<S>(&first[r], h), part::<S>(&second[r], h)];
                    let at = self.sums + c;
                    let sum = part_mut::<S>(&mut sums[at][r], h);
                    if !Planes::<B>::ONE {
                        let p = s.shift_add::<LOW_BITS>(p, q);
                        *sum = s.add_f(*sum, product::<S, B>(s, self.rows, r, p, &x));
                        continue;
                    }
                    *sum = s.add_f(*sum, product::<S, B>(s, self.rows, r, p, &x));
                    if let Some(next) = self.next {
                        let sum = part_mut::<S>(&mut sums[at + self.stride][r], h);
                        *sum = s.add_f(*sum, product::<S, B>(s, next, r, q, &x));
                    }
                }
            }
        }
    }

    /// What the step has for part `h` of the columns of register `c`.
    #[inline(always)]
    fn column<S: SimdInt, B: KBlock>(&self, s: S, c: usize, h: usize) -> Column<S> {
        let mut sums = [s.splat_u32(0); 8];
        if B::RULE == Rule::Affine {
            let first = if B::GROUP == 32 { PLACES.pair_sums } else { PLACES.bsums };
            for i in 0..128 / B::GROUP {
                sums[i] = part::<S>(&self.x[first + i][c], h);
            }
        }
        Column { scale: part::<S>(&self.x[PLACES.d][c], h), sums }
    }
}

/// The product of a block of row `r` and columns `x`, of which `p` is the sum of integers.
#[inline(always)]
fn product<S: SimdInt, B: KBlock>(
    s: S,
    rows: &Rows,
    r: usize,
    p: S::Columns,
    x: &Column<S>,
) -> S::Columns {
    let (p, d) = (s.to_float(p), s.splat_u32(rows.d[r]));
    if B::RULE != Rule::Affine {
        return s.mul_f(s.mul_f(x.scale, d), p);
    }
    let mut m = s.splat_u32(0);
    for i in 0..128 / B::GROUP {
        m = s.pair_step(m, s.splat_u32(rows.mins[r][i]), x.sums[i]);
    }
    let m = s.mul_f(s.splat_u32(rows.dmin[r]), s.to_float(m));
    s.mul_f(x.scale, s.sub_f(s.mul_f(d, p), m))
}
