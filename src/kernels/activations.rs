//! The input of a matrix product, quantized once for all the matrices that read it.

use lapidary_formats::quant::QuantType;
use rayon::prelude::*;

/// Rows of activations, `[n, cols]`, and their quantized forms as far as they were asked for.
#[derive(Debug, Default)]
pub struct Activations {
    cols: usize,
    x: Vec<f32>,
    /// By type; empty bytes mean that it has not been asked for since [`fill`](Self::fill).
    quantized: Vec<(QuantType, Vec<u8>)>,
}

impl Activations {
    /// Takes new rows of `cols` values, which `write` puts into the buffer it is given.
    pub fn fill(&mut self, n: usize, cols: usize, write: impl FnOnce(&mut [f32])) {
        self.cols = cols;
        self.x.resize(n * cols, 0.0);
        write(&mut self.x);
        self.quantized.iter_mut().for_each(|(_, bytes)| bytes.clear());
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.x.len() / self.cols.max(1)
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows as `ty`, one after the other.
    ///
    /// # Panics
    /// If a row is no whole number of `ty`'s blocks: the matrix that asks has rows of that length.
    pub fn as_type(&mut self, ty: QuantType) -> &[u8] {
        let at = self.quantized.iter().position(|(t, _)| *t == ty).unwrap_or_else(|| {
            self.quantized.push((ty, Vec::new()));
            self.quantized.len() - 1
        });
        let bytes = &mut self.quantized[at].1;
        if bytes.is_empty() {
            let row_bytes = ty.row_bytes(self.cols).expect("rows of whole blocks");
            bytes.resize(self.x.len() / self.cols * row_bytes, 0);
            let rows = bytes.par_chunks_mut(row_bytes).zip(self.x.par_chunks(self.cols));
            rows.for_each(|(bytes, x)| (ty.traits().quantize)(x, bytes));
        }
        bytes
    }
}
