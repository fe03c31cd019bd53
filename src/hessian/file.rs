//! Statistics in a GGUF file: `NAME.0`, `NAME.1` … are the parts of the columns, sixteen at a time, with
//! the sums down to the row of the last of them; `NAME.held_out` has rows that were held out.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::bf16;
use lapidary_formats::gguf::{Checksum, Gguf, GgufError, Header, Writer};
use lapidary_formats::quant::{QuantType, Row};
use lapidary_formats::tensor::TensorView;
use thiserror::Error;

use super::collect::{collect, CollectError, Collected, Extent, Options};
use super::{fisher, Inputs, Outputs, ROWS};
use crate::kernels::second_order::Gram;
use crate::model::{Model, Stream};
use crate::perplexity::chunk;

/// What the files are according to their `general.type`.
pub const KIND: &str = "hessian";
const KIND_KEY: &str = "general.type";
/// As in a model that was converted: an unfinished file that has it is ours and may be replaced.
const VERSION: &str = "lapidary.version";
const MODEL: &str = "hessian.model";
const DATASETS: &str = "hessian.datasets";
/// The checksum of the text's tokens.
const TEXT: &str = "hessian.text";
const TOKENS: &str = "hessian.tokens";
/// The tokens as they were evaluated, chunk after chunk.
const TEXT_TOKENS: &str = "hessian.text_tokens";
/// How many of them the Fisher information is of.
const FISHER_TOKENS: &str = "hessian.fisher_tokens";
/// Columns whose products are summed, at most.
const LIMIT: &str = "hessian.columns";
const CHUNK_SIZE: &str = "hessian.chunk_size";

/// What is wrong with a file of statistics.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is no GGUF file, or a damaged one.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Its header could not be completed.
    #[error("{error}")]
    Seal {
        /// What the system says.
        error: io::Error,
    },
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

/// What a file is about.
#[derive(Clone, Debug)]
pub struct About {
    /// The model's fingerprint.
    model: String,
    /// The name of the text.
    dataset: String,
    /// The checksum of its tokens.
    text: String,
    /// Its tokens as they are evaluated, `[chunks, n_ctx]`.
    tokens: Vec<u32>,
    options: Options,
    extent: Extent,
}

impl About {
    /// The statistics of the model with this fingerprint on `tokens`, a text of the name `dataset` with
    /// BOS first.
    ///
    /// # Errors
    /// If the text does not fill a chunk.
    pub fn new(
        model: String,
        dataset: String,
        tokens: &[u32],
        options: Options,
    ) -> Result<Self, CollectError> {
        let extent = Extent::new(tokens.len(), &options)?;
        let mut checksum = Checksum::new();
        tokens.iter().for_each(|token| checksum.update(&token.to_le_bytes()));
        let text = format!("{:016x}", checksum.value());
        let chunks = (0..extent.chunks).map(|i| chunk(tokens, extent.n_ctx, i, options.bos));
        let tokens = chunks.flatten().collect();
        Ok(Self { model, dataset, text, tokens, options, extent })
    }

    /// The model's fingerprint.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The header of the file.
    ///
    /// # Errors
    /// If the file could not be read again.
    pub fn header(&self, model: &Model<'_>) -> Result<Header, GgufError> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut header = Header::new();
        header.set(KIND_KEY, KIND);
        header.set(VERSION, env!("CARGO_PKG_VERSION"));
        header.set(MODEL, self.model.as_str());
        header.set(DATASETS, vec![self.dataset.clone()]);
        header.set(TEXT, self.text.as_str());
        header.set(TOKENS, number(self.extent.tokens()));
        header.set(CHUNK_SIZE, number(self.extent.n_ctx));
        header.set(LIMIT, self.options.limit as u64);
        header.set(TEXT_TOKENS, self.tokens.clone());
        for inputs in Inputs::of(model.config(), model.output_kind()) {
            let name = inputs.name();
            for (i, part) in inputs.parts(self.options.limit).iter().enumerate() {
                let shape = [16, Gram::len(part.len())];
                header.add_tensor(format!("{name}.{i}"), QuantType::F32, &shape)?;
            }
            if self.extent.held_out_rows() > 0 {
                let shape = [inputs.cols, self.extent.held_out_rows()];
                header.add_tensor(format!("{name}.held_out"), QuantType::BF16, &shape)?;
            }
        }
        if self.options.fisher {
            header.set(FISHER_TOKENS, number(fisher::tokens(&self.extent)));
        }
        let layers = if self.options.fisher { model.config().n_layer() } else { 0 };
        for layer in (0..layers).rev() {
            for outputs in Outputs::of(model.config(), layer) {
                for (i, part) in outputs.parts(ROWS).iter().enumerate() {
                    let shape = [16, Gram::len(part.len())];
                    header.add_tensor(format!("{}.{i}", outputs.name()), QuantType::F32, &shape)?;
                }
            }
        }
        header.reserve_checksums();
        Ok(header)
    }

    /// Says what is going to be collected and what memory it takes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn report(&self, model: &Model<'_>, out: &mut dyn Write) -> io::Result<()> {
        let config = model.config();
        let stream = Stream::bytes(self.extent.chunks * self.extent.n_ctx, config.n_embd);
        let mut all = Inputs::of(config, model.output_kind());
        all.retain(|inputs| inputs.layer() == Some(0));
        let parts = all.iter().flat_map(|inputs| inputs.parts(self.options.limit));
        let sums: usize = parts.map(|part| Gram::len(part.len()) * size_of::<Row>()).sum();
        writeln!(
            out,
            "{} tokens in chunks of {}, {} of them held out; {} MB for their stream and {} MB for sums",
            self.extent.chunks * self.extent.n_ctx,
            self.extent.n_ctx,
            self.extent.chunks * self.extent.n_ctx - self.extent.tokens(),
            stream.div_ceil(1_000_000),
            sums.div_ceil(1_000_000),
        )?;
        for inputs in &all {
            let parts = inputs.parts(self.options.limit);
            if parts.len() > 1 {
                let names = inputs.readers.names().join(", ");
                let (cols, n, each) = (inputs.cols, parts.len(), parts[0].len());
                writeln!(out, "{names} …: {cols} columns in {n} parts of at most {each}")?;
            }
        }
        Ok(())
    }

    /// Collects the statistics and writes them to `file`, which is empty.
    ///
    /// # Errors
    /// Those of [`CollectError`].
    pub fn collect(
        &self,
        model: &Model<'_>,
        tokens: &[u32],
        header: Header,
        mut file: &File,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<(), CollectError> {
        let mut writer =
            Writer::new(BufWriter::new(file), header.clone()).map_err(FileError::from)?;
        let store = &mut |collected| Ok(write(&mut writer, &collected)?);
        collect(model, tokens, self.options, store, progress)?;
        writer.write_checksums().map_err(FileError::from)?;
        writer.finish().map_err(FileError::from)?;
        header.seal(&mut file).map_err(|error| FileError::Seal { error })?;
        Ok(())
    }
}

/// Writes what was collected of one of the inputs.
fn write<W: Write>(writer: &mut Writer<W>, collected: &Collected) -> Result<(), GgufError> {
    for gram in &collected.grams {
        // A few megabytes at a time.
        for rows in gram.sums().chunks(1 << 16) {
            let bytes: Vec<u8> =
                rows.iter().flat_map(|row| row.0).flat_map(f32::to_le_bytes).collect();
            writer.write(&bytes)?;
        }
    }
    if !collected.held_out.is_empty() {
        let bytes: Vec<u8> = collected.held_out.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(&bytes)?;
    }
    Ok(())
}

/// The names of the texts that the statistics in a file were collected on; none if it has no statistics.
pub fn datasets(path: &Path) -> Vec<String> {
    let Ok(gguf) = Gguf::open(path) else { return Vec::new() };
    let names = gguf.array(DATASETS).ok().flatten();
    let names = names.as_ref().and_then(|names| names.strings()).into_iter().flatten();
    names.map(str::to_owned).collect()
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
    /// See [`Options::limit`].
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

    /// The Fisher information of the outputs of a matrix, by part of its rows. Its scale has no meaning.
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
