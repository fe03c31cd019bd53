//! Matrix × many columns, straight from the mapped blocks.

use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;
use rayon::prelude::*;

use super::{Activations, Team};

/// A weight matrix as it lies in the file, `[rows, cols]`, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    ty: QuantType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

/// Multiply-adds that are worth handing to another thread.
const TASK: usize = 1 << 16;

impl<'a> Matrix<'a> {
    /// The matrix that `view` holds.
    pub fn new(view: TensorView<'a>) -> Self {
        let (rows, cols) = (view.rows(), view.cols());
        let row_bytes = view.ty.row_bytes(cols).expect("a tensor's rows are whole blocks");
        assert_eq!(view.data.len(), rows * row_bytes, "a tensor's length is checked on opening");
        Self { ty: view.ty, rows, cols, row_bytes, data: view.data }
    }

    /// Number of rows: the width of the product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes row `row` to `y`, `[cols]`.
    pub fn dequantize_row(&self, row: usize, y: &mut [f32]) {
        (self.ty.traits().dequantize)(self.row(row), y);
    }

    fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }
}

impl Team {
    /// `out[t, r] = w[r] · x[t]`: `out` is `[n, w.rows]` for the `n` rows of `x`.
    ///
    /// Each product is computed by itself, in one order, whatever the number of rows and threads:
    /// a prompt gives the same bits in one go, in pieces and token by token.
    pub fn matmul(&self, w: &Matrix<'_>, x: &mut Activations, out: &mut [f32]) {
        let n = x.n();
        assert_eq!((x.cols(), out.len()), (w.cols, n * w.rows), "matmul: shapes differ");
        let kernel = Kernel::pick(w.ty, n);
        let x = x.as_type(kernel.activation);
        let x_bytes = x.len() / n.max(1);
        let rows_per_task = (TASK / (w.cols * n).max(1)).clamp(1, w.rows);
        if n == 1 {
            out.par_chunks_mut(rows_per_task).enumerate().for_each(|(task, out)| {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = (kernel.dot)(w.row(task * rows_per_task + i), x);
                }
            });
            return;
        }
        // Threads own rows of `w`, so the product is made as [w.rows, n] and turned at the end.
        let mut by_row = vec![0.0f32; out.len()];
        by_row.par_chunks_mut(rows_per_task * n).enumerate().for_each(|(task, by_row)| {
            let mut wide = Wide::default();
            for (i, products) in by_row.chunks_exact_mut(n).enumerate() {
                let row = kernel.row(w.row(task * rows_per_task + i), w.cols, &mut wide);
                for (product, x) in products.iter_mut().zip(x.chunks_exact(x_bytes)) {
                    *product = (kernel.dot)(row, x);
                }
            }
        });
        out.par_chunks_mut(w.rows).enumerate().for_each(|(t, out)| {
            for (out, products) in out.iter_mut().zip(by_row.chunks_exact(n)) {
                *out = products[t];
            }
        });
    }
}

/// As in the registry's rows.
type Dequantize = fn(&[u8], &mut [f32]);

/// How one row of a type is multiplied.
struct Kernel {
    activation: QuantType,
    dot: fn(&[u8], &[u8]) -> f32,
    /// Half-precision rows that meet many columns are widened to F32 once; the products have the
    /// same bits, since the types' own `dot` widens too.
    widen: Option<Dequantize>,
}

impl Kernel {
    /// The one place that picks a kernel: for a type and a number of columns.
    fn pick(ty: QuantType, n: usize) -> Self {
        let traits = ty.traits();
        if matches!(ty, QuantType::F16 | QuantType::BF16) && n > 1 {
            let wide = QuantType::F32.traits();
            return Self { activation: wide.ty, dot: wide.dot, widen: Some(traits.dequantize) };
        }
        Self { activation: traits.activation, dot: traits.dot, widen: None }
    }

    /// The row as `dot` wants it, in `wide` if it has to be made.
    fn row<'a>(&self, row: &'a [u8], cols: usize, wide: &'a mut Wide) -> &'a [u8] {
        let Some(widen) = self.widen else { return row };
        wide.values.resize(cols, 0.0);
        wide.bytes.resize(size_of_val(&wide.values[..]), 0);
        widen(row, &mut wide.values);
        (QuantType::F32.traits().quantize)(&wide.values, &mut wide.bytes);
        &wide.bytes
    }
}

/// A widened row, as values and as F32's blocks.
#[derive(Default)]
struct Wide {
    values: Vec<f32>,
    bytes: Vec<u8>,
}
