//! What conversion reads: the rows of a model's tensors, wherever they come from.

use std::ops::Range;

use lapidary_formats::tensor::TensorView;

use super::{Source, SourceError, TensorSpec};

/// The rows of a model's tensors. A plain model has them in its file; a merged or an adapted one
/// computes them.
pub trait RowSource: Sync {
    /// The model whose configuration, vocabulary and metadata the rows go with.
    fn model(&self) -> &Source;

    /// The rows of one of its tensors.
    ///
    /// # Panics
    /// If `spec` is not one of [`Source::tensors`].
    fn rows<'a>(&'a self, spec: &TensorSpec) -> Box<dyn TensorRows + 'a>;

    /// A number that depends on all that decides the rows, in 16 hexadecimal digits.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn fingerprint(&self) -> Result<String, SourceError>;
}

/// The rows of one tensor.
pub trait TensorRows: Sync {
    /// Writes a row to `out`, `[cols]`, as a GGUF file holds it: a norm has one row, of multipliers.
    /// Values that are NaN or infinite are for the caller to look for.
    fn read(&self, row: usize, out: &mut [f32]);

    /// The tensor as it lies in a file, if its rows are exactly those: then what has the type that is
    /// wanted already can be copied.
    fn stored(&self) -> Option<TensorView<'_>>;

    /// The tensor's name where it comes from, for messages.
    fn name(&self) -> &str;

    /// Bytes that are read for some rows.
    fn bytes(&self, rows: Range<usize>) -> u64;

    /// Gives back the memory of some rows, until they are read again.
    fn release(&self, rows: Range<usize>);
}

/// Rows as they lie in a model's file.
struct StoredRows<'a> {
    source: &'a Source,
    view: TensorView<'a>,
    /// Of a checkpoint's norms, which lack 1.
    add_one: bool,
}

impl StoredRows<'_> {
    fn data(&self, rows: Range<usize>) -> &[u8] {
        let row_bytes = self.view.row_bytes();
        &self.view.data[rows.start * row_bytes..rows.end * row_bytes]
    }
}

impl TensorRows for StoredRows<'_> {
    fn read(&self, row: usize, out: &mut [f32]) {
        (self.view.ty.traits().dequantize)(self.data(row..row + 1), out);
        if self.add_one {
            out.iter_mut().for_each(|w| *w += 1.0);
        }
    }

    fn stored(&self) -> Option<TensorView<'_>> {
        (!self.add_one).then_some(self.view)
    }

    fn name(&self) -> &str {
        self.view.name
    }

    fn bytes(&self, rows: Range<usize>) -> u64 {
        self.data(rows).len() as u64
    }

    fn release(&self, rows: Range<usize>) {
        self.source.release(self.data(rows));
    }
}

impl RowSource for Source {
    fn model(&self) -> &Source {
        self
    }

    fn rows<'a>(&'a self, spec: &TensorSpec) -> Box<dyn TensorRows + 'a> {
        let (view, add_one) = (self.tensor(spec), self.lacks_one(spec));
        Box::new(StoredRows { source: self, view, add_one })
    }

    fn fingerprint(&self) -> Result<String, SourceError> {
        super::fingerprint::fingerprint(self)
    }
}
