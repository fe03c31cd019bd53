//! Why a vocabulary cannot be used, or bytes cannot be encoded with it.

/// Why a vocabulary cannot be used, or bytes cannot be encoded with it.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TokenizerError {
    /// There would be texts without an encoding.
    #[error("the vocabulary has neither an unknown piece nor a piece for every byte")]
    NoFallback,
    /// The index of these pieces would take more memory than everything else that a model needs
    /// besides its weights.
    #[error("the pieces that are matched before merging (control and user-defined ones) are too many or too long")]
    TooManyMatched,
    /// Two pieces have the same text, so that its encoding would be ambiguous.
    #[error("pieces {first} and {second} have the same spelling {text:?}")]
    DuplicatePiece {
        /// The text, with spaces as `▁`.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A byte piece is not called `<0x00>` to `<0xFF>`.
    #[error("piece {id} stands for a byte but is spelled {text:?}")]
    BytePiece {
        /// Its id.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A score is NaN, but merges are ordered by score.
    #[error("the score of piece {id} is not a number")]
    NanScore {
        /// Its id.
        id: u32,
    },
    /// A special id is outside the vocabulary.
    #[error("{name} is token {id}, but the vocabulary has {pieces} pieces")]
    SpecialId {
        /// `bos`, `eos`, `eot`, `unk` or `pad`.
        name: &'static str,
        /// The id.
        id: u32,
        /// Number of pieces in the vocabulary.
        pieces: usize,
    },
    /// Bytes that are not UTF-8 can only be encoded as byte pieces.
    #[error(
        "the text has the byte {0:#04x}, which is not UTF-8, and the vocabulary has no piece for it"
    )]
    NoBytePiece(u8),
}
