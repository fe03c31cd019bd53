//! Rows × several columns: the blocks of a few rows are unpacked once and then multiplied with all
//! columns. The sums of a tile of products are in registers.
//!
//! Columns lie side by side in a register, with four, eight or sixteen codes each, and as many codes of
//! a row are broadcast to all of them. See [`Layout::Panels`](crate::kernels::activations::Layout).

use bytemuck::Zeroable;

use super::kinds::{Kind, Scratch};
use super::{prefetch, Matrix};
use crate::kernels::activations::{Line, PANEL};
use crate::kernels::isa::{IntOp, SimdInt};

/// Values of a row that are unpacked at a time: a panel as deep stays in the first-level cache. And where
/// memory is the limit, unpacking and multiplying alternate at short intervals.
const DEPTH: usize = 1024;

/// Columns that are transposed together, from sums by row to output by column.
const TRANSPOSED: usize = 8;

/// Some rows of a matrix, and the columns that they are multiplied with.
pub struct Tile<'a, 'o, K: Kind> {
    kind: K,
    w: Matrix<'a>,
    panels: &'a [Line],
    /// Columns of a register.
    columns: usize,
    /// By column, `[rows]` each.
    out: &'a mut [&'o mut [f32]],
    scratch: &'a mut Scratch,
}

impl<'a, 'o, K: Kind> Tile<'a, 'o, K> {
    pub fn new(
        kind: K,
        w: &Matrix<'a>,
        panels: &'a [Line],
        columns: usize,
        out: &'a mut [&'o mut [f32]],
        scratch: &'a mut Scratch,
    ) -> Self {
        Self { kind, w: *w, panels, columns, out, scratch }
    }
}

impl<K: Kind> IntOp for Tile<'_, '_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) {
        // The sums of a tile, and those of the group of weights that is being added, fill the
        // registers.
        match (4 * S::COLS / self.columns, S::WIDE) {
            (4, true) if self.out.len() > S::COLS => self.many::<S, 6, 8, 24>(s),
            (4, false) if self.out.len() > S::COLS => self.many::<S, 3, 6, 6>(s),
            (4, true) => self.in_groups::<S, 8, 4>(s),
            (4, false) => self.in_groups::<S, 4, 4>(s),
            (8, true) => self.in_groups::<S, 8, 8>(s),
            (8, false) => self.in_groups::<S, 4, 8>(s),
            _ => self.in_order::<S, 16>(s),
        }
    }
}

impl<K: Kind> Tile<'_, '_, K> {
    /// For columns that fit one register, of which each has `WIDTH` bytes: row by row. The blocks are read
    /// in the order of the file, as memory delivers them fastest. Those that are unpacked together may
    /// belong to several rows.
    #[inline(always)]
    fn in_order<S: SimdInt, const WIDTH: usize>(self, s: S) {
        let Self { kind, w, panels, out, scratch, .. } = self;
        let (blocks, registers) = (w.cols / K::LEN, K::registers(WIDTH));
        let (block_bytes, depth) = (w.row_bytes / blocks, DEPTH / K::LEN);
        let panels: &[[S::Columns; 1]] = bytemuck::cast_slice(panels);
        let (unpacked, _) = K::scratch(scratch);
        unpacked.resize(unpacked.len().max(depth), K::Unpacked::zeroed());
        let (mut sums, mut at, mut row) = ([[s.splat_u32(0)]], 0, 0);
        for w in w.data.chunks(depth * block_bytes) {
            prefetch(s, w.as_ptr(), depth * block_bytes);
            let unpacked = &mut unpacked[..w.len() / block_bytes];
            kind.unpack::<S, WIDTH>(s, w, unpacked);
            for w in unpacked {
                let x = &panels[at * registers..][..registers];
                K::multiply::<S, 1, 1, WIDTH>(s, [w], x, &mut sums);
                at += 1;
                if at == blocks {
                    put::<S, WIDTH>(&sums[0][0], row, out);
                    (sums, at, row) = ([[s.splat_u32(0)]], 0, row + 1);
                }
            }
        }
    }

    /// The same in tiles of `R` rows. The columns are read once for all of them: where a row's codes
    /// take longer to multiply than to read, that counts for more.
    #[inline(always)]
    fn in_groups<S: SimdInt, const R: usize, const WIDTH: usize>(self, s: S) {
        let Self { kind, w, panels, out, scratch, .. } = self;
        let (blocks, registers) = (w.cols / K::LEN, K::registers(WIDTH));
        let (block_bytes, depth) = (w.row_bytes / blocks, DEPTH / K::LEN);
        let panels: &[[S::Columns; 1]] = bytemuck::cast_slice(panels);
        let (unpacked, _) = K::scratch(scratch);
        unpacked.resize(unpacked.len().max(R * depth), K::Unpacked::zeroed());
        for row in (0..w.rows).step_by(R) {
            let mut sums = [[s.splat_u32(0)]; R];
            for first in (0..blocks).step_by(depth) {
                let depth = depth.min(blocks - first);
                let unpacked = &mut unpacked[..R * depth];
                // What is beyond the last row keeps whatever it had: its products are not used.
                let rows = w.data[row * w.row_bytes..].chunks_exact(w.row_bytes);
                for (w, to) in rows.zip(unpacked.chunks_exact_mut(depth)) {
                    let w = &w[first * block_bytes..][..depth * block_bytes];
                    prefetch(s, w.as_ptr(), w.len());
                    kind.unpack::<S, WIDTH>(s, w, to);
                }
                let x = &panels[first * registers..][..depth * registers];
                tile::<S, K, R, 1, WIDTH>(s, unpacked, depth, x, &mut sums);
            }
            for (r, sums) in sums.iter().enumerate().take(w.rows - row) {
                put::<S, WIDTH>(&sums[0], row + r, out);
            }
        }
    }

    /// In tiles of `R2` rows and a whole panel, or of `R1` rows and a panel one register wide. `H` is
    /// a multiple of both.
    #[inline(always)]
    fn many<S: SimdInt, const R2: usize, const R1: usize, const H: usize>(self, s: S) {
        let Self { kind, w, panels, out, scratch, .. } = self;
        let registers = out.len().div_ceil(S::COLS);
        let blocks = w.cols / K::LEN;
        let block_bytes = w.row_bytes / blocks;
        // All tiles are whole: rows may be added at the end.
        let padded = w.rows.next_multiple_of(H);
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
            let (begin, len) = (first * block_bytes, depth * block_bytes);
            for (w, to) in w.data.chunks_exact(w.row_bytes).zip(unpacked.chunks_mut(depth)) {
                kind.unpack::<S, 4>(s, &w[begin..][..len], to);
            }
            let (begin, len) = (first * K::registers(4), depth * K::registers(4));
            for at in (0..registers).step_by(PANEL) {
                let x = &panels[at * blocks * K::registers(4)..];
                if registers - at >= PANEL {
                    let x = &x.as_chunks::<PANEL>().0[begin..][..len];
                    panel::<S, K, R2, PANEL>(s, unpacked, depth, x, sums, registers, at);
                } else {
                    let x = &x.as_chunks::<1>().0[begin..][..len];
                    panel::<S, K, R1, 1>(s, unpacked, depth, x, sums, registers, at);
                }
            }
        }
        transpose(bytemuck::cast_slice(sums), registers * S::COLS, out);
    }
}

/// Writes the sums of a row, whose columns have `WIDTH` bytes.
#[inline(always)]
fn put<S: SimdInt, const WIDTH: usize>(sums: &S::Columns, row: usize, out: &mut [&mut [f32]]) {
    let sums: &[f32] = bytemuck::cast_slice(std::slice::from_ref(sums));
    for (out, sums) in out.iter_mut().zip(sums.chunks_exact(WIDTH / 4)) {
        out[row] = sums[0];
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
        let mut to = [[s.splat_u32(0); C]; R];
        for r in 0..R {
            to[r].copy_from_slice(&sums[r * registers + at..][..C]);
        }
        tile::<S, K, R, C, 4>(s, w, depth, x, &mut to);
        for r in 0..R {
            sums[r * registers + at..][..C].copy_from_slice(&to[r]);
        }
    }
}

/// Adds the products of `R` rows `w` and a panel `x`, `depth` blocks deep, to `sums`.
#[inline(always)]
fn tile<S: SimdInt, K: Kind, const R: usize, const C: usize, const WIDTH: usize>(
    s: S,
    w: &[K::Unpacked],
    depth: usize,
    x: &[[S::Columns; C]],
    sums: &mut [[S::Columns; C]; R],
) {
    let mut tile = *sums;
    for (b, x) in x.chunks_exact(K::registers(WIDTH)).enumerate() {
        let mut row = [&w[b]; R];
        for r in 0..R {
            row[r] = &w[r * depth + b];
        }
        K::multiply::<S, R, C, WIDTH>(s, row, x, &mut tile);
    }
    *sums = tile;
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
