//! Why an importance matrix cannot be read.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::gguf::GgufError;
use crate::printable::Printable;
use crate::quant::QuantType;

/// Why an importance matrix cannot be read. Every message names the file.
#[derive(Debug, Error)]
pub enum ImatrixError {
    /// The file cannot be opened.
    #[error("{}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file begins like a GGUF file but is not a valid one.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file does not contain an importance matrix.
    #[error("{}: {cause}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Malformed,
    },
}

/// What is wrong with a file that should contain an importance matrix.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// A GGUF file that contains something else.
    #[error("holds a \"{}\" (general.type), not an importance matrix", Printable::new(.0))]
    Kind(String),
    /// A GGUF file without an importance matrix's tensors.
    #[error("holds no importance matrix: no tensor is called NAME.in_sum2")]
    NoEntries,
    /// Sums without counts, or counts without sums.
    #[error("has tensor {name:?}, but no tensor {missing:?}")]
    Unpaired {
        /// The tensor.
        name: String,
        /// The tensor that belongs to it.
        missing: String,
    },
    /// Sums or counts that are not f32.
    #[error("tensor {name:?} is {found}, expected F32")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: QuantType,
    },
    /// The number of sums does not fit the number of matrices.
    #[error("tensor {name:?} has {sums} values, not a multiple of its {counts} counts")]
    Counts {
        /// The tensor of the sums.
        name: String,
        /// Its number of values.
        sums: usize,
        /// Values of the counts' tensor: one for each matrix.
        counts: usize,
    },
    /// What a failed download leaves in the place of the file.
    #[error("not an importance matrix but {0}")]
    StandIn(&'static str),
    /// No entries, or more than the file has room for. The older format has no magic, so this is the
    /// error for most files of other kinds.
    #[error(
        "not an importance matrix: it is not a GGUF file, and in llama.cpp's older format it would \
         have {count} entries, where a file of {len} bytes holds 1 to {most}"
    )]
    Entries {
        /// Entries declared.
        count: i32,
        /// Largest possible number of entries.
        most: usize,
        /// Bytes of the file.
        len: usize,
    },
    /// The file ends too early, or a length in it is too large.
    #[error("{place} needs {wanted} bytes at byte {at}, but the file has {len}")]
    Truncated {
        /// What was being read.
        place: String,
        /// Where, in bytes from the beginning of the file.
        at: usize,
        /// Bytes that should follow there.
        wanted: usize,
        /// Bytes of the file.
        len: usize,
    },
    /// A length is zero or negative.
    #[error("{place} has the invalid length {found} at byte {at}")]
    Length {
        /// What was being read.
        place: String,
        /// Where, in bytes from the beginning of the file.
        at: usize,
        /// The length.
        found: i32,
    },
    /// A name is not UTF-8.
    #[error("{place} has a name at byte {at} that is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        place: String,
        /// Where, in bytes from the beginning of the file.
        at: usize,
    },
    /// Two entries have the same name.
    #[error("{place} is for \"{}\", which already has an entry", Printable::new(name))]
    Duplicate {
        /// What was being read.
        place: String,
        /// The name.
        name: String,
    },
    /// The file continues after its contents.
    #[error("has {extra} bytes after the end of its contents at byte {at}")]
    Trailing {
        /// Where its contents end, in bytes from the beginning of the file.
        at: usize,
        /// Bytes that follow.
        extra: usize,
    },
}
