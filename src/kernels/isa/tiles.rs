//! Tiles: registers that hold small matrices, and their product as one instruction.

use super::SimdInt;

/// Rows of a tile, and columns of the sums.
pub const TILE: usize = 16;

/// Eight tiles: two of rows of a matrix, two of columns, and the sums of each pair of them. `K` is the
/// number of signed bytes in a row and in a column, a multiple of four and at most 64.
///
/// `A` is 0 or 1 and names a tile of rows. `B` is 0 or 1 and names a tile of columns. The first `dot` of
/// two tiles comes after both are loaded and their sums are set to zero.
pub trait Tiles<const K: usize> {
    /// Loads sixteen rows.
    fn load_rows<const A: usize>(&mut self, rows: &[[u8; K]; TILE]);
    /// Loads sixteen columns. Each of `K / 4` lines, which begin `stride` lines apart, has four bytes of
    /// every column.
    ///
    /// # Panics
    /// If there are fewer lines.
    fn load_columns<const B: usize>(&mut self, lines: &[[u8; 64]], stride: usize);
    /// Sets the sums of `A` and `B` to zero.
    fn zero<const A: usize, const B: usize>(&mut self);
    /// Adds the product of every row of `A` and every column of `B` to their sums, i32, wrapping.
    fn dot<const A: usize, const B: usize>(&mut self);
    /// Stores the sums of `A` and `B`, `[row][column]`.
    fn store<const A: usize, const B: usize>(&mut self, to: &mut [[i32; TILE]; TILE]);
}

/// A computation with tiles.
pub trait TileOp<const K: usize> {
    /// The result.
    type Out;
    /// Computes it. Implementations, and all that they call, are `#[inline(always)]`.
    fn run<S: SimdInt, T: Tiles<K>>(self, s: S, tiles: &mut T) -> Self::Out;
}

/// Tiles in memory, to test on any machine what is computed with them.
#[cfg(test)]
pub struct Emulated<const K: usize> {
    rows: [[[u8; K]; TILE]; 2],
    /// `[B][line]`, of which K / 4 are used.
    columns: [[[u8; 64]; TILE]; 2],
    sums: [[[[i32; TILE]; TILE]; 2]; 2],
}

#[cfg(test)]
impl<const K: usize> Default for Emulated<K> {
    /// Tiles with contents that no computation should see.
    fn default() -> Self {
        Self {
            rows: [[[0x5a; K]; TILE]; 2],
            columns: [[[0x5a; 64]; TILE]; 2],
            sums: [[[[-1; TILE]; TILE]; 2]; 2],
        }
    }
}

#[cfg(test)]
impl<const K: usize> Tiles<K> for Emulated<K> {
    fn load_rows<const A: usize>(&mut self, rows: &[[u8; K]; TILE]) {
        self.rows[A] = *rows;
    }

    fn load_columns<const B: usize>(&mut self, lines: &[[u8; 64]], stride: usize) {
        for i in 0..K / 4 {
            self.columns[B][i] = lines[i * stride];
        }
    }

    fn zero<const A: usize, const B: usize>(&mut self) {
        self.sums[A][B] = [[0; TILE]; TILE];
    }

    fn dot<const A: usize, const B: usize>(&mut self) {
        for (row, sums) in self.rows[A].iter().zip(&mut self.sums[A][B]) {
            for (column, sum) in sums.iter_mut().enumerate() {
                for (k, w) in row.iter().enumerate() {
                    let x = self.columns[B][k / 4][4 * column + k % 4];
                    *sum = sum.wrapping_add(i32::from(*w as i8) * i32::from(x as i8));
                }
            }
        }
    }

    fn store<const A: usize, const B: usize>(&mut self, to: &mut [[i32; TILE]; TILE]) {
        *to = self.sums[A][B];
    }
}
