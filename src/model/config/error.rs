//! Why a model's configuration cannot be used.

use lapidary_formats::gguf::GgufError;
use lapidary_formats::printable::Printable;
use thiserror::Error;

/// Why a model's configuration cannot be used. No message names the file, which is not known here.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The metadata cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The GGUF file contains something other than a model, according to its `general.type`.
    #[error("is of the type {} (general.type), not a model{}", Printable::new(.0), of_kind(.0))]
    Kind(String),
    /// The file is an adapter (LoRA): it changes a model but does not contain one.
    #[error("is an adapter, not a model: merge it into its base model first")]
    Adapter,
    /// The architecture is not supported.
    #[error(
        "{key} `{}` is not supported{}: Lapidary runs {}",
        Printable::new(found),
        what.map_or(String::new(), |what| format!(" ({what})")),
        supported
    )]
    Architecture {
        /// The key that names the architecture.
        key: &'static str,
        /// Its value.
        found: String,
        /// A description of the architecture, if it is a known one.
        what: Option<&'static str>,
        /// The names of the supported architectures.
        supported: String,
    },
    /// A required key does not exist.
    #[error("`{0}` is missing")]
    Missing(String),
    /// The embedding, whose rows give the size of the vocabulary, does not exist.
    #[error("tensor `token_embd.weight` is missing")]
    NoEmbedding,
    /// A value is out of range, contradicts another value, or needs something that is not
    /// supported.
    #[error("`{key}` is {}: {rule}", Printable::new(value))]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Why the value is refused.
        rule: String,
    },
}

/// What a file of this `general.type` is for, if we know.
fn of_kind(kind: &str) -> &'static str {
    match kind {
        "hessian" => ": it has second-order statistics, for `lapidary convert --hessian`",
        "imatrix" => ": it has an importance matrix, for `lapidary convert --imatrix`",
        _ => "",
    }
}
