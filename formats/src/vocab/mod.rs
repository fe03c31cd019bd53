//! A SentencePiece vocabulary as data, whether it came from `tokenizer.model`, `tokenizer.json`
//! or a GGUF file. How text is split with it is up to the tokenizer.

mod pieces;

pub use pieces::{Piece, Pieces};

use thiserror::Error;

use crate::printable::Printable;

/// The kind of a piece; numbers as in SentencePiece and in GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PieceKind {
    /// Made by merging; has a score.
    Normal = 1,
    /// Stands for text that no other piece can spell.
    Unknown = 2,
    /// Controls the model (`<bos>`, `<end_of_turn>`); never matched in text that users wrote.
    Control = 3,
    /// Matched in the raw text before merging (runs of spaces and newlines, HTML tags).
    UserDefined = 4,
    /// In the vocabulary but never produced.
    Unused = 5,
    /// One byte, `<0x00>` to `<0xFF>`, for text that has no piece.
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
    /// The pieces, by token id.
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
    /// Whether its files ask for an end after every text (`add_eos_token`). That is meant for
    /// training: an end after a prompt leaves nothing to answer. No text gets one here.
    pub add_eos: bool,
    /// Tokens and ids that its files name and that have no piece, such as a padding token that was
    /// added after training. Sorted.
    pub left_out: Vec<String>,
}

/// Why a vocabulary is invalid, whichever file it came from.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VocabError {
    /// No pieces at all.
    #[error("the vocabulary is empty")]
    Empty,
    /// The tokenizer is not SentencePiece BPE.
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
    /// A score is NaN or infinite.
    #[error("the score of piece {id} is not a number")]
    Score {
        /// The piece.
        id: usize,
    },
    /// A piece's text is so long that searching a text for it would take too long.
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
    /// Two pieces have the same id.
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
    /// A special token's text is not in the vocabulary.
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

/// Longest text of a piece, in bytes. Gemma's longest has 93. The tokenizer's time and recursion
/// depth grow with it.
const MAX_PIECE: usize = 1024;

impl Vocab {
    /// Id of the first piece whose text is `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        let pieces = &self.pieces;
        (0..pieces.len() as u32).find(|id| pieces.text_bytes(*id) == text.as_bytes())
    }

    /// The ids of the pieces at which a model ends its answer, by the names that are in use for them.
    /// llama.cpp's list, apart from names that other families than Gemma use for something else.
    /// Only control pieces count: `</s>` is a tag of HTML in Gemma's vocabulary.
    pub fn ends(&self) -> impl Iterator<Item = u32> + '_ {
        const ENDS: [&str; 14] = [
            "<eos>",
            "<end_of_turn>",
            "<turn|>",
            "<|im_end|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<|end|>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "</s>",
            "<EOT>",
            "[EOT]",
            "[EOS]",
            "<end_of_utterance>",
        ];
        let control = |id: &u32| self.pieces.kind(*id) == PieceKind::Control;
        let ids = (0..self.pieces.len() as u32).filter(control);
        ids.filter(|id| ENDS.contains(&self.pieces.text(*id)))
    }

    /// Makes the checks that every reader of a vocabulary needs: there are pieces, none is too long,
    /// scores are finite, and texts begin with a piece. Leaves out other special ids without a piece.
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
        match self.bos.filter(|id| *id as usize >= len) {
            Some(id) => Err(VocabError::Id { what: "bos".to_owned(), id: id.into(), len }),
            None => Ok(self.without_ids_beyond(len)),
        }
    }

    /// Leaves out special ids without a piece, which some files have because a token was added after
    /// training. No model can write such a token.
    fn without_ids_beyond(mut self, len: usize) -> Self {
        let special = [
            ("eos", &mut self.eos),
            ("eot", &mut self.eot),
            ("unk", &mut self.unk),
            ("pad", &mut self.pad),
        ];
        for (what, id) in special {
            if let Some(beyond) = id.take_if(|id| *id as usize >= len) {
                self.left_out.push(format!("{what} (token {beyond})"));
            }
        }
        self.left_out.sort();
        self.left_out.dedup();
        self
    }
}

/// Whether a piece called `text` is treated as a control token, whatever kind its file gives it, so
/// that text written by users never produces it.
///
/// SentencePiece's own file marks Gemma's turn markers as user-defined, and fine-tunes add markers
/// such as `<|im_start|>` the same way. SentencePiece and transformers match other texts that look
/// special (`<mask>`, `<unused7>`) in text, where they do no harm.
pub(crate) fn is_control_text(text: &str) -> bool {
    let named = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"];
    named.contains(&text) || (text.starts_with("<|") && text.ends_with("|>"))
}
