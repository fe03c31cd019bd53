//! Rows × many columns: the blocks of a few rows are unpacked once and then multiplied with all
//! columns. The sums of a tile of products are in registers.
//!
//! Columns lie side by side in a register, with four codes each, and four codes of a row are
//! broadcast to all of them. See [`Layout::Panels`](crate::kernels::activations::Layout).

use bytemuck::Zeroable;

use super::kinds::{Kind, Scratch};
use super::Matrix;
use crate::kernels::activations::{Line, PANEL};
use crate::kernels::isa::{IntOp, SimdInt};

/// Values of a row that are unpacked at a time: a panel as deep stays in the first-level cache.
const DEPTH: usize = 1024;

/// Columns that are transposed together, from sums by row to output by column.
const TRANSPOSED: usize = 8;

/// Some rows of a matrix, and the columns that they are multiplied with.
pub struct Tile<'a, 'o, K: Kind> {
    kind: K,
    w: Matrix<'a>,
    panels: &'a [Line],
    /// By column, `[rows]` each.
    out: &'a mut [&'o mut [f32]],
    scratch: &'a mut Scratch,
}

impl<'a, 'o, K: Kind> Tile<'a, 'o, K> {
    pub fn new(
        kind: K,
        w: &Matrix<'a>,
        panels: &'a [Line],
        out: &'a mut [&'o mut [f32]],
        scratch: &'a mut Scratch,
    ) -> Self {
        Self { kind, w: *w, panels, out, scratch }
    }
}

impl<K: Kind> IntOp for Tile<'_, '_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) {
        // The sums of a tile, and those of the group of weights that is being added, fill the
        // registers.
        if S::WIDE {
            self.rows::<S, 6, 8, 24>(s);
        } else {
            self.rows::<S, 3, 6, 6>(s);
        }
    }
}

impl<K: Kind> Tile<'_, '_, K> {
    /// In tiles of `R2` rows and a whole panel, or of `R1` rows and a panel one register wide. `H` is
    /// a multiple of both.
    #[inline(always)]
    fn rows<S: SimdInt, const R2: usize, const R1: usize, const H: usize>(self, s: S) {
        let Self { kind, w, panels, out, scratch } = self;
        let (rows, registers) = (w.rows, out.len().div_ceil(S::COLS));
        let blocks = w.cols / K::LEN;
        let block_bytes = w.row_bytes / blocks;
        // All tiles are whole: rows may be added at the end.
        let padded = rows.next_multiple_of(H);
        let panels: &[S::Columns] = bytemuck::cast_slice(panels);
        let (unpacked, sums) = K::scratch(scratch);
        let bytes = padded * registers * size_of::<S::Columns>();
        sums.clear();
        sums.resize(bytes.div_ceil(size_of::<Line>()), Line::zeroed());
        let sums: &mut [S::Columns] = &mut bytemuck::cast_slice_mut(sums)[..padded * registers];
        let depth = DEPTH / K::LEN;
        for first in (0..blocks).step_by(depth) {
            let depth = depth.min(blocks - first);
            // The added rows keep whatever they had: their products are not used.
            unpacked.resize(unpacked.len().max(padded * depth), K::Unpacked::zeroed());
            let unpacked = &mut unpacked[..padded * depth];
            for (to, w) in unpacked.chunks_mut(depth).zip(w.data.chunks_exact(w.row_bytes)) {
                kind.unpack(s, &w[first * block_bytes..][..depth * block_bytes], to);
            }
            for at in (0..registers).step_by(PANEL) {
                let (whole, begin) = (registers - at >= PANEL, at * blocks * K::REGISTERS);
                if whole {
                    let x = panels[begin..].as_chunks::<PANEL>().0;
                    let x = &x[first * K::REGISTERS..][..depth * K::REGISTERS];
                    panel::<S, K, R2, PANEL>(s, unpacked, depth, x, sums, registers, at);
                } else {
                    let x = panels[begin..].as_chunks::<1>().0;
                    let x = &x[first * K::REGISTERS..][..depth * K::REGISTERS];
                    panel::<S, K, R1, 1>(s, unpacked, depth, x, sums, registers, at);
                }
            }
        }
        transpose(bytemuck::cast_slice(sums), registers * S::COLS, out);
    }
}

/// All rows × one panel `x`, `depth` blocks deep. Its sums begin at register `at` of each row.
#[inline(always)]
fn panel<S: SimdInt, K: Kind, const R: usize, const C: usize>(
    s: S,
    unpacked: &[K::Unpacked],
    depth: usize,
    x: &[[S::Columns; C]],
    sums: &mut [S::Columns],
    registers: usize,
    at: usize,
) {
    let tiles = unpacked.chunks_exact(R * depth).zip(sums.chunks_exact_mut(R * registers));
    for (w, sums) in tiles {
        let mut tile = [[s.splat_u32(0); C]; R];
        for r in 0..R {
            tile[r].copy_from_slice(&sums[r * registers + at..][..C]);
        }
        for (b, x) in x.chunks_exact(K::REGISTERS).enumerate() {
            let mut row = [&w[b]; R];
            for r in 0..R {
                row[r] = &w[r * depth + b];
            }
            K::multiply(s, row, x, &mut tile);
        }
        for r in 0..R {
            sums[r * registers + at..][..C].copy_from_slice(&tile[r]);
        }
    }
}

/// `out[t][r] = sums[r][t]`, with rows of `width` sums.
#[inline(always)]
fn transpose(sums: &[f32], width: usize, out: &mut [&mut [f32]]) {
    for (i, out) in out.chunks_mut(TRANSPOSED).enumerate() {
        let rows = sums.chunks_exact(width).map(|row| &row[i * TRANSPOSED..]);
        if let [a, b, c, d, e, f, g, h] = out {
            for (r, x) in rows.enumerate().take(a.len()) {
                [a[r], b[r], c[r], d[r], e[r], f[r], g[r], h[r]] =
                    [x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]];
            }
            continue;
        }
        for (r, x) in rows.enumerate().take(out[0].len()) {
            out.iter_mut().zip(x).for_each(|(out, x)| out[r] = *x);
        }
    }
}
