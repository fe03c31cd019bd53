//! A SentencePiece vocabulary as data, whether it came from `tokenizer.model`, `tokenizer.json`
//! or a GGUF file. What to do with it is the tokenizer's business.

mod pieces;

pub use pieces::{Piece, Pieces};

use thiserror::Error;

use crate::printable::Printable;

/// What a piece is for; numbers as in SentencePiece and in GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PieceKind {
    /// Made by merging, has a score.
    Normal = 1,
    /// Stands for what nothing else can spell.
    Unknown = 2,
    /// Steers the model (`<bos>`, `<end_of_turn>`); never matched in text that users wrote.
    Control = 3,
    /// Matches the raw text before merging (runs of spaces and newlines, HTML tags).
    UserDefined = 4,
    /// In the vocabulary and never produced.
    Unused = 5,
    /// One byte, `<0x00>` to `<0xFF>`, for text without a piece.
    Byte = 6,
}

impl PieceKind {
    /// The kind with SentencePiece's number `n`.
    pub fn from_number(n: u32) -> Option<Self> {
        use PieceKind::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|k| *k as u32 == n)
    }
}

/// A vocabulary and the rules that go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocab {
    /// By token id.
    pub pieces: Pieces,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of a chat turn (`<end_of_turn>`).
    pub eot: Option<u32>,
    /// Unknown piece.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether a sequence begins with `bos`.
    pub add_bos: bool,
    /// Whether a space is put before the text (never for Gemma).
    pub add_space_prefix: bool,
}

/// Why a vocabulary makes no sense, wherever it came from.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VocabError {
    /// No pieces at all.
    #[error("the vocabulary is empty")]
    Empty,
    /// A tokenizer of another kind.
    #[error("tokenizer model \"{}\" is not supported, only SentencePiece BPE", Printable::new(.0))]
    Model(String),
    /// Two lists that belong together have different lengths.
    #[error("{what} has {found} entries, but there are {pieces} pieces")]
    Length {
        /// The list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// Number of pieces.
        pieces: usize,
    },
    /// A score that cannot be compared.
    #[error("the score of piece {id} is not a number")]
    Score {
        /// The piece.
        id: usize,
    },
    /// A piece whose text is so long that finding it in a text would take forever.
    #[error("piece {id} is {len} bytes long, at most {max} are allowed")]
    TooLong {
        /// The piece.
        id: usize,
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed, in bytes.
        max: usize,
    },
    /// A kind that SentencePiece does not have.
    #[error("piece {id} has the unknown kind {kind}")]
    Kind {
        /// The piece.
        id: usize,
        /// Its kind's number.
        kind: u32,
    },
    /// Two pieces have one id.
    #[error("two pieces have the id {0}")]
    DuplicateId(u32),
    /// An id past the end of the vocabulary.
    #[error("{what} has the id {id}, but the vocabulary has {len} pieces")]
    Id {
        /// What the id is of.
        what: String,
        /// The id.
        id: u64,
        /// Number of pieces.
        len: usize,
    },
    /// A special token is a text that no piece has.
    #[error("{what} is \"{}\", but no piece is", Printable::new(text))]
    NoSuchPiece {
        /// Which special token.
        what: &'static str,
        /// Its text.
        text: String,
    },
}

impl VocabError {
    /// A tokenizer of `pieces` pieces for an embedding of `len` rows.
    pub(crate) fn too_many_pieces(pieces: usize, len: usize) -> Self {
        let what = "the tokenizer's last piece".to_owned();
        Self::Id { what, id: pieces as u64 - 1, len }
    }
}

/// Longest text of a piece, in bytes. Gemma's longest has 93; the time and the depth that a
/// tokenizer takes grow with it.
const MAX_PIECE: usize = 1024;

impl Vocab {
    /// Id of the first piece whose text is `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        let pieces = &self.pieces;
        (0..pieces.len() as u32).find(|id| pieces.text_bytes(*id) == text.as_bytes())
    }

    /// Checks what every reader of a vocabulary has to: pieces there and no longer than can be,
    /// scores comparable, special ids inside.
    pub(crate) fn checked(self) -> Result<Self, VocabError> {
        let len = self.pieces.len();
        if len == 0 {
            return Err(VocabError::Empty);
        }
        if let Some(id) = self.pieces.iter().position(|p| !p.score.is_finite()) {
            return Err(VocabError::Score { id });
        }
        let long = self.pieces.iter().position(|p| p.text.len() > MAX_PIECE);
        if let Some(id) = long {
            let len = self.pieces.text_bytes(id as u32).len();
            return Err(VocabError::TooLong { id, len, max: MAX_PIECE });
        }
        let special = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("unk", self.unk),
            ("pad", self.pad),
        ];
        match special.into_iter().find(|(_, id)| id.is_some_and(|id| id as usize >= len)) {
            Some((what, id)) => {
                let id = id.unwrap_or_default().into();
                Err(VocabError::Id { what: what.to_owned(), id, len })
            }
            None => Ok(self),
        }
    }
}

/// Whether a piece called `text` steers the model, whatever its file says of it: out of reach of
/// text that users wrote.
///
/// SentencePiece's own file has Gemma's turn markers as user-defined, and fine-tunes add markers
/// such as `<|im_start|>` the same way. What else looks special (`<mask>`, `<unused7>`) is matched
/// in text by SentencePiece and by transformers, and does no harm there.
pub(crate) fn is_control_text(text: &str) -> bool {
    let named = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"];
    named.contains(&text) || (text.starts_with("<|") && text.ends_with("|>"))
}
