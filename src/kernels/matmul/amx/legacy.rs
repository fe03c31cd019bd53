//! Blocks of 32 weights: a product of tiles for each block. The f32 sums of sixteen rows and a register
//! of columns are in registers.
//!
//! For a row and a register of columns, a block takes a cycle of the tiles and two of the vector units,
//! or four for types with `m`.
#![allow(clippy::needless_range_loop, reason = "a tile's arrays are walked side by side")]

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::planes::UNPACKED;
use super::{part, part_mut, transpose, Operands, Scratch, Sums, WIDTH};
use crate::kernels::activations::{Line, Places32, PANEL};
use crate::kernels::isa::{SimdInt, TileOp, Tiles, TILE};
use crate::kernels::unpack::{Block32, Codes};

/// Blocks of a row that are unpacked at a time.
const DEPTH: usize = 16;

/// Blocks whose products of tiles begin before the first of them is finished.
const AHEAD: usize = 2;

/// The most registers that a line may take.
const PARTS: usize = 4;

/// The products of the last blocks, i32, by turns.
type Products = [[Line; TILE]; 2 * AHEAD];

/// Where the parts of a block are in a panel.
const PLACES: Places32 = Places32::new(WIDTH);

/// A block of sixteen rows.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Rows {
    /// Signed bytes.
    codes: [[u8; 32]; TILE],
    /// Bits of f32.
    d: [u32; TILE],
    /// Bits of f32.
    m: [u32; TILE],
}

/// Some rows, and the columns that they are multiplied with.
pub struct Dot32<'a, 'o, B>(Operands<'a, 'o>, PhantomData<B>);

impl<'a, 'o, B> Dot32<'a, 'o, B> {
    pub fn new(operands: Operands<'a, 'o>) -> Self {
        Self(operands, PhantomData)
    }
}

impl<B: Block32> TileOp<32> for Dot32<'_, '_, B> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt, T: Tiles<32>>(self, s: S, tiles: &mut T) {
        let Operands { w, panels, out, scratch } = self.0;
        let blocks = w.cols / B::LEN;
        let (row_tiles, registers) = (w.rows.div_ceil(TILE), out.len().div_ceil(TILE));
        let Scratch { legacy, sums, .. } = scratch;
        sums.clear();
        sums.resize(row_tiles * registers, Sums::zeroed());
        // Rows that are added at the end keep whatever they had: their products are not used.
        legacy.resize(legacy.len().max(row_tiles * DEPTH), Rows::zeroed());
        let (w, last): (&[B], _) = (bytemuck::cast_slice(w.data), w.rows - 1);
        let mut products = Products::zeroed();
        for first in (0..blocks).step_by(DEPTH) {
            let depth = DEPTH.min(blocks - first);
            let rows = &mut legacy[..row_tiles * depth];
            // The last row may be unpacked several times.
            let block = |row: usize, b: usize| &w[row.min(last) * blocks + first + b];
            for r in (0..=last).step_by(UNPACKED) {
                for (b, to) in rows[r / TILE * depth..][..depth].iter_mut().enumerate() {
                    let w = [block(r, b), block(r + 1, b), block(r + 2, b), block(r + 3, b)];
                    unpack(s, w, to, r % TILE);
                }
            }
            let whole = registers - registers % PANEL;
            for register in 0..registers {
                let panel = register - register % PANEL;
                let (c, x) = (register - panel, &panels[panel * blocks * PLACES.registers..]);
                let sums = sums[register..].iter_mut().step_by(registers);
                for (rows, sums) in rows.chunks_exact(depth).zip(sums) {
                    if register < whole {
                        let x = &x.as_chunks::<PANEL>().0[first * PLACES.registers..];
                        multiply::<S, T, B, PANEL>(s, tiles, rows, x, c, sums, &mut products);
                    } else {
                        let x = &x.as_chunks::<1>().0[first * PLACES.registers..];
                        multiply::<S, T, B, 1>(s, tiles, rows, x, c, sums, &mut products);
                    }
                }
            }
        }
        transpose(sums, out);
    }
}

/// The rows from `r` on of `to`, from the blocks `w` of four rows.
#[inline(always)]
fn unpack<S: SimdInt, B: Block32>(s: S, w: [&B; UNPACKED], to: &mut Rows, r: usize) {
    let (scales, ms) = (B::d(s, w), B::m(s, w));
    for i in 0..UNPACKED {
        (to.d[r + i], to.m[r + i]) = (scales[i].to_bits(), ms[i].to_bits());
    }
    let to: &mut [_; UNPACKED] = to.codes[r..].first_chunk_mut().expect("four rows");
    let [a, b, c, d] = to.each_mut();
    for (w, to) in [([w[0], w[1]], [a, b]), ([w[2], w[3]], [c, d])] {
        let mut codes = B::codes(s, w[0], w[1]);
        if let Codes::Offset(offset @ 1..) = B::CODES {
            codes = s.sub_bytes(codes, s.splat_byte(offset));
        }
        let [first, second] = to;
        s.store_halves(codes, first, second);
    }
}

/// The products of the blocks `rows` of sixteen rows and of column `c` of the blocks `x` of a panel,
/// `[block][registers][C]`, added to `sums`.
#[inline(always)]
fn multiply<S: SimdInt, T: Tiles<32>, B: Block32, const C: usize>(
    s: S,
    tiles: &mut T,
    rows: &[Rows],
    x: &[[Line; C]],
    c: usize,
    sums: &mut Sums,
    products: &mut Products,
) {
    const { assert!(TILE <= PARTS * S::COLS) };
    let parts = TILE / S::COLS;
    let mut total = [[s.splat_u32(0); PARTS]; TILE];
    for r in 0..TILE {
        for h in 0..parts {
            total[r][h] = part::<S>(&sums[r], h);
        }
    }
    for b in 0..rows.len() + AHEAD {
        if let Some(rows) = rows.get(b) {
            let lines = bytemuck::cast_slice(x[b * PLACES.registers..].as_flattened());
            let to = bytemuck::cast_mut(&mut products[b % (2 * AHEAD)]);
            // By turns, so that a product need not wait for the last one to be stored.
            match b % 2 {
                0 => product::<T, 0>(tiles, &rows.codes, &lines[c..], C, to),
                _ => product::<T, 1>(tiles, &rows.codes, &lines[c..], C, to),
            }
        }
        let Some(b) = b.checked_sub(AHEAD) else { continue };
        let (rows, products) = (&rows[b], &products[b % (2 * AHEAD)]);
        let x = &x[b * PLACES.registers..][..PLACES.registers];
        for h in 0..parts {
            let scale = part::<S>(&x[PLACES.d][c], h);
            let sum = s.mul_f(scale, s.to_float(part::<S>(&x[PLACES.sum][c], h)));
            for r in 0..TILE {
                let p = s.to_float(part::<S>(&products[r], h));
                let mut product = s.mul_f(s.splat_u32(rows.d[r]), s.mul_f(scale, p));
                if B::HAS_M {
                    product = s.add_f(product, s.mul_f(s.splat_u32(rows.m[r]), sum));
                }
                total[r][h] = s.add_f(total[r][h], product);
            }
        }
    }
    for r in 0..TILE {
        for h in 0..parts {
            *part_mut::<S>(&mut sums[r], h) = total[r][h];
        }
    }
}

/// The products of a block, with tiles `P`.
#[inline(always)]
fn product<T: Tiles<32>, const P: usize>(
    tiles: &mut T,
    rows: &[[u8; 32]; TILE],
    lines: &[[u8; 64]],
    stride: usize,
    to: &mut [[i32; TILE]; TILE],
) {
    tiles.load_rows::<P>(rows);
    tiles.load_columns::<P>(lines, stride);
    tiles.zero::<P, P>();
    tiles.dot::<P, P>();
    tiles.store::<P, P>(to);
}
