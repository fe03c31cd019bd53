//! Why a conversion fails.

use std::io;
use std::path::PathBuf;

use lapidary_formats::gguf::GgufError;
use lapidary_formats::printable::Printable;
use lapidary_formats::quant::QuantType;
use thiserror::Error;

use crate::kernels::ThreadPoolError;
use crate::model::SourceError;
use crate::tokenizer::TokenizerError;

/// Why a conversion failed. Every message names the file. No output file is left behind, and an
/// unfinished file only in the case [`Unfinished`](Self::Unfinished).
#[derive(Debug, Error)]
pub enum ConvertError {
    /// Statistics cannot be used.
    #[error(transparent)]
    Hessian(#[from] crate::hessian::FileError),
    /// The text of the statistics cannot be taken through the model.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// The source's vocabulary or chat template cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source's tokenizer cannot be used, so that the new file could not be either.
    #[error("{}: {error}", path.display())]
    Tokenizer {
        /// The model's path.
        path: PathBuf,
        /// What is wrong with its tokenizer.
        error: TokenizerError,
    },
    /// Weights are NaN or infinite: the download is damaged, or training diverged.
    #[error("{}: tensor `{}` has values that are NaN or infinite", path.display(), Printable::new(name))]
    NotFinite {
        /// The model's path.
        path: PathBuf,
        /// The tensor's GGUF name.
        name: String,
    },
    /// A weight is too large for the type.
    #[error("{}: tensor `{}` has the value {value}, beyond the range of {ty}", path.display(), Printable::new(name))]
    Overflow {
        /// The model's path.
        path: PathBuf,
        /// The tensor's GGUF name.
        name: String,
        /// The magnitude of the weight.
        value: f32,
        /// The type.
        ty: QuantType,
    },
    /// The plan asks for a type that is read, but not written.
    #[error("{}: tensor `{}` is to become {ty}, which is read, but not written", path.display(), Printable::new(name))]
    NotWritten {
        /// The model's path.
        path: PathBuf,
        /// The tensor's GGUF name.
        name: String,
        /// The type.
        ty: QuantType,
    },
    /// The output exists.
    #[error("{}: exists already", path.display())]
    Exists {
        /// The output's path.
        path: PathBuf,
    },
    /// The output exists but is not a file that may be replaced.
    #[error("{}: {cause}", path.display())]
    Unsuitable {
        /// The output's path.
        path: PathBuf,
        /// Why it may not be replaced.
        cause: &'static str,
    },
    /// The name of the unfinished file is taken by a file that no unfinished conversion has left
    /// there.
    #[error("{}: is in the way and {}", path.display(), match finished {
        true => "is a finished file",
        false => "was not begun by a conversion",
    })]
    InTheWay {
        /// The path of the unfinished file.
        path: PathBuf,
        /// Whether a conversion wrote it to the end.
        finished: bool,
    },
    /// There is too little space for the output.
    #[error("{}: needs {needed} bytes, but only {available} bytes are free there", path.display())]
    Space {
        /// The output's path.
        path: PathBuf,
        /// Size of the finished file in bytes.
        needed: u64,
        /// Bytes that are free for this user on the file system.
        available: u64,
    },
    /// A file cannot be created in the output's directory.
    #[error("{}: cannot create a file in its directory: {error}", path.display())]
    Directory {
        /// The output's path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The output cannot be read, written or renamed.
    #[error("{}: {error}", path.display())]
    Output {
        /// The output's path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file of the model has changed since the conversion began.
    #[error(
        "{}: has changed while it was read, so that the new file would be a mixture: convert it again",
        path.display()
    )]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// A file of the model has changed since an interrupted conversion.
    #[error(
        "{}: was begun when the files of {} had other sizes, times or inodes",
        path.display(),
        source_path.display()
    )]
    StateChanged {
        /// The path of the unfinished file.
        path: PathBuf,
        /// The model's path.
        source_path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("{}: is being written by another process", path.display())]
    Busy {
        /// The output's path.
        path: PathBuf,
    },
    /// The unfinished file was begun by a different conversion.
    #[error("{}: was begun with the {} {found}, but is to go on with {expected}", path.display(), Printable::new(what))]
    OtherConversion {
        /// The path of the unfinished file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// Its value in the unfinished file.
        found: String,
        /// Its value in this conversion.
        expected: String,
    },
    /// The conversion was stopped by something that is not the model's fault. The finished tensors
    /// are kept.
    #[error("{cause}; {finished} of {tensors} tensors are finished in {}", part.display())]
    Unfinished {
        /// The path of the unfinished file.
        part: PathBuf,
        /// Number of tensors that are complete in it.
        finished: usize,
        /// Number of tensors of the whole file.
        tensors: usize,
        /// What stopped the conversion.
        cause: Box<ConvertError>,
    },
    /// The output cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The output's path.
        path: PathBuf,
        /// What is wrong.
        error: GgufError,
    },
    /// The new file cannot be measured.
    #[error("{}: cannot be checked: {error}", path.display())]
    Check {
        /// The output's path.
        path: PathBuf,
        /// What is wrong.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Even the smallest types exceed the budget.
    #[error("{}: a file of {limit} bytes was asked for, but the smallest has {smallest}", path.display())]
    Budget {
        /// The model's path.
        path: PathBuf,
        /// Largest number of bytes that the file may have.
        limit: u64,
        /// Number of bytes with the smallest types.
        smallest: u64,
    },
    /// Even with the smallest types, a run takes more memory than the budget.
    #[error("{}: {budget} bytes of memory were asked for, but a run needs {}: {besides} bytes besides the file, and the smallest file has {smallest}", path.display(), besides.saturating_add(*smallest))]
    Memory {
        /// The model's path.
        path: PathBuf,
        /// Number of bytes of the budget.
        budget: u64,
        /// Number of bytes that a run takes besides the file: KV cache, buffers and program.
        besides: u64,
        /// Number of bytes of the file with the smallest types.
        smallest: u64,
    },
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadPoolError),
    /// [`Progress::cancelled`](super::Progress::cancelled) returned true.
    #[error("cancelled")]
    Cancelled,
}
