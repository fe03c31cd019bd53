//! Why there is no tokenizer, or no encoding.

/// Why a vocabulary cannot be used, or bytes cannot be encoded with it.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TokenizerError {
    /// Some text would have no encoding at all.
    #[error("the vocabulary has neither an unknown piece nor a piece for every byte")]
    NoFallback,
    /// Their index would take more memory than all that a model needs besides its weights.
    #[error("the pieces that are found before merging, control pieces and user-defined ones, are too many or too long")]
    TooManyMatched,
    /// Which of the two is meant could not be told.
    #[error("pieces {first} and {second} have the same spelling {text:?}")]
    DuplicatePiece {
        /// The spelling, spaces as `▁`.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A byte piece is spelt `<0x00>` to `<0xFF>`.
    #[error("piece {id} stands for a byte but is spelt {text:?}")]
    BytePiece {
        /// Its id.
        id: u32,
        /// Its spelling.
        text: String,
    },
    /// Merges are ordered by score.
    #[error("the score of piece {id} is not a number")]
    NanScore {
        /// Its id.
        id: u32,
    },
    /// A special id points past the vocabulary.
    #[error("{name} is token {id}, but the vocabulary has {pieces} pieces")]
    SpecialId {
        /// `bos`, `eos`, `eot`, `unk` or `pad`.
        name: &'static str,
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        pieces: usize,
    },
    /// Bytes that are not UTF-8 have no encoding but byte pieces.
    #[error(
        "the text has the byte {0:#04x} outside UTF-8, and the vocabulary has no piece for it"
    )]
    NoBytePiece(u8),
}
