//! Conversion: from a checkpoint, or another GGUF file, to one GGUF file, in one pass.
//!
//! - [`Recipe`]: which type each tensor gets.
//! - `metadata`: the keys of the new file.
//! - `pipeline`: the tensors, slice by slice.
//! - `target`: the new file, which is either complete or not there.
//! - [`Report`], [`Totals`]: what came of it.

mod error;
mod metadata;
mod pipeline;
mod recipe;
mod report;
mod target;

pub use error::ConvertError;
pub use pipeline::{convert, Options, Progress};
pub use recipe::{Recipe, UnknownRecipe};
pub use report::{Report, Totals, TypeTotal};
