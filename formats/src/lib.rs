//! File formats, and the arithmetic on their contents.
//!
//! - [`map`]: files as read-only memory maps.
//! - [`gguf`]: reads and writes the GGUF container.
//! - [`checkpoint`]: Hugging Face checkpoint directories.
//! - [`imatrix`]: importance matrices, for the quantizers.
//! - [`printable`]: makes strings from files safe to print.
//! - [`quant`]: the quantized block types, one registry for all of them.
//! - [`session`]: saved sequences, with the keys and values of their tokens.
//! - [`tensor`]: a borrowed tensor of a GGUF file or a checkpoint.
//! - [`vocab`]: a SentencePiece vocabulary, from any of these files.
//!
//! This crate starts no threads, prints nothing and does not know how a model computes.
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

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
