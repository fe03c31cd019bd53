//! Whether a model's file is sound: everything in it is looked at once, the weights too.

use std::fmt;
use std::path::{Path, PathBuf};

use lapidary_formats::gguf::{Checksum, Checksums, Gguf, GgufError};
use lapidary_formats::printable::Printable;
use lapidary_formats::tensor::TensorView;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use thiserror::Error;

use crate::chat::ChatTemplate;
use crate::convert::Progress;
use crate::model::{Source, SourceError};
use crate::tokenizer::Tokenizer;

/// Characters of a cause that are shown.
const MAX_CAUSE: usize = 1000;

/// Values that are looked at before progress is told and memory is given back.
const PIECE: usize = 4 << 20;

/// What was looked at, and what is wrong.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Tensors of the file.
    pub tensors: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Tensors whose checksum is stored in the file and was compared.
    pub checksums: usize,
    /// Why there are none to compare, if there are none.
    pub no_checksums: Option<&'static str>,
    /// What is wrong, in the file's order.
    pub findings: Vec<Finding>,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file; of a model in several, the one at fault.
    pub path: PathBuf,
    /// The tensor, if it is about one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a file that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The tensor's bytes are not those that were written.
    Checksum {
        /// That of the bytes that were written.
        stored: u64,
        /// That of the bytes that are there.
        found: u64,
    },
    /// Rows have values that are NaN or infinite: a scale of one of their blocks is, for example.
    NotFinite {
        /// How many rows have.
        rows: usize,
        /// The first of them, from 0.
        first: usize,
        /// The first block of that row that has, from 0.
        block: usize,
        /// How many rows there are.
        of: usize,
    },
    /// No model that can be run: what its configuration, tokenizer or template lacks.
    Model(String),
}

/// Why a file cannot be looked at.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It cannot be read, or is no model's file from the beginning: truncated, for example.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The threads cannot be started.
    #[error("cannot start {threads} threads: {error}")]
    Threads {
        /// How many were asked for; 0 stands for one per processor.
        threads: usize,
        /// What is wrong.
        error: rayon::ThreadPoolBuildError,
    },
    /// [`Progress::cancelled`] said so.
    #[error("cancelled")]
    Cancelled,
}

/// Looks at everything in the model at `path`, a GGUF file (with all its splits) or a checkpoint
/// directory: its structure, whether it is a Gemma 2 model with a tokenizer and a template that can
/// be used, and every tensor, whose bytes are compared with their checksum if the file has it, and
/// whose values have to be finite. Memory holds a few megabytes of it at a time. `threads` is one
/// for each processor if not given.
///
/// # Errors
/// If the file cannot be read at all, or `progress` says to stop. Everything else that is wrong is
/// a finding.
pub fn verify(
    path: &Path,
    threads: Option<usize>,
    progress: &mut dyn Progress,
) -> Result<Verified, VerifyError> {
    let threads = threads.unwrap_or(0);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| VerifyError::Threads { threads, error })?;
    let (opened, mut problems) = Opened::open(path)?;
    if let Opened::Source(source) = &opened {
        problems = model_problems(source);
    }
    let whole = |problem| Finding { path: path.to_owned(), tensor: None, problem };
    let tensors = opened.tensors();
    let bytes = tensors.iter().map(|view| view.data.len() as u64).sum();
    progress.started(bytes);
    let (stored, no_checksums) = match opened.gguf().map(Gguf::checksums) {
        Some(Checksums::Stored(stored)) => (stored, None),
        Some(Checksums::Useless(why)) => (Vec::new(), Some(why)),
        Some(Checksums::Absent) | None => (Vec::new(), Some("are not there")),
    };
    let mut verified = Verified {
        tensors: tensors.len(),
        bytes,
        checksums: stored.len(),
        no_checksums,
        findings: problems.into_iter().map(whole).collect(),
    };
    for (i, view) in tensors.iter().enumerate() {
        progress.tensor(view.name);
        let problems = tensor_problems(&opened, view, stored.get(i), &pool, progress)?;
        let path = opened.place(view.data).unwrap_or(path);
        let finding = |problem| Finding {
            path: path.to_owned(),
            tensor: Some(view.name.to_owned()),
            problem,
        };
        verified.findings.extend(problems.into_iter().map(finding));
    }
    Ok(verified)
}

/// What is open: a model, or a GGUF file that is none.
enum Opened {
    Source(Box<Source>),
    Gguf(Box<Gguf>),
}

impl Opened {
    /// Opens `path`. The tensors of a GGUF file can be looked at whatever they are of; then the
    /// reason why it is no model comes with it.
    fn open(path: &Path) -> Result<(Self, Vec<Problem>), VerifyError> {
        match Source::open(path) {
            Ok(source) => Ok((Self::Source(Box::new(source)), Vec::new())),
            Err(error) if path.is_dir() || is_unreadable(&error) => Err(error.into()),
            Err(error) => {
                let gguf = Gguf::open(path).map_err(|e: GgufError| SourceError::Gguf(e))?;
                Ok((Self::Gguf(Box::new(gguf)), vec![Problem::of_model(path, &error)]))
            }
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

    /// The file that a part of a tensor lies in.
    fn place(&self, part: &[u8]) -> Option<&Path> {
        let place = match self {
            Self::Source(source) => source.place(part),
            Self::Gguf(gguf) => gguf.place(part),
        };
        place.map(|(path, _)| path)
    }

    /// Gives back the memory of a part of a tensor.
    fn release(&self, part: &[u8]) {
        match self {
            Self::Source(source) => source.release(part),
            Self::Gguf(gguf) => gguf.release(part),
        }
    }
}

/// Whether a file is not even a GGUF file of something else.
fn is_unreadable(error: &SourceError) -> bool {
    use GgufError::{Malformed, Open, Split};
    let gguf = |error: &GgufError| matches!(error, Malformed { .. } | Open { .. } | Split { .. });
    match error {
        SourceError::Io { .. } => true,
        SourceError::Gguf(error) => gguf(error),
        _ => false,
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
    let spelling = |id: Option<u32>| id.map_or("", |id| vocab.pieces.text(id));
    match source.chat_template() {
        Err(error) => problems.push(Problem::of_model(source.path(), &error)),
        Ok(None) => {}
        Ok(template) => {
            let (bos, eos) = (spelling(vocab.bos), spelling(vocab.eos));
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

/// Every token id that a GGUF file names besides its vocabulary, and what it is called there. Those of
/// a checkpoint were checked when it was opened.
fn token_ids(source: &Source) -> Vec<(String, u64)> {
    let keys = source.gguf().into_iter().flat_map(|gguf| gguf.metadata());
    let ids = keys.filter(|(key, _)| key.ends_with("_token_id"));
    ids.filter_map(|(key, value)| Some((key.to_owned(), value.as_int()?))).collect()
}

/// What is wrong with a tensor, whose checksum is `stored` if the file has one.
fn tensor_problems(
    opened: &Opened,
    view: &TensorView,
    stored: Option<&u64>,
    pool: &ThreadPool,
    progress: &mut dyn Progress,
) -> Result<Vec<Problem>, VerifyError> {
    let (mut checksum, mut rows, mut first) = (Checksum::new(), 0, None);
    let row_bytes = view.data.len() / view.rows();
    let step = (PIECE / view.cols()).max(1);
    for (i, piece) in view.data.chunks(step * row_bytes).enumerate() {
        if progress.cancelled() {
            return Err(VerifyError::Cancelled);
        }
        let hash = || stored.iter().for_each(|_| checksum.update(piece));
        let (_, (more, at)) = pool.join(hash, || not_finite(view, piece, row_bytes));
        rows += more;
        first = first.or(at.map(|(row, block)| (i * step + row, block)));
        opened.release(piece);
        progress.advanced(piece.len() as u64, 0);
    }
    let found = checksum.value();
    let changed = stored.filter(|stored| **stored != found);
    let changed = changed.map(|stored| Problem::Checksum { stored: *stored, found });
    let of = view.rows();
    let not_finite = first.map(|(first, block)| Problem::NotFinite { rows, first, block, of });
    Ok(changed.into_iter().chain(not_finite).collect())
}

/// How many rows of `piece`, a part of `view`, have values that are not finite, and the first with
/// the first block in it.
fn not_finite(
    view: &TensorView,
    piece: &[u8],
    row_bytes: usize,
) -> (usize, Option<(usize, usize)>) {
    let dequantize = view.ty.traits().dequantize;
    let is_bad = |x: &mut Vec<f32>, (i, row): (usize, &[u8])| {
        dequantize(row, x);
        // Every value is looked at, which is faster than to stop at one.
        let finite = x.iter().fold(true, |finite, x| finite & x.is_finite());
        if finite {
            return (0, None);
        }
        let at = x.iter().position(|x| !x.is_finite());
        (1, at.map(|at| (i, at / view.ty.block_len())))
    };
    let rows = piece.par_chunks_exact(row_bytes).enumerate();
    rows.map_init(|| vec![0.0; view.cols()], is_bad).reduce(
        || (0, None),
        |(a, first), (b, second)| (a + b, first.into_iter().chain(second).min()),
    )
}

impl Problem {
    /// An error that names the file `path`, as a finding that does by itself.
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
                "its bytes have changed since they were written: checksum {found:016x}, \
                 {stored:016x} is stored"
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
