//! Lapidary cuts Google's Gemma to size: it converts checkpoints to k-quant GGUF files, runs them on
//! the CPU and measures what quantization cost.
//!
//! Imports point one way: commands (the binary) → [`server`] → [`engine`] → [`generate`], and
//! commands → [`verify`] → [`convert`] → [`memory`], [`perplexity`]; all of them → [`model`] →
//! [`kernels`] → `lapidary_formats`. The modules for text do not depend on the model: [`chat`] →
//! [`tokenizer`], and [`grammar`] → [`sampling`], [`tokenizer`]. Only the commands use [`machine`]
//! and [`fault`], which deal with the limits and signals of the operating system.
//! `tests/repository/imports.rs` has the whole table, as a test.
//!
//! # Examples
//!
//! Open a model from a checkpoint directory or a GGUF file. This reads the headers, checks every
//! shape, and maps the weights into memory.
//!
//! ```
//! use std::path::Path;
//!
//! use lapidary::model::Source;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gemma2"));
//! let source = Source::open(path)?;
//! assert_eq!((source.config().n_layer(), source.config().n_embd), (4, 256));
//! for spec in source.tensors() {
//!     println!("{} {:?} {}", spec.name, spec.shape, source.tensor(spec).ty);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Write it as a GGUF file with the types of a recipe, with [`convert::convert`]:
//!
//! ```
//! use std::path::Path;
//!
//! use lapidary::convert::{convert, Options, Plan, Recipe};
//! use lapidary::model::Source;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gemma2"));
//! let dir = tempfile::tempdir()?;
//! let out = dir.path().join("tiny-Q4_K_M.gguf");
//!
//! let source = Source::open(path)?;
//! let plan = Plan::of_recipe(&source, Recipe::Q4_K_M);
//! // `()` ignores the progress.
//! let report = convert(&source, &out, &plan, Options::default(), &mut ())?;
//! assert!(report.totals.bits_per_weight() < 6.0);
//!
//! let converted = Source::open(&out)?;
//! assert_eq!(converted.tensors(), source.tensors());
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

pub mod bandwidth;
pub mod calibration;
pub mod chat;
pub mod convert;
pub mod engine;
pub mod fault;
pub mod generate;
pub mod grammar;
pub mod hessian;
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
