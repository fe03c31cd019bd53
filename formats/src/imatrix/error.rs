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
    /// It begins as a GGUF file does, and is none.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file's contents are not those of an importance matrix.
    #[error("{}: {cause}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Malformed,
    },
}

/// What is wrong with the contents of a file that should hold an importance matrix.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// A GGUF file of something else.
    #[error("holds a \"{}\" (general.type), not an importance matrix", Printable::new(.0))]
    Kind(String),
    /// A GGUF file without entries.
    #[error("holds no importance matrix: no tensor is called NAME.in_sum2")]
    NoEntries,
    /// Sums without counts, or counts without sums.
    #[error("tensor {name:?} is there, but tensor {missing:?} is not")]
    Unpaired {
        /// The tensor.
        name: String,
        /// The one that belongs to it.
        missing: String,
    },
    /// Sums or counts that are no floats.
    #[error("tensor {name:?} is {found}, expected F32")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: QuantType,
    },
    /// Sums that cannot be those of so many matrices.
    #[error("tensor {name:?} has {sums} values, no multiple of its {counts} counts")]
    Counts {
        /// The tensor of the sums.
        name: String,
        /// Its number of values.
        sums: usize,
        /// Values of the counts' tensor: one for each matrix.
        counts: usize,
    },
    /// Something that downloads leave in the place of a file.
    #[error("not an importance matrix but {0}")]
    StandIn(&'static str),
    /// No entries, or more than the file has room for. As the older format has no magic, this is
    /// what most other files are refused for.
    #[error(
        "not an importance matrix, neither in GGUF nor in the older format, whose number of entries \
         would be {count}: a file of {len} bytes holds 1 to {most}"
    )]
    Entries {
        /// Entries declared.
        count: i32,
        /// The most that there can be.
        most: usize,
        /// Bytes of the file.
        len: usize,
    },
    /// The file ends too early, or a length in it is too large.
    #[error("{place} wants {wanted} bytes at byte {at}, but the file has {len}")]
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
    /// A length that is zero where something has to be, or negative.
    #[error("{place} has the length {found} at byte {at}")]
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
    /// Two entries have one name.
    #[error("{place} is for \"{}\", as one before it is", Printable::new(name))]
    Duplicate {
        /// What was being read.
        place: String,
        /// The name.
        name: String,
    },
    /// The file does not end where its contents do.
    #[error("{extra} bytes follow its end at byte {at}")]
    Trailing {
        /// Where its contents end.
        at: usize,
        /// Bytes that follow.
        extra: usize,
    },
}
