//! A tensor in a mapped file: name, type, shape and bytes, all borrowed.

use crate::quant::QuantType;

/// A borrowed tensor. Its length in bytes has been checked against its type and shape.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Name in the file it came from.
    pub name: &'a str,
    /// Type of its blocks.
    pub ty: QuantType,
    /// Dimensions in GGUF's order: the contiguous one (the row length) first.
    pub shape: &'a [usize],
    /// The blocks, little-endian, row after row.
    pub data: &'a [u8],
}

impl TensorView<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of a row: the contiguous dimension.
    pub fn cols(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.data.len() / self.rows()
    }
}
