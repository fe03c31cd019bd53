//! Conversion: from a checkpoint, or another GGUF file, to one GGUF file, in one pass.
//!
//! - [`Plan`]: what each tensor becomes, by a [`Recipe`] or, as [`fit`] chooses, for a [`Budget`].
//!   `damage` measures what a type costs, `allocation` chooses.
//! - [`Weighting`]: how much columns count.
//! - `metadata`: the keys of the new file; [`model_header`], those that say what the model is.
//! - `pipeline`: the tensors, a chunk of rows at a time, from a [`RowSource`](crate::model::RowSource).
//! - [`Target`], `unfinished`: the new file, which is either complete or not there, and what is beside
//!   it until then.
//! - `resume`: going on with what was cut short.
//! - [`Check`]: measuring the new file before it gets its name.
//! - [`Report`], [`Totals`]: what came of it.

mod allocation;
mod budget;
mod check;
mod damage;
mod error;
mod metadata;
mod pipeline;
mod plan;
mod recipe;
mod report;
mod resume;
mod target;
mod unfinished;
mod weighting;

pub use budget::{fit, Budget, Fitted};
pub use check::Check;
pub use error::ConvertError;
pub use metadata::model_header;
pub use pipeline::{convert, convert_and_check, Options, Progress};
pub use plan::Plan;
pub use recipe::{Recipe, UnknownRecipe};
pub use report::{Report, Totals, TypeTotal};
pub use target::Target;
pub use weighting::Weighting;
