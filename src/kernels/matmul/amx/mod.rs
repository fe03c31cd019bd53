//! Rows × many columns with tiles: the blocks of a few rows are unpacked once to signed bytes, whose
//! products with all columns are single instructions. What is left for the vector registers are the
//! scales, one float operation after the other as in the reference.
//!
//! A tile of columns is sixteen registers of codes of a panel whose registers have four bytes of each
//! of sixteen columns. See [`Layout::Panels`](crate::kernels::activations::Layout).

mod k;
mod legacy;
mod planes;
mod step;

use super::Matrix;
use crate::kernels::activations::Line;
use crate::kernels::isa::{Isa, SimdInt, TileOp, TILE};
use crate::kernels::unpack::{unpack_blocks, Block32, ByBlock, Float, KBlock, Unpack};
use k::{ByTable, DotK, Stored};
use legacy::Dot32;

/// Bytes that a column has of a register of a panel: sixteen columns are side by side.
pub const WIDTH: usize = 4;

/// From so many columns on, it is worth unpacking rows to tiles. Measured for sixteen: 0.6 to 1.0 of
/// AVX-512's time, which is the same for nine.
const FROM: usize = 9;

/// Whether `isa` has tiles, and it is worth using them for `n` columns.
pub fn takes(isa: Isa, n: usize) -> bool {
    isa.has_tiles() && n >= FROM
}

/// Memory that a thread reuses for all its items of a product.
#[derive(Default)]
pub struct Scratch {
    k: Vec<planes::Rows>,
    legacy: Vec<legacy::Rows>,
    /// f32, `[tiles of rows, registers of columns]`
    sums: Vec<Sums>,
}

/// Sums of a tile of rows and a register of columns, by row.
type Sums = [Line; TILE];

/// Something that computes with tiles.
pub trait RunTiles {
    /// Runs `op`.
    fn run<const K: usize>(self, op: impl TileOp<K, Out = ()>);
}

impl RunTiles for Isa {
    fn run<const K: usize>(self, op: impl TileOp<K, Out = ()>) {
        self.run_tiles(op).unwrap_or_else(|_| unreachable!("the instruction set has tiles"));
    }
}

/// Some rows of a matrix, and the columns that they are multiplied with.
pub struct Operands<'a, 'o> {
    /// The rows.
    pub w: &'a Matrix<'a>,
    /// The columns, as these kernels take them.
    pub panels: &'a [Line],
    /// By column, `[rows]` each.
    pub out: &'a mut [&'o mut [f32]],
    /// Overwritten.
    pub scratch: &'a mut Scratch,
}

/// `out[t][r] = w[r] · x[t]`, for the types whose blocks have codes.
pub struct Multiply<'a, 'o, R>(pub R, pub Operands<'a, 'o>);

impl<R: RunTiles> ByBlock for Multiply<'_, '_, R> {
    type Out = ();

    fn float<T: Float>(self) {
        unreachable!("floats are not laid out in panels");
    }

    fn k<T: KBlock>(self) {
        self.0.run(DotK(Stored::<T>::new(), self.1));
    }

    fn block_32<T: Block32>(self) {
        self.0.run(Dot32::<T>::new(self.1));
    }

    fn by_table<T: Unpack>(self) {
        self.0.run(DotK(ByTable(unpack_blocks::<T>), self.1));
    }

    fn other(self) {
        unreachable!("types that are not unpacked go to the reference");
    }
}

/// Part `h` of a line of sixteen values, which are `TILE / S::COLS` registers.
#[inline(always)]
fn part<S: SimdInt>(line: &Line, h: usize) -> S::Columns {
    let parts: &[S::Columns] = bytemuck::cast_slice(std::slice::from_ref(line));
    parts[h]
}

/// The place of part `h` of `line`; see [`part`].
#[inline(always)]
fn part_mut<S: SimdInt>(line: &mut Line, h: usize) -> &mut S::Columns {
    let parts: &mut [S::Columns] = bytemuck::cast_slice_mut(std::slice::from_mut(line));
    &mut parts[h]
}

/// `out[t][r] = sums[r][t]`, in tiles.
#[inline(always)]
fn transpose(sums: &[Sums], out: &mut [&mut [f32]]) {
    let registers = out.len().div_ceil(TILE);
    for (tile, sums) in sums.chunks_exact(registers).enumerate() {
        for (sums, out) in sums.iter().zip(out.chunks_mut(TILE)) {
            for (out, sums) in out.iter_mut().zip(&transposed(bytemuck::cast_ref(sums))) {
                let out = &mut out[tile * TILE..];
                let rows = out.len().min(TILE);
                out[..rows].copy_from_slice(&sums[..rows]);
            }
        }
    }
}

/// Rows as columns: four times, the two halves of the rows are laid one between the other, value by
/// value.
#[inline(always)]
fn transposed(rows: &[[f32; TILE]; TILE]) -> [[f32; TILE]; TILE] {
    let mut from = *rows;
    for _ in 0..TILE.ilog2() {
        let mut to = [[0.0; TILE]; TILE];
        for i in 0..TILE / 2 {
            for k in 0..TILE / 2 {
                to[2 * i][2 * k] = from[i][k];
                to[2 * i][2 * k + 1] = from[i + TILE / 2][k];
                to[2 * i + 1][2 * k] = from[i][k + TILE / 2];
                to[2 * i + 1][2 * k + 1] = from[i + TILE / 2][k + TILE / 2];
            }
        }
        from = to;
    }
    from
}

#[cfg(test)]
mod tests;
