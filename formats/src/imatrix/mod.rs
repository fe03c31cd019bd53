//! The importance matrix: how strongly a model's matrices are driven, column by column.
//!
//! For every matrix it holds, per column, the sum of the squares of the values that the column was
//! multiplied with while the model read some text. A quantizer that knows it can keep its errors
//! where they are multiplied with little.
//!
//! - [`Imatrix`] reads llama.cpp's files, GGUF and the older binary `.dat`, and writes GGUF.
//! - [`Importance`] is what a quantizer takes of it; a [`Flaw`] is why there is nothing to take.

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
    /// The texts, by the names that their user gave them.
    pub datasets: Vec<String>,
    /// Chunks of text that were evaluated.
    pub chunk_count: u32,
    /// Tokens of a chunk; 0 if the file does not say.
    pub chunk_size: u32,
    /// By the matrix's name in a GGUF file, such as `blk.3.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
}

/// What is known of one matrix. Nothing about the numbers is certain, as files hold all sorts of
/// them; [`Imatrix::importance`] is careful.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// For each column the sum of the squares that it was multiplied with, `[cols]`.
    pub sums: Vec<f32>,
    /// What the sums are divided by for a mean: the number of tokens. In a `.dat` file it is the
    /// number of chunks, and the sums are as much smaller.
    pub count: f32,
}

impl Imatrix {
    /// Reads a file of either format, told apart by GGUF's magic. Metadata may be missing, and
    /// tensors that are no part of an entry are skipped. The memory it takes is a small multiple of
    /// the file, whatever counts that declares.
    ///
    /// An entry for several matrices, as mixtures of experts have, becomes one: the sum over all,
    /// as if one matrix had seen all of their tokens. Gemma 2 has no such matrices.
    ///
    /// # Errors
    /// If the file cannot be mapped, is neither format, is truncated, contradicts itself or holds
    /// no entry. Every message names the file and the place in it.
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

    /// Writes it as llama.cpp does, in GGUF, to `out`, which best is buffered, and gives that back.
    /// The same matrix gives the same bytes.
    ///
    /// # Errors
    /// If `out` cannot be written, or an entry is empty or its name too long for a GGUF tensor.
    pub fn write<W: Write>(&self, out: W) -> Result<W, GgufError> {
        gguf::write(self, out)
    }

    /// How much the columns of the matrix `name`, which has `cols` of them, matter to its products.
    ///
    /// # Errors
    /// If the entry is missing or useless: the matrix is then to be quantized without weights.
    pub fn importance(&self, name: &str, cols: usize) -> Result<Importance, Flaw> {
        let entry = self.entries.get(name).ok_or(Flaw::Missing)?;
        Importance::new(entry, cols)
    }
}
