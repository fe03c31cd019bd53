//! Checks whether a model's file is intact. Everything in it is read once, including the weights.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lapidary_formats::gguf::{Checksum, Checksums, Gguf, GgufError};
use lapidary_formats::printable::Printable;
use lapidary_formats::tensor::TensorView;
use thiserror::Error;

use crate::chat::ChatTemplate;
use crate::convert::Progress;
use crate::hessian::KIND;
use crate::kernels::{all_finite, processors, Cpu, Isa, ThreadPoolError};
use crate::model::{Source, SourceError, STOP_IDS_KEY};
use crate::tokenizer::Tokenizer;

/// Longest cause that is shown, in characters.
const MAX_CAUSE: usize = 1000;

/// Number of values that are checked before progress is reported and memory is released.
const CHUNK_VALUES: usize = 4 << 20;

/// Number of values that a thread checks at a time, in whole rows.
const ITEM_VALUES: usize = 1 << 14;

/// What was checked, and what is wrong.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What the file has.
    pub contents: Contents,
    /// Number of tensors in the file.
    pub tensors: usize,
    /// Their total size in bytes.
    pub bytes: u64,
    /// Number of tensors whose checksum is stored in the file and was compared.
    pub checksums: usize,
    /// Why no checksums could be compared; follows the word "checksums".
    pub no_checksums: Option<&'static str>,
    /// What is wrong, in the order of the file.
    pub findings: Vec<Finding>,
}

/// What a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A model, as far as it is one.
    Model,
    /// Second-order statistics.
    Hessian,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file; of a split model, the split file at fault.
    pub path: PathBuf,
    /// The tensor, if the problem is in one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a readable file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The tensor's bytes are not those that were written.
    Checksum {
        /// The checksum of the bytes that were written.
        stored: u64,
        /// The checksum of the bytes that are in the file.
        found: u64,
    },
    /// Some rows have values that are NaN or infinite, for example because a block's scale is.
    NotFinite {
        /// Number of such rows.
        rows: usize,
        /// The first such row, from 0.
        first: usize,
        /// The first such block in that row, from 0.
        block: usize,
        /// Number of rows in the tensor.
        of: usize,
    },
    /// The header is not the one that was written: its metadata or the descriptions of the tensors have
    /// changed.
    Header,
    /// It is not a model that can be run: what is wrong with its configuration, tokenizer or template.
    Model(String),
}

/// Why a file cannot be checked.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It cannot be read at all, or is not a model's file; it may be truncated, for example.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadPoolError),
    /// [`Progress::cancelled`] returned true.
    #[error("cancelled")]
    Cancelled,
}

/// Checks everything in the model at `path`, a GGUF file (with all its split files) or a checkpoint
/// directory, or in a file of second-order statistics: the structure of the files; whether it is a Gemma 2 model with a usable tokenizer and
/// template; and all tensors. Their bytes are compared with their checksums if the file has them, and
/// their values must be finite. Only a few megabytes are in memory at a time. `threads` defaults to
/// one per processor.
///
/// # Errors
/// If the file cannot be read at all, or `progress` cancels. Everything else that is wrong is a
/// finding.
pub fn verify(
    path: &Path,
    threads: Option<usize>,
    progress: &mut dyn Progress,
) -> Result<Verified, VerifyError> {
    let threads = threads.and_then(NonZeroUsize::new).unwrap_or_else(processors);
    let cpu = Cpu::new(Some(threads), Isa::best())?;
    let (opened, mut problems) = Opened::open(path)?;
    if let Opened::Source(source) = &opened {
        problems = model_problems(source);
    }
    if opened.gguf().is_some_and(|gguf| !gguf.has_intact_header()) {
        problems.insert(0, Problem::Header);
    }
    let of_file = |problem| Finding { path: path.to_owned(), tensor: None, problem };
    let tensors = opened.tensors();
    let bytes = tensors.iter().map(|view| view.data.len() as u64).sum();
    progress.started(bytes);
    let (stored, no_checksums) = match opened.gguf().map(Gguf::checksums) {
        Some(Checksums::Stored(stored)) => (stored, None),
        Some(Checksums::Useless(why)) => (Vec::new(), Some(why)),
        Some(Checksums::Absent) | None => (Vec::new(), Some("are missing")),
    };
    let mut verified = Verified {
        contents: opened.contents(),
        tensors: tensors.len(),
        bytes,
        checksums: stored.len(),
        no_checksums,
        findings: problems.into_iter().map(of_file).collect(),
    };
    for (i, view) in tensors.iter().enumerate() {
        progress.tensor(view.name);
        let problems = tensor_problems(&opened, view, stored.get(i), &cpu, progress)?;
        let path = opened.path_of(view.data).unwrap_or(path);
        let finding = |problem| Finding {
            path: path.to_owned(),
            tensor: Some(view.name.to_owned()),
            problem,
        };
        verified.findings.extend(problems.into_iter().map(finding));
    }
    Ok(verified)
}

/// What was opened: a model, or a GGUF file that is not a model.
enum Opened {
    Source(Box<Source>),
    Gguf(Box<Gguf>),
}

impl Opened {
    /// Opens `path`. The tensors of a GGUF file can be checked even if it is not a model. The problem
    /// that makes it none is returned with it.
    fn open(path: &Path) -> Result<(Self, Vec<Problem>), VerifyError> {
        match Source::open(path) {
            Ok(source) => Ok((Self::Source(Box::new(source)), Vec::new())),
            Err(error) if path.is_dir() || !is_readable_gguf(&error) => Err(error.into()),
            Err(error) => {
                let gguf = Gguf::open(path).map_err(|e: GgufError| SourceError::Gguf(e))?;
                let opened = Self::Gguf(Box::new(gguf));
                let problems = match opened.contents() {
                    Contents::Model => vec![Problem::of_model(path, &error)],
                    Contents::Hessian => Vec::new(),
                };
                Ok((opened, problems))
            }
        }
    }

    fn contents(&self) -> Contents {
        match self {
            Self::Gguf(gguf) if matches!(gguf.str("general.type"), Ok(Some(KIND))) => {
                Contents::Hessian
            }
            _ => Contents::Model,
        }
    }

    fn gguf(&self) -> Option<&Gguf> {
        match self {
            Self::Source(source) => source.gguf(),
            Self::Gguf(gguf) => Some(gguf),
        }
    }

    /// All tensors, in the files' order.
    fn tensors(&self) -> Vec<TensorView<'_>> {
        match self {
            Self::Gguf(gguf) => gguf.tensors().collect(),
            Self::Source(source) => match (source.gguf(), source.checkpoint()) {
                (Some(gguf), _) => gguf.tensors().collect(),
                (_, Some(checkpoint)) => checkpoint.tensors().collect(),
                _ => Vec::new(),
            },
        }
    }

    /// The file that `part`, bytes of a tensor, lies in.
    fn path_of(&self, part: &[u8]) -> Option<&Path> {
        let place = match self {
            Self::Source(source) => source.place(part),
            Self::Gguf(gguf) => gguf.place(part),
        };
        place.map(|(path, _)| path)
    }

    /// Releases the memory of `part`, bytes of a tensor.
    fn release(&self, part: &[u8]) {
        match self {
            Self::Source(source) => source.release(part),
            Self::Gguf(gguf) => gguf.release(part),
        }
    }
}

/// Whether the file with this error can still be read as a GGUF file.
fn is_readable_gguf(error: &SourceError) -> bool {
    use GgufError::{Malformed, Open, Split};
    match error {
        SourceError::Io { .. } | SourceError::WrongPath { .. } => false,
        SourceError::Gguf(error) => !matches!(error, Malformed { .. } | Open { .. } | Split { .. }),
        _ => true,
    }
}

/// What is wrong with a model's tokenizer and template.
fn model_problems(source: &Source) -> Vec<Problem> {
    let vocab = match source.vocab() {
        Ok(vocab) => vocab,
        Err(error) => return vec![Problem::of_model(source.path(), &error)],
    };
    let mut problems = Vec::new();
    let pieces = vocab.pieces.len();
    for (what, id) in token_ids(source) {
        if id >= pieces as u64 {
            problems.push(Problem::Model(format!(
                "{what} is token {id}, but the vocabulary has {pieces} pieces"
            )));
        }
    }
    let text = |id: Option<u32>| id.map_or("", |id| vocab.pieces.text(id));
    match source.chat_template() {
        Err(error) => problems.push(Problem::of_model(source.path(), &error)),
        Ok(None) => {}
        Ok(template) => {
            let (bos, eos) = (text(vocab.bos), text(vocab.eos));
            if let Err(error) = ChatTemplate::new(template.as_deref(), bos, eos) {
                problems.push(Problem::Model(error.to_string()));
            }
        }
    }
    if let Err(error) = Tokenizer::new(vocab) {
        problems.push(Problem::Model(error.to_string()));
    }
    problems
}

/// The token ids that a GGUF file names outside the vocabulary, and the names of their keys. Those of a
/// checkpoint were checked when it was opened.
fn token_ids(source: &Source) -> Vec<(String, u64)> {
    let keys = source.gguf().into_iter().flat_map(|gguf| gguf.metadata());
    let ids = keys.filter(|(key, _)| key.ends_with("_token_id") || *key == STOP_IDS_KEY);
    let ids = ids.flat_map(|(key, value)| {
        let list = value.as_array().map(|list| list.values().collect()).unwrap_or(vec![value]);
        list.into_iter().filter_map(move |id| Some((key.to_owned(), id.as_int()?)))
    });
    ids.collect()
}

/// What is wrong with a tensor. `stored` is its checksum, if the file has one.
fn tensor_problems(
    opened: &Opened,
    view: &TensorView,
    stored: Option<&u64>,
    cpu: &Cpu,
    progress: &mut dyn Progress,
) -> Result<Vec<Problem>, VerifyError> {
    let (mut checksum, mut rows, mut first) = (Checksum::new(), 0, None);
    let row_bytes = view.data.len() / view.rows();
    let step = (CHUNK_VALUES / view.cols()).max(1);
    for (i, chunk) in view.data.chunks(step * row_bytes).enumerate() {
        if progress.cancelled() {
            return Err(VerifyError::Cancelled);
        }
        let hash = || stored.iter().for_each(|_| checksum.update(chunk));
        let (more, at) = not_finite(view, chunk, row_bytes, cpu, hash);
        rows += more;
        first = first.or(at.map(|(row, block)| (i * step + row, block)));
        opened.release(chunk);
        progress.advanced(chunk.len() as u64, 0);
    }
    let found = checksum.value();
    let changed = stored.filter(|stored| **stored != found);
    let changed = changed.map(|stored| Problem::Checksum { stored: *stored, found });
    let of = view.rows();
    let not_finite = first.map(|(first, block)| Problem::NotFinite { rows, first, block, of });
    Ok(changed.into_iter().chain(not_finite).collect())
}

/// How many rows of `chunk`, some rows of `view`, have values that are not finite; and the first such
/// row with its first such block. Meanwhile `beside` is called.
fn not_finite(
    view: &TensorView,
    chunk: &[u8],
    row_bytes: usize,
    cpu: &Cpu,
    beside: impl FnOnce(),
) -> (usize, Option<(usize, usize)>) {
    let found = Mutex::new((0, None));
    let check = |x: &mut [f32], i: usize, row: &[u8]| {
        (view.ty.traits().dequantize)(row, x);
        if all_finite(x) {
            return;
        }
        let at = x.iter().position(|x| !x.is_finite());
        let at = at.map(|at| (i, at / view.ty.block_len()));
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, first) = *found;
        *found = (rows + 1, first.into_iter().chain(at).min());
    };
    let step = (ITEM_VALUES / view.cols()).max(1);
    let items = chunk.chunks(step * row_bytes).enumerate();
    let work = |x: &mut Vec<f32>, (item, rows): (usize, &[u8])| {
        let rows = rows.chunks_exact(row_bytes).enumerate();
        rows.for_each(|(i, row)| check(x, item * step + i, row));
    };
    cpu.for_each_beside(beside, items, || vec![0.0; view.cols()], work);
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Problem {
    /// Turns an error about the file `path` into a problem. A finding names the file itself, so the
    /// path is removed.
    fn of_model(path: &Path, error: &SourceError) -> Self {
        let (text, name) = (error.to_string(), format!("{}: ", path.display()));
        Self::Model(text.strip_prefix(&name).unwrap_or(&text).to_owned())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum { stored, found } => write!(
                f,
                "its bytes have changed since they were written: their checksum is {found:016x}, but \
                 {stored:016x} is stored"
            ),
            Self::Header => f.write_str(
                "its metadata or the descriptions of its tensors have changed since they were written",
            ),
            Self::NotFinite { rows, first, block, of } => {
                let have = if *rows == 1 { "has" } else { "have" };
                write!(
                    f,
                    "{rows} of {of} rows {have} values that are NaN or infinite, the first row {first} in \
                     block {block}"
                )
            }
            Self::Model(cause) => Printable::new(cause).at_most(MAX_CAUSE).fmt(f),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor `{}`: ", Printable::new(tensor))?;
        }
        self.problem.fmt(f)
    }
}
