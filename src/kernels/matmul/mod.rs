//! Matrices × columns, straight from the mapped blocks.
//!
//! A product is computed by itself, in one order: integers within a block, then one addition of
//! floats a block. Every kernel keeps that order, the reference's, so its bits do not depend on
//! the instruction set, on the number of columns or on the threads.

mod dot;
mod float;
mod kinds;
mod tile;

use lapidary_formats::quant::blocks::{
    Bf16, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ4_0, BlockQ4_1, BlockQ5K, BlockQ5_0, BlockQ5_1,
    BlockQ6K, BlockQ8_0, F16, F32,
};
use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;

use super::activations::{Activations, Layout};
use super::elementwise::geglu;
use super::isa::Isa;
use super::{refit, Cpu};
use dot::{Dot32, DotK};
use float::DotFloat;
use kinds::Scratch;
use tile::{Tile32, TileK};

/// A weight matrix as it lies in the file, `[rows, cols]`, row after row.
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

    /// The blocks, as they lie in the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes of the lists of a product, for each column of an output of `rows` rows: a reference for
    /// each run of rows that one thread computes.
    pub fn product_bytes(rows: usize) -> usize {
        rows / TALL * size_of::<&mut [f32]>()
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Writes row `row` to `y`, `[cols]`.
    pub fn dequantize_row(&self, row: usize, y: &mut [f32]) {
        (self.ty.traits().dequantize)(&self.data[row * self.row_bytes..][..self.row_bytes], y);
    }

    /// The matrix of `count` rows from `first` on.
    fn part(&self, first: usize, count: usize) -> Self {
        let data = &self.data[first * self.row_bytes..][..count * self.row_bytes];
        Self { rows: count, data, ..*self }
    }
}

/// A product that is wanted: `out[t, r] = w[r] · x[t]`, `[n, w.rows]`.
pub struct Product<'m, 'o> {
    /// The matrix.
    pub w: &'m Matrix<'m>,
    /// Resized to fit.
    pub out: &'o mut Vec<f32>,
}

/// Up to so many columns are multiplied row by row, as one is; more go in panels, whose cost is
/// that of a whole register of columns, after the rows have been unpacked to memory.
fn few(isa: Isa, activation: QuantType) -> usize {
    // Measured. Rows of a k-quant are unpacked once for two columns; those with blocks of 32 for
    // each.
    if activation == QuantType::Q8_K {
        isa.columns() * 5 / 8
    } else {
        3
    }
}

/// Bytes of a matrix that are worth handing to another thread.
const ITEM: usize = 1 << 16;

/// Rows of an item when there are many columns: a multiple of every tile's height, and few enough
/// for their unpacked blocks to stay in the second-level cache.
const TALL: usize = 48;

impl Cpu {
    /// Computes `products`, which all have the rows of `x` as columns.
    pub fn matmul<const N: usize>(&self, x: &mut Activations, products: [Product<'_, '_>; N]) {
        let n = x.n();
        if n == 0 {
            return;
        }
        products.iter().for_each(|p| self.prepare(x, p.w, n));
        let x = &*x;
        let items: Vec<_> = products
            .into_iter()
            .flat_map(|Product { w, out }| {
                refit(out, n * w.rows, 0.0);
                parts(out, w.rows, self.item_rows(w, n)).map(move |(first, out)| (w, first, out))
            })
            .collect();
        self.pool.for_each_with(items, Scratch::default, |scratch, (w, first, mut out)| {
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
        self.pool.for_each_with(items, Buffers::default, |buffers, (first, out)| {
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

    /// Quantizes `x` as `w` wants it.
    fn prepare(&self, x: &mut Activations, w: &Matrix<'_>, n: usize) {
        assert_eq!(x.cols(), w.cols, "matmul: shapes differ");
        if let Some((ty, layout)) = layout(self.isa, w.ty, n) {
            x.prepare(&self.pool, self.isa, ty, layout);
        }
    }

    /// Rows of `w` that one thread computes at a time.
    fn item_rows(&self, w: &Matrix<'_>, n: usize) -> usize {
        if n > few(self.isa, w.ty.traits().activation) {
            return TALL;
        }
        // A few items for each thread, so that the last one is not waited for long, and no more.
        let share = w.rows / self.pool.threads();
        ITEM.div_ceil(w.row_bytes.max(1)).clamp(share / 32, (share / 4).max(share / 32)).max(1)
    }
}

/// `out`, `[n, rows]`, cut along its rows: the first row of each part, and the part of every
/// column.
fn parts(
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

/// How a matrix of type `ty` wants `n` columns; `None` if as they are.
fn layout(isa: Isa, ty: QuantType, n: usize) -> Option<(QuantType, Layout)> {
    let activation = ty.traits().activation;
    let layout = match (isa == Isa::SCALAR, activation) {
        (true, _) => Layout::Blocks,
        (false, QuantType::F32) => return None,
        (false, _) if n <= few(isa, activation) => Layout::Rows,
        (false, _) => Layout::Panels(isa.columns()),
    };
    Some((activation, layout))
}

/// `out[t][r] = w[r] · x[t]`: the one place that picks a kernel for a type.
fn multiply(
    isa: Isa,
    w: &Matrix<'_>,
    x: &Activations,
    out: &mut [&mut [f32]],
    scratch: &mut Scratch,
) {
    let Some((activation, layout)) = layout(isa, w.ty, out.len()) else {
        return floats(isa, w, x, out);
    };
    macro_rules! pick {
        ($prepared:expr, $k:ident, $legacy:ident $(, $scratch:expr)?) => {
            match w.ty {
                QuantType::Q2_K => run(isa, $k::<BlockQ2K>::new(w, $prepared, out $(, $scratch)?)),
                QuantType::Q3_K => run(isa, $k::<BlockQ3K>::new(w, $prepared, out $(, $scratch)?)),
                QuantType::Q4_K => run(isa, $k::<BlockQ4K>::new(w, $prepared, out $(, $scratch)?)),
                QuantType::Q5_K => run(isa, $k::<BlockQ5K>::new(w, $prepared, out $(, $scratch)?)),
                QuantType::Q6_K => run(isa, $k::<BlockQ6K>::new(w, $prepared, out $(, $scratch)?)),
                QuantType::Q4_0 => {
                    run(isa, $legacy::<BlockQ4_0>::new(w, $prepared, out $(, $scratch)?))
                }
                QuantType::Q4_1 => {
                    run(isa, $legacy::<BlockQ4_1>::new(w, $prepared, out $(, $scratch)?))
                }
                QuantType::Q5_0 => {
                    run(isa, $legacy::<BlockQ5_0>::new(w, $prepared, out $(, $scratch)?))
                }
                QuantType::Q5_1 => {
                    run(isa, $legacy::<BlockQ5_1>::new(w, $prepared, out $(, $scratch)?))
                }
                QuantType::Q8_0 => {
                    run(isa, $legacy::<BlockQ8_0>::new(w, $prepared, out $(, $scratch)?))
                }
                ty => unreachable!("{ty} has no rows in a file that meet quantized activations"),
            }
        };
    }
    match layout {
        Layout::Blocks => reference(w, x.blocks(activation), out),
        Layout::Rows => pick!(x.rows(activation), DotK, Dot32),
        Layout::Panels(width) => pick!(x.panels(activation, width), TileK, Tile32, scratch),
    }
}

fn run(isa: Isa, op: impl super::isa::IntOp<Out = ()>) {
    isa.run_int(op).unwrap_or_else(|_| unreachable!("the reference has its own layout"));
}

fn floats(isa: Isa, w: &Matrix<'_>, x: &Activations, out: &mut [&mut [f32]]) {
    match w.ty {
        QuantType::F32 => isa.run(DotFloat::<F32>::new(w, x.x(), out)),
        QuantType::F16 => isa.run(DotFloat::<F16>::new(w, x.x(), out)),
        QuantType::BF16 => isa.run(DotFloat::<Bf16>::new(w, x.x(), out)),
        ty => unreachable!("{ty} meets quantized activations"),
    }
}

/// The types' own products, the oracle of all others. `x` are rows of the activation type.
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
mod tests;
