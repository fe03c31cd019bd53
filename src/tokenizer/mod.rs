//! SentencePiece BPE with scores: text to token ids and back.
//!
//! Text becomes symbols, one for each character, after spaces are written as `▁` (U+2581).
//! USER_DEFINED pieces, and CONTROL pieces where the text is [`Special::Trusted`], are found first,
//! the longest at each place, and merge no further (`matcher.rs`). Of the rest, the adjacent pair
//! that forms the piece of the highest score is merged until no pair forms a piece (`merge.rs`).
//! What is left without a piece is spelt in bytes.
//!
//! The ids are those of SentencePiece (<https://github.com/google/sentencepiece>) on the same
//! vocabulary. For every text `decode(encode(text)) == text`, except that a literal `▁` comes
//! back as a space, which is SentencePiece's rule as well.

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
    /// The ids by spelling.
    index: Index,
    /// Characters that stand side by side in a piece that merging may form.
    neighbours: Neighbours,
    /// The pieces that are found in text before merging (USER_DEFINED, CONTROL).
    matcher: Matcher,
    /// The id of each byte's piece.
    bytes: [Option<u32>; 256],
}

impl Tokenizer {
    /// Indexes a vocabulary.
    ///
    /// Pieces spelt with plain spaces, as some GGUF files have them, count as spelt with `▁`.
    /// Pieces without text, which some files use as padding, are never produced.
    ///
    /// # Errors
    /// If some text could not be encoded (neither an unknown piece nor a piece for every byte),
    /// there are far more pieces to be found before merging than Gemma has,
    /// two pieces have one spelling, a byte piece is not `<0xNN>`, a score is not a number, or
    /// one of the vocabulary's special ids has no piece.
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

    /// Bytes of memory that the tables take: the pieces, where they are in the heap, and the
    /// indexes over them.
    pub fn heap_bytes(&self) -> usize {
        self.vocab.pieces.heap_bytes()
            + self.index.heap_bytes()
            + self.neighbours.heap_bytes()
            + self.matcher.heap_bytes()
    }

    /// What [`heap_bytes`](Self::heap_bytes) will be for a GGUF file's `n` pieces, before there is
    /// a tokenizer: for each piece [`Pieces::HEAP_BYTES`] and its places in two hash tables, whose
    /// sizes are powers of two; and the few hundred that Gemma 2 has to be found before merging.
    pub fn predicted_heap_bytes(n: usize) -> usize {
        n * Pieces::HEAP_BYTES
            + Index::predicted_heap_bytes(n)
            + Neighbours::new(n).heap_bytes()
            + Matcher::GEMMA2_HEAP_BYTES
    }

    /// The piece that symbols merge to, if there is one. CONTROL pieces never come of merging.
    fn merged(&self, text: &str) -> Option<u32> {
        let id = self.index.get(&self.vocab.pieces, text)?;
        matches!(self.kind(id), PieceKind::Normal | PieceKind::Unused).then_some(id)
    }

    fn kind(&self, id: u32) -> PieceKind {
        self.vocab.pieces.kind(id)
    }
}

/// How a piece is spelt in normalized text.
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

/// The byte of a piece spelt `<0xNN>`.
fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    // from_str_radix alone would take "+F".
    let two_digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    two_digits.then(|| u8::from_str_radix(hex, 16).ok())?
}
