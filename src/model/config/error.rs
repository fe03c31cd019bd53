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
    /// A GGUF file of something else than a model, by its `general.type`.
    #[error("holds a {} (general.type), not a model", Printable::new(.0))]
    Kind(String),
    /// What a fine-tune adds to a model, without the model.
    #[error("is an adapter, not a model: merge it into its base model first")]
    Adapter,
    /// Another architecture than those of the table.
    #[error(
        "{key} `{}` is not supported{}: Lapidary runs {}",
        Printable::new(found),
        what.map_or(String::new(), |what| format!(" ({what})")),
        supported
    )]
    Architecture {
        /// The key that says so.
        key: &'static str,
        /// Its value.
        found: String,
        /// What that is, if it is known.
        what: Option<&'static str>,
        /// The names of those of the table.
        supported: String,
    },
    /// A key that must be there is not.
    #[error("`{0}` is missing")]
    Missing(String),
    /// The tensor whose rows are the vocabulary is not there.
    #[error("tensor `token_embd.weight` is missing")]
    NoEmbedding,
    /// A value that is out of bounds, contradicts another, or asks for what is not supported.
    #[error("`{key}` is {}: {rule}", Printable::new(value))]
    Value {
        /// The key.
        key: String,
        /// As found.
        value: String,
        /// What it should have been.
        rule: String,
    },
}
