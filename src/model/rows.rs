//! The input of a conversion: the rows of a model's tensors, wherever they come from.

use std::ops::Range;
use std::path::Path;

use lapidary_formats::map::MappedFile;
use lapidary_formats::tensor::TensorView;

use super::{Extent, Source, SourceError, TensorSpec};

/// The rows of a model's tensors. A plain model has them in its file; a merged or adapted model
/// computes them.
pub trait RowSource: Sync {
    /// The model whose configuration, vocabulary and metadata belong to the rows.
    fn model(&self) -> &Source;

    /// The rows of one of its tensors.
    ///
    /// # Panics
    /// If `spec` is not one of [`Source::tensors`].
    fn rows<'a>(&'a self, spec: &TensorSpec) -> Box<dyn TensorRows + 'a>;

    /// A fingerprint of everything that determines the rows, as 16 hexadecimal digits. Of the weights
    /// it covers as much as `extent` says.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn fingerprint(&self, extent: Extent) -> Result<String, SourceError>;

    /// The state of all files, as a number: it differs once one of them has another size, time or
    /// inode.
    fn state(&self) -> u64;

    /// A file that has changed since it was opened.
    fn changed_file(&self) -> Option<&Path>;
}

/// The rows of one tensor.
pub trait TensorRows: Sync {
    /// Writes a row to `out`, `[cols]`, as it would be in a GGUF file: a norm is one row of
    /// multipliers. The caller must check for values that are NaN or infinite.
    fn read(&self, row: usize, out: &mut [f32]);

    /// The tensor in its file, if it contains exactly these rows. It can then be copied if its type
    /// does not change.
    fn stored(&self) -> Option<TensorView<'_>>;

    /// The tensor's name in its source, for messages.
    fn name(&self) -> &str;

    /// Number of bytes that are read for some rows.
    fn bytes(&self, rows: Range<usize>) -> u64;

    /// Releases the memory of some rows until they are read again.
    fn release(&self, rows: Range<usize>);
}

/// Rows that are stored in a model's file.
struct StoredRows<'a> {
    source: &'a Source,
    view: TensorView<'a>,
    /// Set for the norms of checkpoints, which are stored as w instead of 1 + w.
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

    fn fingerprint(&self, extent: Extent) -> Result<String, SourceError> {
        super::fingerprint::fingerprint(self, extent)
    }

    fn state(&self) -> u64 {
        super::fingerprint::state(self)
    }

    fn changed_file(&self) -> Option<&Path> {
        self.maps().find(|map| !map.is_unchanged()).map(MappedFile::path)
    }
}
