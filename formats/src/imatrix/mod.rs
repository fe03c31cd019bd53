//! The importance matrix: how strongly each column of a model's matrices is activated.
//!
//! For every column of every matrix, it holds the sum of the squares of the values that the column
//! was multiplied with while the model evaluated some text. With it, a quantizer can put its errors
//! where they are multiplied with small values.
//!
//! - [`Imatrix`] reads llama.cpp's files, GGUF and the older binary `.dat`, and writes GGUF.
//! - [`Importance`] is what a quantizer uses of it; a [`Flaw`] says why there is nothing to use.

mod error;
mod gguf;
mod importance;
mod legacy;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

pub use error::{ImatrixError, Malformed};
pub use importance::{Flaw, Importance};

use crate::gguf::{Gguf, GgufError};
use crate::map::MappedFile;

/// An importance matrix, and what it was computed from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// Names of the texts, as the user gave them.
    pub datasets: Vec<String>,
    /// Number of chunks of text that were evaluated.
    pub chunk_count: u32,
    /// Tokens per chunk; 0 if the file does not say.
    pub chunk_size: u32,
    /// The entries, by the matrix's name in a GGUF file, such as `blk.3.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
}

/// The entry of one matrix. The numbers are not checked, and files contain invalid ones;
/// [`Imatrix::importance`] checks them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// For each column, the sum of the squares of the values that it was multiplied with, `[cols]`.
    pub sums: Vec<f32>,
    /// What to divide the sums by to get means: the number of tokens. In a `.dat` file it is the
    /// number of chunks, and the sums are smaller by the same factor.
    pub count: f32,
}

impl Imatrix {
    /// Reads a file of either format; they are told apart by GGUF's magic. Metadata may be missing,
    /// and tensors that do not belong to an entry are skipped. Takes a small multiple of the file's
    /// size in memory, whatever counts the file declares.
    ///
    /// An entry for several matrices, as mixtures of experts have, becomes one: the sum over all of
    /// them, as if one matrix had seen all their tokens. Gemma 2 has no such matrices.
    ///
    /// # Errors
    /// If the file cannot be mapped, has neither format, is truncated, inconsistent or without
    /// entries. Every message names the file and the place in it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImatrixError> {
        let path = path.as_ref();
        let map = MappedFile::open(path)
            .map_err(|error| ImatrixError::Open { path: path.to_owned(), error })?;
        if map.bytes().starts_with(b"GGUF") {
            return gguf::read(&Gguf::open(path)?);
        }
        legacy::parse(map.bytes())
            .map_err(|cause| ImatrixError::Malformed { path: path.to_owned(), cause })
    }

    /// Writes it to `out` as GGUF, as llama.cpp does, and returns `out`, which should be buffered.
    /// The same importance matrix gives the same bytes.
    ///
    /// # Errors
    /// If `out` cannot be written, an entry is empty, or its name is too long for a GGUF tensor.
    pub fn write<W: Write>(&self, out: W) -> Result<W, GgufError> {
        gguf::write(self, out)
    }

    /// How much each column of the matrix `name`, which has `cols` columns, matters to its products.
    ///
    /// # Errors
    /// If the entry is missing or unusable. The matrix is then to be quantized without weights.
    pub fn importance(&self, name: &str, cols: usize) -> Result<Importance, Flaw> {
        let entry = self.entries.get(name).ok_or(Flaw::Missing)?;
        Importance::new(entry, cols)
    }
}
