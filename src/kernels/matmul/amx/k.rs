//! Rows of blocks of 256 weights, which are unpacked to [`planes`](super::planes) of signed bytes.
//!
//! A [`Step`] is a block of sixteen rows, or of 32 if they take one byte, and 32 columns. It uses all eight
//! tiles: 16 products of 16 cycles, for 256 cycles, while the vector units finish the step before:
//! 7 instructions for a row and a register of columns, and 6 to 10 more with minimums, of which two
//! start in a cycle.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Zeroable;
use lapidary_formats::quant::blocks::Symmetric;
use lapidary_formats::quant::Block;

use super::planes::{unpack, Planes, Rows, PARTS, UNPACKED};
use super::step::{Products, Step, PLACES};
use super::{transpose, Operands, Scratch, Sums};
use crate::kernels::activations::{Line, PANEL};
use crate::kernels::isa::{SimdInt, TileOp, Tiles, TILE};
use crate::kernels::unpack::{KBlock, UnpackBlocks};

/// Blocks of a row that are unpacked at a time.
const DEPTH: usize = 2;

/// Where the blocks of a row are.
pub trait Source: Copy {
    type Block: KBlock;

    /// The block that `bytes` of the file hold.
    fn block(self, bytes: &[u8]) -> Self::Block;
}

/// In the file, as blocks of type `T`.
#[derive(Clone, Copy)]
pub struct Stored<T>(PhantomData<T>);

impl<T> Stored<T> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: KBlock> Source for Stored<T> {
    type Block = T;

    #[inline(always)]
    fn block(self, bytes: &[u8]) -> T {
        *bytemuck::from_bytes(bytes)
    }
}

/// In the file, as blocks of a type that is unpacked by tables.
#[derive(Clone, Copy)]
pub struct ByTable(pub UnpackBlocks);

impl Source for ByTable {
    type Block = Symmetric;

    #[inline(always)]
    fn block(self, bytes: &[u8]) -> Symmetric {
        let mut block = [Symmetric::zeroed()];
        (self.0)(bytes, &mut block);
        block[0]
    }
}

/// Some rows, and the columns that they are multiplied with.
pub struct DotK<'a, 'o, F>(pub F, pub Operands<'a, 'o>);

impl<F: Source> TileOp<64> for DotK<'_, '_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt, T: Tiles<64>>(self, s: S, tiles: &mut T) {
        let Self(source, Operands { w, panels, out, scratch }) = self;
        let blocks = w.cols / F::Block::LEN;
        let block_bytes = w.row_bytes / blocks;
        let (row_tiles, registers) = (w.rows.div_ceil(TILE), out.len().div_ceil(TILE));
        let Scratch { k, sums, .. } = scratch;
        sums.clear();
        sums.resize(row_tiles * registers, Sums::zeroed());
        // Rows that are added at the end keep whatever they had: their products are not used.
        k.resize(k.len().max(row_tiles * DEPTH), Rows::zeroed());
        let products = &mut [Products::zeroed(); 2];
        for first in (0..blocks).step_by(DEPTH) {
            let depth = DEPTH.min(blocks - first);
            let rows = &mut k[..row_tiles * depth];
            // The last row may be unpacked several times.
            let block = |row: usize, b: usize| {
                let row = &w.data[row.min(w.rows - 1) * w.row_bytes..][..w.row_bytes];
                source.block(&row[(first + b) * block_bytes..][..block_bytes])
            };
            for r in (0..w.rows).step_by(UNPACKED) {
                for (b, to) in rows[r / TILE * depth..][..depth].iter_mut().enumerate() {
                    let blocks = [block(r, b), block(r + 1, b), block(r + 2, b), block(r + 3, b)];
                    unpack(s, blocks.each_ref(), to, r % TILE);
                }
            }
            let mut chunk = Chunk { rows, depth, panels, blocks, first, sums, registers };
            let whole = registers - registers % PANEL;
            chunk.multiply::<S, T, F::Block, PANEL>(s, tiles, products, 0..whole);
            chunk.multiply::<S, T, F::Block, 1>(s, tiles, products, whole..registers);
        }
        transpose(sums, out);
    }
}

/// Some blocks of all rows, unpacked, and of all columns.
struct Chunk<'a> {
    /// `[tiles][depth]`
    rows: &'a [Rows],
    depth: usize,
    panels: &'a [Line],
    /// Blocks of a row, and the first of this chunk.
    blocks: usize,
    first: usize,
    /// `[tiles][registers]`
    sums: &'a mut [Sums],
    /// Registers of columns.
    registers: usize,
}

impl Chunk<'_> {
    /// Multiplies with the columns of `registers`, in panels of `C`. What steps compute is put into
    /// `products` by turns.
    #[inline(always)]
    fn multiply<S: SimdInt, T: Tiles<64>, B: KBlock, const C: usize>(
        &mut self,
        s: S,
        tiles: &mut T,
        products: &mut [Products; 2],
        registers: Range<usize>,
    ) {
        let Self { rows, depth, panels, blocks, first, sums, registers: stride } = self;
        let (depth, stride, together) = (*depth, *stride, Planes::<B>::TILES);
        let (mut before, mut now): (Option<Step<'_, C>>, _) = (None, 0);
        for at in registers.step_by(C) {
            let x = panels[at * *blocks * PLACES.registers..].as_chunks::<C>().0;
            let x = &x[*first * PLACES.registers..][..depth * PLACES.registers];
            for (group, rows) in rows.chunks(together * depth).enumerate() {
                for (b, x) in x.chunks_exact(PLACES.registers).enumerate() {
                    let step = Step {
                        rows: &rows[b],
                        next: rows.get(depth + b),
                        x,
                        sums: group * together * stride + at,
                        stride,
                    };
                    now = 1 - now;
                    for part in 0..PARTS {
                        step.multiply::<T, B>(tiles, part);
                        if let Some(before) = &before {
                            before.finish::<S, B>(s, part, &products[1 - now], sums);
                        }
                    }
                    step.store::<T, B>(tiles, &mut products[now]);
                    before = Some(step);
                }
            }
        }
        if let Some(before) = &before {
            for part in 0..PARTS {
                before.finish::<S, B>(s, part, &products[now], sums);
            }
        }
    }
}
