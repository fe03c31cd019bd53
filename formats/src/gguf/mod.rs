//! The [GGUF](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) container: a header of
//! metadata and tensor descriptions, then the tensors' bytes, aligned.
//!
//! - [`Gguf`] reads a model: versions 2 and 3, little-endian, one file or all of its split files.
//!   They are mapped and completely checked when the model is opened.
//! - [`Header`] and [`Writer`] write a file: version 3, alignment 32, always the same bytes.
//! - [`Checksum`] and [`Checksums`]: tensor checksums, which the files written here contain.
//! - [`Vocab`](crate::vocab::Vocab) is read from the metadata by
//!   [`Vocab::from_gguf`](crate::vocab::Vocab::from_gguf) and written by [`Header::set_vocab`].

mod checksum;
mod checksums;
mod cursor;
mod error;
mod owned;
mod parse;
mod read;
mod value;
mod vocab;
mod write;

pub use checksum::{Checksum, CHECKSUMS_KEY};
pub use checksums::{Checksums, HEADER_CHECKSUM_KEY};
pub use error::{GgufError, Malformed};
pub use owned::OwnedValue;
pub use read::{read_metadata, Gguf};
pub use value::{Array, Value, ValueType};
pub use write::{Header, Slot, TensorInfo, Writer};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
/// Tensors begin at multiples of this many bytes unless `general.alignment` gives another number.
pub const ALIGNMENT: usize = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMS: usize = 4;
/// Longest tensor name in bytes: ggml's `GGML_MAX_NAME` less the terminating zero.
const MAX_NAME: usize = 63;
/// Longest metadata key in bytes, according to the specification.
const MAX_KEY: usize = 65_535;
