//! Why a model cannot be used.

use std::path::PathBuf;

use lapidary_formats::checkpoint::CheckpointError;
use lapidary_formats::gguf::GgufError;
use lapidary_formats::printable::Printable;
use thiserror::Error;

use crate::model::{ConfigError, WrongPath};

/// Why a model cannot be used. Every message names the file.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It does not exist, or cannot be accessed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path that was asked for.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// It is something that people name in place of a model.
    #[error("{}: {error}", path.display())]
    WrongPath {
        /// The path that was asked for.
        path: PathBuf,
        /// What it is.
        error: WrongPath,
    },
    /// Not a readable GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not a readable checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its configuration cannot be used.
    #[error("{}: {error}", path.display())]
    Config {
        /// The model's file.
        path: PathBuf,
        /// What is wrong with it.
        error: ConfigError,
    },
    /// A tensor that the configuration requires does not exist.
    #[error("{}: tensor `{}` is missing", path.display(), Printable::new(name))]
    MissingTensor {
        /// The model's path.
        path: PathBuf,
        /// The tensor's name in that model.
        name: String,
    },
    /// A tensor that the configuration does not require. The model may be an adapter, or of another
    /// architecture.
    #[error("{}: tensor `{}` is not part of a {architecture} model{}", path.display(), Printable::new(name), adapter(name))]
    UnknownTensor {
        /// The model's path.
        path: PathBuf,
        /// The architecture that the model claims to have.
        architecture: &'static str,
        /// The tensor.
        name: String,
    },
    /// The shape of a tensor contradicts the configuration.
    #[error("{}: tensor `{}` has shape {found:?}, but the configuration asks for {expected:?}", path.display(), Printable::new(name))]
    Shape {
        /// The model's path.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Innermost dimension first.
        found: Vec<usize>,
        /// Innermost dimension first.
        expected: Vec<usize>,
    },
    /// The configuration has more layers than there are tensors.
    #[error("{}: the configuration asks for {layers} layers, but there are only {tensors} tensors", path.display())]
    Layers {
        /// The model's path.
        path: PathBuf,
        /// Layers of the configuration.
        layers: usize,
        /// Tensors of the model.
        tensors: usize,
    },
    /// A norm has values that are NaN or infinite, which would make all results NaN.
    #[error("{}: tensor `{}` has values that are NaN or infinite", path.display(), Printable::new(name))]
    NotFinite {
        /// The model's path.
        path: PathBuf,
        /// The tensor's name in that model.
        name: String,
    },
    /// The vocabulary and the embedding have different sizes.
    #[error("{}: the tokenizer has {pieces} pieces, but the embedding has {rows} rows", path.display())]
    Vocabulary {
        /// The model's path.
        path: PathBuf,
        /// Pieces of the vocabulary.
        pieces: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}

/// Adds what to do about a tensor of this name.
fn adapter(name: &str) -> &'static str {
    let parts = [".lora_", ".base_layer.", ".modules_to_save."];
    match parts.iter().any(|part| name.contains(part)) {
        true => ", but of an adapter that was not merged into its base model: merge it first",
        false => "",
    }
}
