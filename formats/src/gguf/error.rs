//! Why a GGUF file cannot be read or written.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::printable::Printable;
use crate::quant::QuantType;
use crate::vocab::VocabError;

/// Why a GGUF file cannot be read or written. Read errors name the file. Write errors do not,
/// because a [`Writer`](super::Writer) does not know the path.
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
    /// A metadata value has another type than its key requires, or is out of range.
    #[error("{}: metadata key \"{}\" holds {found}, expected {expected}", path.display(), Printable::new(key))]
    ValueType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type and value in the file, as text.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A required metadata key is missing.
    #[error("{}: metadata key {key:?} is missing", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// The split files of a model do not belong together, or one is missing.
    #[error("{}: {cause}", path.display())]
    Split {
        /// The file that was opened, or the split file at fault.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The vocabulary is invalid.
    #[error("{}: {cause}", path.display())]
    Vocab {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: VocabError,
    },
    /// A tensor to be written cannot be described in a GGUF file.
    #[error("cannot write a tensor: {0}")]
    Describe(Malformed),
    /// More bytes were written than all tensors have.
    #[error("tensor {name:?}: {extra} bytes too many were written")]
    TensorOverflow {
        /// The tensor that was being written, or the last one.
        name: String,
        /// How many bytes too many.
        extra: u64,
    },
    /// The file was finished before all tensors were complete.
    #[error("tensor {name:?}: only {written} of {bytes} bytes were written")]
    TensorUnderflow {
        /// The first incomplete tensor.
        name: String,
        /// Bytes that were written.
        written: u64,
        /// Size of the tensor in bytes.
        bytes: u64,
    },
    /// The output cannot be written (for example because the disk is full).
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// What is wrong with the bytes of a GGUF file, or with a tensor that is to be written to one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The file begins with something else.
    #[error("not a GGUF file: it begins with \"{}\"", .0.escape_ascii())]
    Magic(Vec<u8>),
    /// What a failed download leaves in the place of the file.
    #[error("not a GGUF file but {0}")]
    StandIn(&'static str),
    /// Written in big-endian byte order.
    #[error("big-endian GGUF files are not supported")]
    BigEndian,
    /// A version of the format that is not supported.
    #[error("GGUF version {0} is not supported, only 2 and 3")]
    Version(u32),
    /// The header declares more tensors or metadata keys than the file has room for.
    #[error("the header declares {count} {what}, more than a file of {len} bytes can hold")]
    Count {
        /// What is counted: tensors or metadata keys.
        what: &'static str,
        /// How many.
        count: u64,
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
    /// An unknown value type.
    #[error("{place} has the unknown type {number}")]
    UnknownValueType {
        /// What was being read.
        place: String,
        /// The type's number.
        number: u32,
    },
    /// An array of arrays, which is not supported.
    #[error("{place} is an array of arrays, which is not supported")]
    NestedArray {
        /// What was being read.
        place: String,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("{place} has the boolean value {found}, expected 0 or 1")]
    Bool {
        /// What was being read.
        place: String,
        /// The byte.
        found: u8,
    },
    /// A key or tensor name is empty.
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
    /// A metadata key occurs twice.
    #[error("metadata key \"{}\" occurs twice", Printable::new(.0))]
    DuplicateKey(String),
    /// `general.alignment` is not usable.
    #[error("general.alignment is {0}, expected a u32 power of two from 8 to 65536")]
    Alignment(String),
    /// Two tensors have the same name.
    #[error("tensor {0:?} occurs twice")]
    DuplicateTensor(String),
    /// A tensor has no dimensions, or more than four.
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
    /// A tensor's size in bytes does not fit in a `usize`.
    #[error("tensor {0:?} is too large for any machine")]
    TooLarge(String),
    /// An unknown or unsupported tensor type.
    #[error("tensor {name:?} has the type {number} ({type_name}), which is not supported")]
    TensorType {
        /// The tensor.
        name: String,
        /// ggml's number of the type.
        number: u32,
        /// ggml's name of the type.
        type_name: &'static str,
    },
    /// The row length is not a multiple of the block length.
    #[error("tensor {name:?} has rows of {cols} values, not a multiple of {ty}'s block length {}", ty.block_len())]
    RowLength {
        /// The tensor.
        name: String,
        /// Length of its rows.
        cols: usize,
        /// Its type.
        ty: QuantType,
    },
    /// A tensor's offset is not a multiple of the alignment.
    #[error(
        "tensor {name:?} begins at offset {offset}, not a multiple of the alignment {alignment}"
    )]
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
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins before the first one ends.
        second: String,
    },
}
