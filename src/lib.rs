//! Lapidary cuts Google's Gemma to size: it converts checkpoints to k-quant GGUF files, runs
//! them on the CPU and measures what the cut cost.
//!
//! Imports point one way: commands (the binary) → [`server`] → [`engine`] → [`generate`], and commands →
//! [`verify`] → [`convert`] → [`memory`], [`perplexity`]; all of them → [`model`] → [`kernels`] →
//! `lapidary_formats`. Texts are handled beside the model: [`chat`] → [`tokenizer`], and [`grammar`] →
//! [`sampling`], [`tokenizer`]. What the system allows and refuses, [`machine`] and [`fault`], is for the
//! commands alone. `tests/repository/imports.rs` has the whole table, as a test.
#![deny(unsafe_code)]

pub mod bandwidth;
pub mod chat;
pub mod convert;
pub mod engine;
pub mod fault;
pub mod generate;
pub mod grammar;
pub mod imatrix;
pub mod kernels;
pub mod machine;
pub mod memory;
pub mod model;
pub mod perplexity;
pub mod sampling;
pub mod server;
pub mod tokenizer;
pub mod verify;
