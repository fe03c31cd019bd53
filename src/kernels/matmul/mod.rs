//! Matrices × columns, straight from the mapped blocks.
//!
//! Every product of a row and a column is computed in one order, the reference's: integers within a
//! block, then one addition of floats a block. So its bits do not depend on the instruction set, on
//! the number of columns or on the threads.

mod amx;
mod by_table;
mod dot;
mod float;
mod kinds;
mod tile;

use std::marker::PhantomData;
use std::ops::Range;

use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;

use super::activations::{Activations, Layout};
use super::elementwise::geglu;
use super::isa::{IntOp, Isa, SimdInt};
use super::unpack::{by_block, unpack_blocks, Block32, ByBlock, Float, KBlock, Unpack};
use super::{refit, Cpu};
use by_table::DotByTable;
use dot::{Dot32, DotK};
use float::DotFloat;
use kinds::{ByTable, KQuant, Legacy, Scratch};
use tile::Tile;

/// A weight matrix as it is in the file, `[rows, cols]`, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    ty: QuantType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// The matrix that `view` holds.
    pub fn new(view: TensorView<'a>) -> Self {
        let (rows, cols) = (view.rows(), view.cols());
        let row_bytes = view.ty.row_bytes(cols).expect("a tensor's rows are whole blocks");
        assert_eq!(view.data.len(), rows * row_bytes, "a tensor's length is checked on opening");
        Self { ty: view.ty, rows, cols, row_bytes, data: view.data }
    }

    /// The blocks, as they are in the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes, for each column, of the lists of references that a product with `rows` rows takes while it
    /// runs: a reference for each item.
    pub fn product_bytes(rows: usize) -> usize {
        rows / TALL * size_of::<&mut [f32]>()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Writes row `row` to `y`, `[cols]`.
    pub fn dequantize_row(&self, row: usize, y: &mut [f32]) {
        (self.ty.traits().dequantize)(&self.data[row * self.row_bytes..][..self.row_bytes], y);
    }

    /// Writes some columns of row `row`, whole blocks, to `y`.
    pub(super) fn dequantize_part(&self, row: usize, columns: Range<usize>, y: &mut [f32]) {
        let bytes = |cols| self.ty.row_bytes(cols).expect("whole blocks");
        let part = &self.data[row * self.row_bytes + bytes(columns.start)..];
        (self.ty.traits().dequantize)(&part[..bytes(columns.len())], y);
    }

    /// The matrix of `count` rows from `first` on.
    fn part(&self, first: usize, count: usize) -> Self {
        let data = &self.data[first * self.row_bytes..][..count * self.row_bytes];
        Self { rows: count, data, ..*self }
    }
}

/// A product to compute: `out[t, r] = w[r] · x[t]`, `[n, w.rows]`.
pub struct Product<'m, 'o> {
    /// The matrix.
    pub w: &'m Matrix<'m>,
    /// Resized to fit.
    pub out: &'o mut Vec<f32>,
}

/// Up to so many columns are multiplied by the kernels that unpack blocks in registers (`dot`). For more,
/// rows are unpacked to memory (`tile`). Measured.
const FEW: usize = 2;

/// Bytes of a register that each of `n` columns has: as few columns side by side as there have to be,
/// with as many codes as possible.
fn width(isa: Isa, n: usize) -> usize {
    match isa.columns() {
        _ if amx::takes(isa, n) => amx::WIDTH,
        columns if n <= columns / 4 => 16,
        columns if n <= columns / 2 => 8,
        _ => 4,
    }
}

/// How far ahead of their use weights are prefetched, in bytes; at the end of a row, from the next.
const AHEAD: usize = 4096;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Prefetches as many bytes as are about to be read at `from`, [`AHEAD`] bytes after them.
#[inline(always)]
fn prefetch<S: SimdInt>(s: S, from: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        s.prefetch(from.wrapping_add(AHEAD + line * LINE));
    }
}

/// Bytes of a matrix that are worth being an item of their own for the threads.
const ITEM: usize = 1 << 16;

/// Rows of an item when there are many columns: a multiple of every tile's height, and few enough
/// for their unpacked blocks to stay in the second-level cache.
const TALL: usize = 48;

impl Cpu {
    /// Computes `products`, whose columns are the rows of `x`.
    pub fn matmul<const N: usize>(&self, x: &mut Activations, products: [Product<'_, '_>; N]) {
        let n = x.n();
        if n == 0 {
            return;
        }
        products.iter().for_each(|p| self.prepare(x, p.w, n));
        let x = &*x;
        let bytes = products.iter().map(|p| p.w.data.len() * n).sum();
        let items: Vec<_> = products
            .into_iter()
            .flat_map(|Product { w, out }| {
                refit(out, n * w.rows, 0.0);
                parts(out, w.rows, self.item_rows(w, n)).map(move |(first, out)| (w, first, out))
            })
            .collect();
        self.for_each_reading(bytes, items, Scratch::default, |scratch, (w, first, mut out)| {
            let part = w.part(first, out[0].len());
            multiply(self.isa, &part, x, &mut out, scratch);
        });
    }

    /// `out[t, r] = gelu(gate[r] · x[t]) * (up[r] · x[t])`, `[n, gate.rows]`.
    pub fn gated(&self, x: &mut Activations, gate: &Matrix<'_>, up: &Matrix<'_>, out: &mut [f32]) {
        let n = x.n();
        if n == 0 {
            return;
        }
        self.prepare(x, gate, n);
        self.prepare(x, up, n);
        let x = &*x;
        let items: Vec<_> = parts(out, gate.rows, self.item_rows(gate, n)).collect();
        type Buffers = (Scratch, Vec<f32>, Vec<f32>);
        let bytes = 2 * gate.data.len() * n;
        self.for_each_reading(bytes, items, Buffers::default, |buffers, (first, out)| {
            let (scratch, g, u) = buffers;
            let rows = out[0].len();
            for (w, y) in [(gate, &mut *g), (up, &mut *u)] {
                y.resize(n * rows, 0.0);
                let mut y: Vec<_> = y.chunks_mut(rows).collect();
                multiply(self.isa, &w.part(first, rows), x, &mut y, scratch);
            }
            for (out, (g, u)) in out.into_iter().zip(g.chunks(rows).zip(u.chunks(rows))) {
                geglu(self.isa, g, u, out);
            }
        });
    }

    /// Quantizes `x` to what the kernel for `w` takes.
    fn prepare(&self, x: &mut Activations, w: &Matrix<'_>, n: usize) {
        assert_eq!(x.cols(), w.cols, "matmul: shapes differ");
        if let Some((ty, layout)) = layout(self.isa, w.ty, n) {
            x.prepare(&self.pool, self.isa, ty, layout);
        }
    }

    /// Rows of `w` that one thread computes at a time.
    fn item_rows(&self, w: &Matrix<'_>, n: usize) -> usize {
        if n > FEW {
            return TALL;
        }
        // Enough items for each thread that none waits long for the last, and no more.
        let share = w.rows / self.pool.threads();
        ITEM.div_ceil(w.row_bytes.max(1)).clamp(share / 32, (share / 4).max(share / 32)).max(1)
    }
}

/// Cuts `out`, `[n, rows]`, into parts of `count` rows: the first row of each, and the part of every
/// column.
pub(super) fn parts(
    out: &mut [f32],
    rows: usize,
    count: usize,
) -> impl Iterator<Item = (usize, Vec<&mut [f32]>)> {
    let n = out.len() / rows;
    let mut parts: Vec<_> = (0..rows.div_ceil(count)).map(|_| Vec::with_capacity(n)).collect();
    for column in out.chunks_mut(rows) {
        parts.iter_mut().zip(column.chunks_mut(count)).for_each(|(part, chunk)| part.push(chunk));
    }
    parts.into_iter().enumerate().map(move |(i, part)| (i * count, part))
}

/// The type and the layout that the kernel for a matrix of type `ty` takes `n` columns in; `None` if
/// it takes them in f32.
fn layout(isa: Isa, ty: QuantType, n: usize) -> Option<(QuantType, Layout)> {
    let activation = ty.traits().activation;
    let layout = match by_block(ty, KindOf) {
        _ if isa == Isa::SCALAR => Layout::Blocks,
        BlockKind::Other => Layout::Blocks,
        BlockKind::Float => return None,
        BlockKind::Quantized if n <= FEW => Layout::Rows,
        BlockKind::Quantized => {
            let width = width(isa, n);
            Layout::Panels { columns: 4 * isa.columns() / width, width }
        }
    };
    Some((activation, layout))
}

/// What the kernels distinguish when they ask for activations.
enum BlockKind {
    Float,
    Quantized,
    Other,
}

/// The [`BlockKind`] of a type.
struct KindOf;

impl ByBlock for KindOf {
    type Out = BlockKind;

    fn float<T: Float>(self) -> BlockKind {
        BlockKind::Float
    }

    fn k<T: KBlock>(self) -> BlockKind {
        BlockKind::Quantized
    }

    fn block_32<T: Block32>(self) -> BlockKind {
        BlockKind::Quantized
    }

    fn by_table<T: Unpack>(self) -> BlockKind {
        BlockKind::Quantized
    }

    fn other(self) -> BlockKind {
        BlockKind::Other
    }
}

/// `out[t][r] = w[r] · x[t]`.
fn multiply(
    isa: Isa,
    w: &Matrix<'_>,
    x: &Activations,
    out: &mut [&mut [f32]],
    scratch: &mut Scratch,
) {
    let layout = layout(isa, w.ty, out.len());
    match layout {
        Some((activation, Layout::Blocks)) => reference(w, x.blocks(activation), out),
        Some((ty, Layout::Panels { columns, width })) if amx::takes(isa, out.len()) => {
            let (panels, scratch) = (x.panels(ty, columns, width), &mut scratch.tiles);
            let operands = amx::Operands { w, panels, out, scratch };
            by_block(w.ty, amx::Multiply(isa, operands));
        }
        _ => by_block(w.ty, Multiply { isa, w, x, layout, out, scratch }),
    }
}

/// See [`multiply`]: the one place that picks the kernel for a kind of block. `x` is prepared in
/// `layout`.
struct Multiply<'a, 'm, 'o> {
    isa: Isa,
    w: &'a Matrix<'m>,
    x: &'a Activations,
    layout: Option<(QuantType, Layout)>,
    out: &'a mut [&'o mut [f32]],
    scratch: &'a mut Scratch,
}

impl Multiply<'_, '_, '_> {
    fn run(isa: Isa, op: impl IntOp<Out = ()>) {
        isa.run_int(op).unwrap_or_else(|_| unreachable!("the reference has its own layout"));
    }
}

impl ByBlock for Multiply<'_, '_, '_> {
    type Out = ();

    fn float<T: Float>(self) {
        self.isa.run(DotFloat::<T>::new(self.w, self.x.x(), self.out));
    }

    fn k<T: KBlock>(self) {
        let Self { isa, w, x, layout, out, scratch } = self;
        match layout {
            Some((ty, Layout::Panels { columns, width })) => {
                let kind = KQuant::<T>(PhantomData);
                Self::run(
                    isa,
                    Tile::new(kind, w, x.panels(ty, columns, width), columns, out, scratch),
                );
            }
            _ => Self::run(isa, DotK::<T>::new(w, x.rows(QuantType::Q8_K), out)),
        }
    }

    fn block_32<T: Block32>(self) {
        let Self { isa, w, x, layout, out, scratch } = self;
        match layout {
            Some((ty, Layout::Panels { columns, width })) => {
                let kind = Legacy::<T>(PhantomData);
                Self::run(
                    isa,
                    Tile::new(kind, w, x.panels(ty, columns, width), columns, out, scratch),
                );
            }
            _ => Self::run(isa, Dot32::<T>::new(w, x.rows(QuantType::Q8_0), out)),
        }
    }

    fn by_table<T: Unpack>(self) {
        let Self { isa, w, x, layout, out, scratch } = self;
        let unpack = unpack_blocks::<T>;
        match layout {
            Some((ty, Layout::Panels { columns, width })) => {
                let kind = ByTable(unpack);
                Self::run(
                    isa,
                    Tile::new(kind, w, x.panels(ty, columns, width), columns, out, scratch),
                );
            }
            _ => {
                let x = x.rows(QuantType::Q8_K);
                Self::run(isa, DotByTable::new(unpack, w, x, out, &mut scratch.symmetric));
            }
        }
    }

    fn other(self) {
        unreachable!("types that are not unpacked go to the reference");
    }
}

/// The dot products that the types themselves define, which all kernels are tested against. `x` has
/// rows of the activation type.
fn reference(w: &Matrix<'_>, x: &[u8], out: &mut [&mut [f32]]) {
    let dot = w.ty.traits().dot;
    let columns = x.chunks_exact(x.len() / out.len());
    for (out, x) in out.iter_mut().zip(columns) {
        for (out, w) in out.iter_mut().zip(w.data.chunks_exact(w.row_bytes)) {
            *out = dot(w, x);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
