//! Converts a checkpoint, or another GGUF file, to one GGUF file in a single pass.
//!
//! - [`Plan`]: the type of each tensor, by a [`Recipe`], or chosen by [`fit`] for a [`Budget`].
//!   `damage` measures the error of each type, `allocation` chooses among them.
//! - [`Weighting`]: the importance of the columns.
//! - `metadata`: the keys of the new file; [`model_header`] makes those that describe the model.
//! - `pipeline`: converts the tensors, a chunk of rows at a time, from a
//!   [`RowSource`](crate::model::RowSource).
//! - [`Target`], `unfinished`: the output, which is either complete or does not exist, and the
//!   unfinished file beside it.
//! - `resume`: continues what was interrupted.
//! - [`Check`]: measures the new file before it gets its final name.
//! - [`Report`], [`Totals`]: the result.

mod allocation;
mod budget;
mod check;
mod chunks;
mod damage;
mod error;
mod metadata;
mod options;
mod overwrite;
mod pipeline;
mod plan;
mod recipe;
mod report;
mod resume;
mod second_order;
mod sequential;
mod target;
mod unfinished;
mod weighting;

pub use budget::{fit, Budget, Fitted};
pub use check::Check;
pub use error::ConvertError;
pub use metadata::model_header;
pub use options::{Options, Progress};
pub use overwrite::check_output;
pub use pipeline::{convert, convert_and_check};
pub use plan::Plan;
pub use recipe::{Recipe, UnknownRecipe};
pub use report::{Report, Totals, TypeTotal};
pub use resume::{finished_tensors, keep_unfinished, Finished};
pub use second_order::SecondOrder;
pub use target::{unfinished_path, Target};
pub use weighting::Weighting;
