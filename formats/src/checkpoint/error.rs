//! Why a checkpoint cannot be read.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::printable::Printable;
use crate::vocab::VocabError;

/// Why a checkpoint cannot be read. Every message names the file at fault.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file cannot be opened.
    #[error("{}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What a failed download leaves in the place of the file.
    #[error("{}: not the file that was asked for but {what}", path.display())]
    StandIn {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file is far larger than files of its kind ever are.
    #[error("{}: has {len} bytes, but at most {max} are allowed for this file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed, in bytes.
        max: usize,
    },
    /// A file is not valid JSON or does not have the expected fields.
    #[error("{}: {}", path.display(), Printable::new(&error.to_string()))]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        error: serde_json::Error,
    },
    /// A text file is not UTF-8.
    #[error("{}: is not UTF-8 text", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// There is no tensor whose rows could be the vocabulary.
    #[error("{}: there is no tensor embed_tokens.weight", dir.display())]
    NoEmbedding {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has no weights in a supported format.
    #[error("{}: there is neither model.safetensors nor model.safetensors.index.json{hint}", dir.display())]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// What the directory has instead, if that is known.
        hint: &'static str,
    },
    /// The index gives a shard name that is not the name of a file in the directory.
    #[error("{}: shard name \"{}\" of tensor \"{}\" is not a plain file name", path.display(), Printable::new(shard), Printable::new(tensor))]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The shard's name in the index.
        shard: String,
        /// A tensor that the index puts in it.
        tensor: String,
    },
    /// A shard that the index names does not exist.
    #[error("{}: shard \"{}\" is missing", path.display(), Printable::new(shard))]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The shard.
        shard: String,
    },
    /// A tensor is not in the shard where the index puts it.
    #[error("{}: tensor \"{}\" is missing, although the index puts it here", path.display(), Printable::new(tensor))]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor occurs in two shards.
    #[error("{}: tensor \"{}\" occurs in another shard too", path.display(), Printable::new(tensor))]
    DuplicateTensor {
        /// The second shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A safetensors file has an invalid header.
    #[error("{}: not a safetensors file: {}", path.display(), Printable::new(cause))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        cause: String,
    },
    /// A file is shorter or longer than its header says.
    #[error("{}: has {found} bytes, but its header asks for {expected}: the download is incomplete", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The length in bytes that it should have.
        expected: u64,
    },
    /// A tensor's description is inconsistent in itself or with the file.
    #[error("{}: tensor \"{}\": {}", path.display(), Printable::new(tensor), Printable::new(cause))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        cause: String,
    },
    /// Two files of a checkpoint say different things.
    #[error(
        "{}: {}, but in {} {}: which of the two is right cannot be known",
        path.display(),
        Printable::new(what),
        other.display(),
        Printable::new(other_what)
    )]
    Contradiction {
        /// One file.
        path: PathBuf,
        /// What it says.
        what: String,
        /// The name of the other file.
        other: PathBuf,
        /// What that says.
        other_what: String,
    },
    /// An added token is matched in a way that GGUF files have no key for.
    #[error(
        "{}: token `{}` has `{flag}`, which GGUF files cannot say: change it if that is harmless",
        path.display(),
        Printable::new(token)
    )]
    TokenFlag {
        /// The file that lists it.
        path: PathBuf,
        /// The token.
        token: String,
        /// The name of the flag.
        flag: &'static str,
    },
    /// `tokenizer.json` splits texts in another way than Gemma's tokenizers.
    #[error("{}: `{key}` is {}: only Gemma's tokenizers are supported", path.display(), Printable::new(value))]
    TokenizerRule {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Neither `tokenizer.model` nor `tokenizer.json` exists.
    #[error("{}: there is neither tokenizer.model nor tokenizer.json", dir.display())]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },
    /// `tokenizer.model` is not a SentencePiece model.
    #[error("{}: not a SentencePiece model: {error}", path.display())]
    SentencePiece {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: prost::DecodeError,
    },
    /// The vocabulary is invalid.
    #[error("{}: {cause}", path.display())]
    Vocab {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: VocabError,
    },
}
