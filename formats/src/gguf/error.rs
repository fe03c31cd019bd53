//! Why a GGUF file cannot be read or written.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::printable::Printable;
use crate::quant::QuantType;
use crate::vocab::VocabError;

/// Why a GGUF file cannot be read or written. Errors of reading name the file; those of writing
/// cannot, as a [`Writer`](super::Writer) knows no path.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file cannot be opened.
    #[error("{}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file's contents are not what GGUF allows.
    #[error("{}: {cause}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Malformed,
    },
    /// A metadata value has another type than its key calls for, or does not fit it.
    #[error("{}: metadata key \"{}\" holds {found}, expected {expected}", path.display(), Printable::new(key))]
    ValueType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is there, as printed for people.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A metadata key that is needed is not there.
    #[error("{}: metadata key {key:?} is missing", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// The splits of a model do not belong together, or one is missing.
    #[error("{}: {cause}", path.display())]
    Split {
        /// The file that was opened, or the split at fault.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The vocabulary makes no sense.
    #[error("{}: {cause}", path.display())]
    Vocab {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: VocabError,
    },
    /// A tensor that a GGUF file cannot hold was to be written.
    #[error("cannot describe a tensor: {0}")]
    Describe(Malformed),
    /// More bytes were written than all tensors have.
    #[error("{extra} bytes more than tensor {name:?} has were written")]
    TensorOverflow {
        /// The tensor that was being written, or the last one.
        name: String,
        /// Bytes too many.
        extra: u64,
    },
    /// The file was finished before all tensors had their bytes.
    #[error("tensor {name:?} was given {written} of its {bytes} bytes")]
    TensorUnderflow {
        /// The first tensor that lacks bytes.
        name: String,
        /// Bytes it was given.
        written: u64,
        /// Bytes it has.
        bytes: u64,
    },
    /// The output cannot be written (a full disk, for one).
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// What is wrong with the bytes of a GGUF file, or with a tensor that is to become part of one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The file begins with something else.
    #[error("not a GGUF file: it begins with \"{}\"", .0.escape_ascii())]
    Magic(Vec<u8>),
    /// Something that downloads leave in the place of a file.
    #[error("not a GGUF file but {0}")]
    StandIn(&'static str),
    /// Written on and for a big-endian machine.
    #[error("big-endian GGUF files are not supported")]
    BigEndian,
    /// A version of the format that is not known here.
    #[error("GGUF version {0} is not supported, only 2 and 3")]
    Version(u32),
    /// More tensors or metadata keys than the file has room for.
    #[error("the header declares {count} {what}, more than a file of {len} bytes can hold")]
    Count {
        /// Tensors or metadata keys.
        what: &'static str,
        /// How many.
        count: u64,
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
        wanted: u64,
        /// Bytes of the file.
        len: usize,
    },
    /// A string is not UTF-8.
    #[error("{place} has a string at byte {at} that is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        place: String,
        /// Where, in bytes from the beginning of the file.
        at: usize,
    },
    /// A value type that is not known here.
    #[error("{place} has the unknown type {number}")]
    UnknownValueType {
        /// What was being read.
        place: String,
        /// The type's number.
        number: u32,
    },
    /// An array of arrays.
    #[error("{place} is an array of arrays, which is not supported")]
    NestedArray {
        /// What was being read.
        place: String,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("{place} has the truth value {found}, expected 0 or 1")]
    Bool {
        /// What was being read.
        place: String,
        /// The byte.
        found: u8,
    },
    /// A key of no bytes.
    #[error("{place} is empty")]
    Empty {
        /// What was being read.
        place: String,
    },
    /// A name longer than the format allows.
    #[error("{place} is {len} bytes long, at most {max} are allowed")]
    TooLong {
        /// What was being read.
        place: String,
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed, in bytes.
        max: usize,
    },
    /// A key occurs twice.
    #[error("metadata key \"{}\" occurs twice", Printable::new(.0))]
    DuplicateKey(String),
    /// `general.alignment` is of no use.
    #[error("general.alignment is {0}, expected a u32 power of two from 8 to 65536")]
    Alignment(String),
    /// Two tensors have one name.
    #[error("tensor {0:?} occurs twice")]
    DuplicateTensor(String),
    /// No dimensions, or more than four.
    #[error("tensor {name:?} has {dims} dimensions, expected 1 to 4")]
    Dimensions {
        /// The tensor.
        name: String,
        /// Its number of dimensions.
        dims: usize,
    },
    /// A dimension is zero.
    #[error("tensor {0:?} has a dimension of zero")]
    ZeroDimension(String),
    /// Its size in bytes does not fit a machine word.
    #[error("tensor {0:?} is too large for any machine")]
    TooLarge(String),
    /// A tensor type that is not known, or known and not supported.
    #[error("tensor {name:?} has the type {number} ({type_name}), which is not supported")]
    TensorType {
        /// The tensor.
        name: String,
        /// ggml's number of the type.
        number: u32,
        /// ggml's name of the type.
        type_name: &'static str,
    },
    /// The row length is no multiple of the block length.
    #[error("tensor {name:?} has rows of {cols} values, no multiple of {ty}'s block of {}", ty.block_len())]
    RowLength {
        /// The tensor.
        name: String,
        /// Length of its rows.
        cols: usize,
        /// Its type.
        ty: QuantType,
    },
    /// A tensor's data does not begin where the alignment asks for.
    #[error("tensor {name:?} begins at offset {offset}, no multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor.
        name: String,
        /// Its offset in the data section, in bytes.
        offset: u64,
        /// The file's alignment, in bytes.
        alignment: usize,
    },
    /// A tensor's data reaches past the end of the file.
    #[error("tensor {name:?} has {bytes} bytes at offset {offset} of a data section of {available} bytes: the file is truncated")]
    OutOfFile {
        /// The tensor.
        name: String,
        /// Its offset in the data section, in bytes.
        offset: u64,
        /// Its size in bytes.
        bytes: usize,
        /// Bytes of the data section.
        available: usize,
    },
    /// Two tensors share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins before the first ends.
        second: String,
    },
}
