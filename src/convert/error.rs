//! Why a conversion fails.

use std::io;
use std::path::PathBuf;

use lapidary_formats::gguf::GgufError;
use lapidary_formats::printable::Printable;
use lapidary_formats::quant::QuantType;
use thiserror::Error;

use crate::kernels::ThreadPoolError;
use crate::model::SourceError;

/// Why a conversion failed. Every message names the file. No output file is left behind, and an
/// unfinished one only by [`Unfinished`](Self::Unfinished).
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The source's vocabulary or chat template cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Weights that are not numbers: a broken download, or training that diverged.
    #[error("{}: tensor `{}` has values that are NaN or infinite", path.display(), Printable::new(name))]
    NotFinite {
        /// The model.
        path: PathBuf,
        /// The tensor, by its GGUF name.
        name: String,
    },
    /// Weights too large for the type asked for.
    #[error("{}: tensor `{}` has the value {value}, beyond the range of {ty}", path.display(), Printable::new(name))]
    Overflow {
        /// The model.
        path: PathBuf,
        /// The tensor, by its GGUF name.
        name: String,
        /// The magnitude.
        value: f32,
        /// The type.
        ty: QuantType,
    },
    /// The output is there already.
    #[error("{}: exists already", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output is there and is no file, or is something that is being read.
    #[error("{}: {cause}", path.display())]
    Unsuitable {
        /// The output.
        path: PathBuf,
        /// Why not.
        cause: &'static str,
    },
    /// Too little space for the output.
    #[error("{}: needs {needed} bytes, but only {available} bytes are free there", path.display())]
    Space {
        /// The output.
        path: PathBuf,
        /// Bytes of the finished file.
        needed: u64,
        /// Bytes that the file system has left for this user.
        available: u64,
    },
    /// No file can be created where the output is to be.
    #[error("{}: cannot create a file in its directory: {error}", path.display())]
    Directory {
        /// The output.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The output cannot be looked at, or not be put in its place.
    #[error("{}: {error}", path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process is writing the same output.
    #[error("{}: is being written by another process", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },
    /// What is to be gone on with is the beginning of something else.
    #[error("{}: was begun with the {} {found}, this conversion has {expected}", path.display(), Printable::new(what))]
    OtherConversion {
        /// The unfinished file.
        path: PathBuf,
        /// In what they differ.
        what: String,
        /// Its value in the unfinished file.
        found: String,
        /// Its value in this conversion.
        expected: String,
    },
    /// Something ended the conversion that is no fault of the model; what is finished is kept.
    #[error("{cause}; {finished} of {tensors} tensors are finished in {}", part.display())]
    Unfinished {
        /// The unfinished file.
        part: PathBuf,
        /// Tensors that are complete in it.
        finished: usize,
        /// Tensors of the whole file.
        tensors: usize,
        /// What ended the conversion.
        cause: Box<ConvertError>,
    },
    /// The output cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What is wrong.
        error: GgufError,
    },
    /// The new file cannot be measured.
    #[error("{}: cannot be checked: {error}", path.display())]
    Check {
        /// The output.
        path: PathBuf,
        /// What is wrong.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Even the smallest types exceed what was asked for.
    #[error("{}: a file of {limit} bytes was asked for, but the smallest has {smallest}", path.display())]
    Budget {
        /// The model.
        path: PathBuf,
        /// The most bytes that the file may have.
        limit: u64,
        /// Bytes that it has with the smallest types.
        smallest: u64,
    },
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadPoolError),
    /// [`Progress::cancelled`](super::Progress::cancelled) said so.
    #[error("cancelled")]
    Cancelled,
}
