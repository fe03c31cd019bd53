//! SentencePiece BPE with scores: text to token ids and back.
//!
//! Text becomes symbols, one per character, after spaces have been replaced by `▁` (U+2581).
//! USER_DEFINED pieces, and CONTROL pieces where the text is [`Special::Trusted`], are matched first.
//! The longest match at each position wins, and it is not merged further (`matcher.rs`). In the rest,
//! the adjacent pair that forms the piece with the highest score is merged, until no pair forms a
//! piece (`merge.rs`). Text that is still not a piece is spelled in bytes.
//!
//! The ids are those of SentencePiece (<https://github.com/google/sentencepiece>) with the same
//! vocabulary. For every text `decode(encode(text)) == text`, except that a literal `▁` becomes a
//! space. SentencePiece does the same.

mod decode;
mod encode;
mod error;
mod index;
mod matcher;
mod merge;
mod neighbours;

pub use decode::{ControlPieces, Decoder};
pub use encode::Special;
pub use error::TokenizerError;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use index::Index;
use lapidary_formats::vocab::{PieceKind, Pieces, Vocab};
use matcher::Matcher;
use neighbours::Neighbours;

/// How SentencePiece writes a space inside pieces (U+2581).
const SPACE: &str = "\u{2581}";

/// Encodes text into the ids of one vocabulary and decodes ids into text.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    /// The ids by text.
    index: Index,
    /// Pairs of characters that are adjacent in pieces that merging may form.
    neighbours: Neighbours,
    /// The pieces that are matched in text before merging (USER_DEFINED, CONTROL).
    matcher: Matcher,
    /// For each byte, the id of its piece.
    bytes: [Option<u32>; 256],
}

impl Tokenizer {
    /// Indexes a vocabulary.
    ///
    /// A piece with plain spaces, as in some GGUF files, is treated as if it had `▁`. Pieces without
    /// text, which some files use as padding, are never produced.
    ///
    /// # Errors
    /// If some text could not be encoded (there is neither an unknown piece nor a piece for every
    /// byte), if far more pieces are to be matched before merging than Gemma has, if two pieces have
    /// the same text, if a byte piece is not called `<0xNN>`, if a score is NaN, or if one of the
    /// vocabulary's special ids is outside of it.
    pub fn new(vocab: Vocab) -> Result<Self, TokenizerError> {
        check_special_ids(&vocab)?;
        let mut index = Index::new(vocab.pieces.len());
        let mut neighbours = Neighbours::new(vocab.pieces.len());
        let mut matcher = Matcher::default();
        let mut bytes = [None; 256];
        for (id, piece) in (0u32..).zip(vocab.pieces.iter()) {
            let text = spelling(&piece.text);
            if text.is_empty() {
                continue;
            }
            if piece.score.is_nan() {
                return Err(TokenizerError::NanScore { id });
            }
            match piece.kind {
                PieceKind::Normal | PieceKind::Unused => neighbours.insert(&text),
                PieceKind::UserDefined | PieceKind::Control => {
                    matcher.insert(&text, id)?;
                }
                PieceKind::Unknown => {}
                PieceKind::Byte => {
                    let byte = parse_byte(&text)
                        .ok_or_else(|| TokenizerError::BytePiece { id, text: text.to_string() })?;
                    bytes[usize::from(byte)] = Some(id);
                }
            }
            if let Some(first) = index.insert(&vocab.pieces, &text, id) {
                let text = text.into_owned();
                return Err(TokenizerError::DuplicatePiece { text, first, second: id });
            }
        }
        if vocab.unk.is_none() && bytes.contains(&None) {
            return Err(TokenizerError::NoFallback);
        }
        Ok(Self { vocab, index, neighbours, matcher, bytes })
    }

    /// The vocabulary that the ids belong to.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Bytes of heap memory that the pieces and the indexes over them take.
    pub fn heap_bytes(&self) -> usize {
        self.vocab.pieces.heap_bytes()
            + self.index.heap_bytes()
            + self.neighbours.heap_bytes()
            + self.matcher.heap_bytes()
    }

    /// What [`heap_bytes`](Self::heap_bytes) will be for a GGUF file's `n` pieces, before there is
    /// a tokenizer: for each piece [`Pieces::HEAP_BYTES`] and its entries in two hash tables, whose
    /// sizes are powers of two; and the few hundred pieces that Gemma 2 matches before merging.
    pub fn predicted_heap_bytes(n: usize) -> usize {
        n * Pieces::HEAP_BYTES
            + Index::predicted_heap_bytes(n)
            + Neighbours::new(n).heap_bytes()
            + Matcher::GEMMA2_HEAP_BYTES
    }

    /// The piece that symbols merge to, if there is one. Merging never gives CONTROL pieces.
    fn merged(&self, text: &str) -> Option<u32> {
        let id = self.index.get(&self.vocab.pieces, text)?;
        matches!(self.kind(id), PieceKind::Normal | PieceKind::Unused).then_some(id)
    }

    fn kind(&self, id: u32) -> PieceKind {
        self.vocab.pieces.kind(id)
    }
}

/// The text of a piece in normalized form, with spaces as `▁`.
fn spelling(text: &str) -> Cow<'_, str> {
    match text.contains(' ') {
        true => text.replace(' ', SPACE).into(),
        false => text.into(),
    }
}

fn check_special_ids(vocab: &Vocab) -> Result<(), TokenizerError> {
    let named = [
        ("bos", vocab.bos),
        ("eos", vocab.eos),
        ("eot", vocab.eot),
        ("unk", vocab.unk),
        ("pad", vocab.pad),
    ];
    let pieces = vocab.pieces.len();
    for (name, id) in named {
        if let Some(id) = id.filter(|id| *id as usize >= pieces) {
            return Err(TokenizerError::SpecialId { name, id, pieces });
        }
    }
    Ok(())
}

/// The byte of a piece called `<0xNN>`.
fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    // `from_str_radix` alone would accept "+F".
    let two_digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    two_digits.then(|| u8::from_str_radix(hex, 16).ok())?
}
