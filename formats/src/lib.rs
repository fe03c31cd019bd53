//! What is on disk, and the arithmetic on it.
//!
//! - [`map`]: files as read-only memory maps.
//! - [`gguf`]: the GGUF container, read and written.
//! - [`checkpoint`]: Hugging Face checkpoint directories.
//! - [`imatrix`]: importance matrices, for the quantizers.
//! - [`printable`]: words out of files, made safe to print.
//! - [`quant`]: the quantized block types, one registry for all of them.
//! - [`session`]: sequences that were saved, with the keys and values of their tokens.
//! - [`tensor`]: a borrowed tensor of either.
//! - [`vocab`]: a SentencePiece vocabulary, wherever it came from.
//!
//! No threads, no printing, no knowledge of how a model computes.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod gguf;
pub mod imatrix;
pub mod map;
pub mod printable;
pub mod quant;
pub mod session;
pub mod tensor;
pub mod vocab;
