//! Hugging Face checkpoints: a directory with `config.json`, safetensors shards and a tokenizer, read
//! as they are downloaded.

mod added;
mod base;
mod config;
mod error;
mod merges;
mod sentencepiece;
mod special_tokens;
mod tokenizer;
mod tokenizer_json;
mod unique;
mod weights;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use config::{directory_name, CheckpointConfig, Others, RopeConfig, StopIds, TextConfig};
pub use error::CheckpointError;

use crate::map::{stand_in, MappedFile};
use crate::tensor::TensorView;
use crate::vocab::Vocab;
use weights::Weights;

/// A checkpoint directory, opened: configuration and tensor descriptions read and checked, shards
/// mapped.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: CheckpointConfig,
    stop_ids: StopIds,
    weights: Weights,
}

impl Checkpoint {
    /// Opens the directory `dir`.
    ///
    /// # Errors
    /// If `config.json` is missing or no configuration, or if weights are missing,
    /// truncated, contradict themselves or have another type than F32, F16 or BF16.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let dir = dir.as_ref().to_owned();
        let (config, stop_ids) = CheckpointConfig::read(&dir)?;
        let stop_ids = stop_ids.or_of_generation(&dir)?;
        let weights = Weights::open(&dir)?;
        Ok(Checkpoint { dir, config, stop_ids, weights })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `config.json` says.
    pub fn config(&self) -> &CheckpointConfig {
        &self.config
    }

    /// The path of `config.json`, for messages.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join(config::CONFIG)
    }

    /// The ids that end a text, as `generation_config.json` has them, or `config.json` where that says
    /// nothing. Whether the vocabulary has them has not been checked.
    pub fn stop_ids(&self) -> &StopIds {
        &self.stop_ids
    }

    /// All tensors, shard after shard, under Hugging Face's names. Shapes have the innermost
    /// dimension first, the reverse of what safetensors and PyTorch print.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.weights.tensors()
    }

    /// The tensor called `name`, such as `model.layers.3.self_attn.q_proj.weight`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.weights.tensor(name)
    }

    /// Whether the weights were found by the names of their files only, because there is neither an
    /// index nor a `model.safetensors`.
    pub fn lacks_index(&self) -> bool {
        self.weights.by_file_name()
    }

    /// The files of the weights.
    pub fn maps(&self) -> impl Iterator<Item = &MappedFile> {
        self.weights.maps()
    }

    /// The file that a part of a tensor lies in, and where.
    pub fn place(&self, part: &[u8]) -> Option<(&Path, Range<usize>)> {
        self.weights.place(part)
    }

    /// Gives back the memory of a part of a tensor, until it is read again.
    pub fn release(&self, part: &[u8]) {
        self.weights.release(part);
    }

    /// The vocabulary, with a piece for every row of the embedding: from `tokenizer.model` if it is
    /// there, else from `tokenizer.json`; pieces of either are renamed, added and given their kinds by
    /// the lists of added tokens beside them. An embedding larger than the tokenizer gets unused
    /// pieces `[PADn]` for the rest, as llama.cpp's converter writes them.
    ///
    /// # Errors
    /// If there is neither file, one is malformed or no BPE, two of them contradict each other, an
    /// added token is matched in a way that GGUF files cannot say, the tokenizer has pieces that the
    /// embedding has not, or there is no embedding.
    pub fn vocab(&self) -> Result<Vocab, CheckpointError> {
        tokenizer::vocab(&self.dir, self.embedding_rows()?)
    }

    /// Rows of the embedding, which decide how large a vocabulary is: nothing larger is allocated,
    /// whatever `config.json` claims. Some checkpoints have it under the name of the output matrix
    /// only, since the two are one.
    fn embedding_rows(&self) -> Result<usize, CheckpointError> {
        let named = |suffix| self.tensors().find(move |tensor| tensor.name.ends_with(suffix));
        let embedding = named("embed_tokens.weight").or_else(|| named("lm_head.weight"));
        let rows = embedding.map(|tensor| tensor.rows());
        rows.ok_or_else(|| CheckpointError::NoEmbedding { dir: self.dir.clone() })
    }

    /// The Jinja source of the chat template: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json` (of several, the one called `default`), or the one that the processor of
    /// a model with vision has in `chat_template.json`; `None` if there is none.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, CheckpointError> {
        let path = self.dir.join("chat_template.jinja");
        match read_if_there(&path)? {
            Some(file) => match std::str::from_utf8(without_mark(file.bytes())) {
                Ok(template) => Ok(Some(template.to_owned())),
                Err(_) => Err(CheckpointError::NotUtf8 { path }),
            },
            None => match tokenizer::chat_template(&self.dir)? {
                Some(template) => Ok(Some(template)),
                None => tokenizer::processor_template(&self.dir),
            },
        }
    }
}

/// The vocabulary of `vocab_size` pieces in a directory that has a tokenizer's files and need not
/// have a model; otherwise as [`Checkpoint::vocab`].
///
/// # Errors
/// As [`Checkpoint::vocab`].
pub fn vocab_from_dir(dir: impl AsRef<Path>, vocab_size: usize) -> Result<Vocab, CheckpointError> {
    tokenizer::vocab(dir.as_ref(), vocab_size)
}

/// Maps a file of a checkpoint.
fn read(path: &Path) -> Result<MappedFile, CheckpointError> {
    let file = MappedFile::open(path)
        .map_err(|error| CheckpointError::Open { path: path.to_owned(), error })?;
    match stand_in(file.bytes()) {
        Some(what) => Err(CheckpointError::StandIn { path: path.to_owned(), what }),
        None => Ok(file),
    }
}

fn read_if_there(path: &Path) -> Result<Option<MappedFile>, CheckpointError> {
    match path.exists() {
        true => read(path).map(Some),
        false => Ok(None),
    }
}

/// The most bytes of a file of settings: Gemma 3's largest has 1.2 MB. Parsed lists may take many
/// times what they take in JSON, where `0,` is an element.
const MAX_SETTINGS: usize = 8 << 20;
/// The most bytes of a file of tables, that is of all tokens or all tensors: Gemma 2's largest has
/// 34 MB.
const MAX_TABLES: usize = 256 << 20;

/// Parses a mapped JSON file of at most `max` bytes; `T` may borrow from it.
fn parse_json<'a, T: serde::Deserialize<'a>>(
    file: &'a MappedFile,
    max: usize,
) -> Result<T, CheckpointError> {
    let len = file.bytes().len();
    if len > max {
        return Err(CheckpointError::TooLarge { path: file.path().to_owned(), len, max });
    }
    if file.bytes().starts_with(b"\xff\xfe") || file.bytes().starts_with(b"\xfe\xff") {
        // UTF-16.
        return Err(CheckpointError::NotUtf8 { path: file.path().to_owned() });
    }
    let bytes = without_mark(file.bytes());
    serde_json::from_slice(bytes)
        .map_err(|error| CheckpointError::Json { path: file.path().to_owned(), error })
}

/// A text without the byte order mark with which some editors on Windows begin every file.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}
