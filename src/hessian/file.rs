//! Statistics in a GGUF file: `NAME.0`, `NAME.1` … are the parts of the columns, sixteen at a time, with
//! the sums down to the row of the last of them; `NAME.held_out` has rows that were held out.

use std::ops::Range;
use std::path::{Path, PathBuf};

use half::bf16;
use lapidary_formats::gguf::{read_metadata, Gguf, GgufError, Value};
use lapidary_formats::map::MappedFile;
use lapidary_formats::quant::{QuantType, Row};
use lapidary_formats::tensor::TensorView;
use thiserror::Error;

use super::about::About;
use super::collect::Extent;
use super::{Inputs, Outputs, ROWS};
use crate::kernels::second_order::Gram;

/// What the files are according to their `general.type`.
pub const KIND: &str = "hessian";
pub(super) const KIND_KEY: &str = "general.type";
/// As in a model that was converted: an unfinished file that has it is ours and may be replaced.
pub(super) const VERSION: &str = "lapidary.version";
/// The key of the fingerprint of the model.
pub(crate) const MODEL: &str = "hessian.model";
pub(super) const DATASETS: &str = "hessian.datasets";
/// The key of the checksum of the text's tokens.
pub(crate) const TEXT: &str = "hessian.text";
pub(super) const TOKENS: &str = "hessian.tokens";
/// The key of the tokens as they were evaluated, chunk after chunk.
pub(super) const TEXT_TOKENS: &str = "hessian.text_tokens";
/// The key of the number of tokens whose gradients the Fisher information is of, if there is any.
pub(crate) const FISHER_TOKENS: &str = "hessian.fisher_tokens";
/// Columns whose products are summed, at most.
pub(super) const LIMIT: &str = "hessian.columns";
pub(super) const CHUNK_SIZE: &str = "hessian.chunk_size";
/// The tensor of the sums of squares of the gradients of logits.
pub(super) const LOGITS: &str = "output.fisher";
/// The tensor of the sums of squares of the embedded tokens times their gradients.
pub(super) const EMBEDDED: &str = "token_embd.fisher";
/// Whether a conversion collected the statistics for itself, and deletes them when it is done.
pub(super) const TEMPORARY: &str = "hessian.temporary";

/// What is wrong with a file of statistics.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is no GGUF file, or a damaged one.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// It is another kind of file.
    #[error("{}: it has no second-order statistics; `lapidary hessian` makes them", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// It has no Fisher information.
    #[error(
        "{}: it has no Fisher information of outputs; `lapidary hessian --fisher` collects it too",
        path.display()
    )]
    NoFisher {
        /// The file.
        path: PathBuf,
    },
    /// It was made of another model.
    #[error("{}: these statistics are those of another model", path.display())]
    Model {
        /// The file.
        path: PathBuf,
    },
    /// Something is not said that has to be.
    #[error("{}: `{key}` is missing or 0", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The metadata's key.
        key: &'static str,
    },
    /// It has values that no inputs give.
    #[error(
        "{}: the tensor {name} has values that cannot be right (NaN, infinite, or squares below zero); \
         `lapidary hessian` makes the file anew",
        path.display()
    )]
    Values {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// It has not what it should have.
    #[error("{}: the tensor {name} is missing or has not {len} values", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// How many values it should have.
        len: usize,
    },
}

/// The names of the texts that the statistics in a file were collected on; none if it has no statistics.
pub fn datasets(path: &Path) -> Vec<String> {
    let Ok(gguf) = Gguf::open(path) else { return Vec::new() };
    let names = gguf.array(DATASETS).ok().flatten();
    let names = names.as_ref().and_then(|names| names.strings()).into_iter().flatten();
    names.map(str::to_owned).collect()
}

/// Whether a conversion collected the statistics in a file for itself, and deletes them when it is done. The
/// file need not be complete. `None` if it has no statistics.
pub fn is_temporary(path: &Path) -> Option<bool> {
    let file = MappedFile::open(path).ok()?;
    let metadata = read_metadata(file.bytes()).ok()?;
    let value = |key| metadata.iter().find(|(k, _)| k == key).map(|(_, value)| *value);
    let is_ours = value(KIND_KEY).and_then(|kind| kind.as_str()) == Some(KIND);
    is_ours.then(|| matches!(value(TEMPORARY), Some(Value::Bool(true))))
}

/// A number that has to be there.
fn number(gguf: &Gguf, key: &'static str) -> Result<usize, FileError> {
    let number = gguf.u64(key)?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| FileError::Key { path: gguf.path().to_owned(), key })
}

/// Statistics that were stored.
#[derive(Debug)]
pub struct HessianFile {
    gguf: Gguf,
    tokens: usize,
    /// See [`super::Options::limit`].
    limit: usize,
}

impl HessianFile {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is not such a file, or those of another model than the one with this fingerprint.
    pub fn open(path: &Path, model: &str) -> Result<Self, FileError> {
        let gguf = Gguf::open(path)?;
        if gguf.str(KIND_KEY)? != Some(KIND) {
            return Err(FileError::Kind { path: path.to_owned() });
        }
        if gguf.str(MODEL)? != Some(model) {
            return Err(FileError::Model { path: path.to_owned() });
        }
        let (tokens, limit) = (number(&gguf, TOKENS)?, number(&gguf, LIMIT)?);
        Ok(Self { gguf, tokens, limit })
    }

    /// Whether these are the statistics that `about` would collect.
    pub fn is(&self, about: &About) -> bool {
        let number = |n: usize| u32::try_from(n).ok();
        self.gguf.str(TEXT).is_ok_and(|text| text == Some(&about.text))
            && self.gguf.u32(TOKENS).is_ok_and(|n| n == number(about.extent.tokens()))
            && self.gguf.u32(CHUNK_SIZE).is_ok_and(|n| n == number(about.extent.n_ctx))
            && self.gguf.u64(LIMIT).is_ok_and(|n| n == Some(about.options.limit as u64))
            && self.gguf.get(TEXT_TOKENS).is_some()
            && (self.has_fisher() || !about.options.fisher)
    }

    fn has_fisher(&self) -> bool {
        self.gguf.get(FISHER_TOKENS).is_some()
    }

    /// Checks that there is the Fisher information of outputs.
    ///
    /// # Errors
    /// If there is none.
    pub fn check_fisher(&self) -> Result<(), FileError> {
        match self.has_fisher() {
            true => Ok(()),
            false => Err(FileError::NoFisher { path: self.gguf.path().to_owned() }),
        }
    }

    /// What tells these statistics from others of the same model and the same sums of squares: the checksum
    /// of the text's tokens, and the most columns that are taken together.
    pub fn id(&self) -> String {
        let text = self.gguf.str(TEXT).ok().flatten().unwrap_or_default();
        format!("{text} {}", self.limit)
    }

    /// The chunks of the text that were summed, as they were evaluated.
    ///
    /// # Errors
    /// If the file does not say.
    pub fn chunks(&self) -> Result<Vec<Vec<u32>>, FileError> {
        let key = || FileError::Key { path: self.gguf.path().to_owned(), key: TEXT_TOKENS };
        let n_ctx = number(&self.gguf, CHUNK_SIZE)?;
        let tokens = self.gguf.array(TEXT_TOKENS)?.and_then(|tokens| tokens.u32s());
        let tokens = tokens.ok_or_else(key)?;
        let chunks = tokens.chunks_exact(n_ctx).enumerate();
        let chunks = chunks.filter(|(i, _)| !Extent::is_held_out(*i));
        let chunks: Vec<_> = chunks.map(|(_, chunk)| chunk.to_vec()).collect();
        if chunks.is_empty() {
            return Err(key());
        }
        Ok(chunks)
    }

    /// Columns whose products with each other were summed, at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The sums of some inputs, by part of their columns.
    ///
    /// # Errors
    /// If they are not there, or cannot be right.
    pub fn grams(&self, inputs: Inputs) -> Result<Vec<Gram>, FileError> {
        self.parts(&inputs.name(), inputs.parts(self.limit), self.tokens)
    }

    /// The number of tokens whose gradients the Fisher information is of; `None` if there is none, or the file
    /// does not say so.
    pub fn gradients(&self) -> Option<usize> {
        let tokens = self.gguf.u32(FISHER_TOKENS).ok().flatten()?;
        usize::try_from(tokens).ok().filter(|tokens| *tokens > 0)
    }

    /// The sums of the squares of the gradients of each logit, `[n_vocab]`, over all
    /// [`gradients`](Self::gradients). `None` if they are not there.
    ///
    /// # Errors
    /// If they have another length, or cannot be right.
    pub fn logits(&self, n_vocab: usize) -> Result<Option<Vec<f32>>, FileError> {
        self.squares(LOGITS, n_vocab)
    }

    /// The sums of the squares of the values of embedded tokens, each times its gradient, `[n_embd]`, over
    /// all [`gradients`](Self::gradients). `None` if they are not there.
    ///
    /// # Errors
    /// If they have another length, or cannot be right.
    pub fn embedded(&self, n_embd: usize) -> Result<Option<Vec<f32>>, FileError> {
        self.squares(EMBEDDED, n_embd)
    }

    fn squares(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, FileError> {
        if self.gguf.tensor(name).is_none() {
            return Ok(None);
        }
        let tensor = self.tensor(name, QuantType::F32, |found| found == len);
        let tensor = tensor.ok_or_else(|| self.missing(name, len))?;
        let values = tensor.data.as_chunks().0.iter();
        let values: Vec<f32> = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match values.iter().all(|x| x.is_finite() && *x >= 0.0) {
            true => Ok(Some(values)),
            false => Err(self.wrong(name.to_owned())),
        }
    }

    /// The Fisher information of the outputs of a matrix, by part of its rows: sums over all
    /// [`gradients`](Self::gradients).
    ///
    /// # Errors
    /// If it is not there: `lapidary hessian --fisher` collects it.
    pub fn fisher(&self, outputs: Outputs) -> Result<Vec<Gram>, FileError> {
        let tokens = number(&self.gguf, FISHER_TOKENS)?;
        self.parts(&outputs.name(), outputs.parts(ROWS), tokens)
    }

    fn parts(
        &self,
        name: &str,
        parts: Vec<Range<usize>>,
        tokens: usize,
    ) -> Result<Vec<Gram>, FileError> {
        let mut grams = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            let name = format!("{name}.{i}");
            let len = 16 * Gram::len(part.len());
            let tensor = self.tensor(&name, QuantType::F32, |found| found == len);
            let tensor = tensor.ok_or_else(|| self.missing(&name, len))?;
            let rows = tensor.data.as_chunks::<64>().0.iter().map(|bytes| {
                let mut row = Row::default();
                for (to, bytes) in row.0.iter_mut().zip(bytes.as_chunks().0) {
                    *to = f32::from_le_bytes(*bytes);
                }
                row
            });
            let gram = Gram::from_sums(part.len(), rows.collect(), tokens);
            self.gguf.release(tensor.data);
            let is_finite = |row: &Row| row.0.iter().all(|x| x.is_finite());
            if !gram.sums().iter().all(is_finite) || gram.diagonal().iter().any(|x| *x < 0.0) {
                return Err(self.wrong(name));
            }
            grams.push(gram);
        }
        Ok(grams)
    }

    /// The rows that were held out, `[rows, cols]`; none if the text was short.
    ///
    /// # Errors
    /// If they have another number of columns, or cannot be right.
    pub fn held_out(&self, inputs: Inputs) -> Result<Vec<f32>, FileError> {
        let name = format!("{}.held_out", inputs.name());
        if self.gguf.tensor(&name).is_none() {
            return Ok(Vec::new());
        }
        let tensor = self.tensor(&name, QuantType::BF16, |len| len.is_multiple_of(inputs.cols));
        let tensor = tensor.ok_or_else(|| self.missing(&name, inputs.cols))?;
        let values = tensor.data.as_chunks().0.iter();
        let values: Vec<f32> = values.map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect();
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(self.wrong(name)),
        }
    }

    /// A tensor of this type and a length that `fits`.
    fn tensor(
        &self,
        name: &str,
        ty: QuantType,
        fits: impl Fn(usize) -> bool,
    ) -> Option<TensorView<'_>> {
        self.gguf.tensor(name).filter(|tensor| tensor.ty == ty && fits(tensor.len()))
    }

    fn missing(&self, name: &str, len: usize) -> FileError {
        FileError::Tensor { path: self.gguf.path().to_owned(), name: name.to_owned(), len }
    }

    fn wrong(&self, name: String) -> FileError {
        FileError::Values { path: self.gguf.path().to_owned(), name }
    }
}
