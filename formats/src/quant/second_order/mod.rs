//! Second-order rounding: codes and scales that keep the outputs of a matrix, not its weights.
//!
//! With `H = E[x xᵀ]` of a matrix's inputs `x`, the squared error of one output is `rᵀ H r`, where `r`
//! is the row of weights minus its quantized values. It is lowered in two steps, for every row by
//! itself:
//!
//! 1. [`ldlq`]: with `H = M D Mᵀ`, `M` unit upper triangular, the error is `Σ D_i e_i²`, where `e_i` is
//!    `r_i + Σ_{k<i} M_ki r_k`. So columns are rounded one after the other, each to what makes up for
//!    those before. (LDLQ of [QuIP](https://arxiv.org/abs/2307.13304), which is the rounding of GPTQ.)
//!    The scales of a block are chosen when it is reached.
//! 2. [`descent`]: sub-blocks, and then the scales of blocks, are chosen again while all others stay as
//!    they are. The error never rises.
//!
//! Sixteen rows are computed side by side, one in each of the [`Lanes`]. Sums are added in the order
//! of the columns, so that all implementations of [`Lanes`] give the same bytes.

mod chains;
mod descent;
mod grid;
mod hessian;
mod ldlq;
mod sub_block;
mod tile;

use super::lanes::Lanes;
use super::range::Integers;
pub(super) use grid::{Codes, Grid, OnGrid, Parts};
pub use hessian::{Hessian, Row};
pub use ldlq::add_products;
use tile::Tile;

/// How long to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Where to begin.
    pub start: Start,
    /// How often all sub-blocks are chosen again.
    pub sweeps: usize,
}

/// Where a search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Columns are rounded one after the other.
    Columns {
        /// How often the scales of a block are chosen anew for the values that the feedback asks for.
        refits: usize,
    },
    /// At blocks that there are.
    Blocks,
}

/// The usual quantizer of a type: quantizes a block of values, whose importances are given too.
pub type Fit<'a> = &'a dyn Fn(&[f32], &[f32], &mut [u8]);

/// Rows to be quantized.
pub struct Rows<'a> {
    /// What the rows are multiplied with: parts of the columns, in order, which are taken to be
    /// independent of each other.
    pub hessians: &'a [Hessian],
    /// `[rows, cols]`. Some multiple of sixteen rows share the reading of the Hessian.
    pub x: &'a [f32],
    /// Number of columns.
    pub cols: usize,
    /// How long to search.
    pub search: Search,
}

impl Rows<'_> {
    /// Quantizes the rows to blocks of `grid`'s type, `[rows, bytes of a row]`. [`Start::Blocks`] begins with
    /// those in `y`.
    #[inline(always)]
    pub(super) fn quantize<L: Lanes>(&self, l: L, grid: &Grid, fit: Fit<'_>, y: &mut [u8]) {
        match grid.codes {
            Codes::Range(codes) => self.quantize_to(l, grid, codes, fit, y),
            Codes::Values(codes) => self.quantize_to(l, grid, codes, fit, y),
        }
    }

    #[inline(always)]
    fn quantize_to<L: Lanes, C: Integers>(
        &self,
        l: L,
        grid: &Grid,
        codes: C,
        fit: Fit<'_>,
        y: &mut [u8],
    ) {
        let rows = self.x.len() / self.cols;
        let row_bytes = y.len() / rows;
        let mut start = 0;
        for h in self.hessians {
            let tiles = self.x.chunks(16 * self.cols);
            let mut tiles: Vec<_> =
                tiles.map(|x| Tile::new(x, self.cols, start, h, grid)).collect();
            match self.search.start {
                Start::Columns { refits } => ldlq::round(l, &mut tiles, codes, fit, refits),
                Start::Blocks => {
                    for (tile, y) in tiles.iter_mut().zip(y.chunks(16 * row_bytes)) {
                        tile.unpack(l, codes, y, row_bytes, start);
                    }
                }
            }
            for _ in 0..self.search.sweeps {
                descent::sweep(l, &mut tiles, codes);
            }
            for (tile, y) in tiles.iter().zip(y.chunks_mut(16 * row_bytes)) {
                tile.pack(y, row_bytes, start);
            }
            start += h.len();
        }
        assert_eq!(start, self.cols, "the Hessians cover all columns");
    }
}
