//! Turns text into token ids.

use lapidary_formats::vocab::PieceKind;

use super::merge::Merger;
use super::{Tokenizer, TokenizerError, SPACE};

/// Whether the spelling of a CONTROL piece in a text becomes that piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// No, it is ordinary text: for everything that users write.
    Plain,
    /// Yes: for the text of chat templates.
    Trusted,
}

/// The segments of a text as one string, with spaces written as `▁`.
struct Normalized {
    text: String,
    /// Where each segment ends in `text`, in bytes.
    ends: Vec<(usize, Special)>,
}

impl Normalized {
    fn new<'t>(segments: impl IntoIterator<Item = (&'t str, Special)>, space_prefix: bool) -> Self {
        let mut text = String::new();
        let mut ends = Vec::new();
        for (segment, special) in segments {
            if space_prefix && text.is_empty() && !segment.is_empty() {
                text.push_str(SPACE);
            }
            for (i, word) in segment.split(' ').enumerate() {
                if i > 0 {
                    text.push_str(SPACE);
                }
                text.push_str(word);
            }
            ends.push((text.len(), special));
        }
        Self { text, ends }
    }
}

impl Tokenizer {
    /// The ids of a text, without BOS.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        self.encode_segments([(text, special)])
    }

    /// The ids of the segments' joined text, without BOS.
    ///
    /// Pieces may cross the borders of segments, as if the text were one string. Only a CONTROL piece
    /// must lie within one trusted segment.
    pub fn encode_segments<'t>(
        &self,
        segments: impl IntoIterator<Item = (&'t str, Special)>,
    ) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_onto(segments, self.vocab.add_space_prefix, &mut ids);
        ids
    }

    /// Appends the ids of segments that follow the text of `ids`. Pieces do not cross that border,
    /// and no space prefix is added.
    pub fn continue_segments<'t>(
        &self,
        segments: impl IntoIterator<Item = (&'t str, Special)>,
        ids: &mut Vec<u32>,
    ) {
        self.encode_onto(segments, false, ids);
    }

    /// The ids of a text, with BOS first if the vocabulary asks for it ([`prepend_bos`]).
    ///
    /// [`prepend_bos`]: Self::prepend_bos
    pub fn encode_with_bos(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = self.encode(text, special);
        self.prepend_bos(&mut ids);
        ids
    }

    /// Puts BOS first if the vocabulary asks for it and it is not there yet; a chat template may have
    /// written it (<https://github.com/ggml-org/llama.cpp/pull/7332>).
    pub fn prepend_bos(&self, ids: &mut Vec<u32>) {
        if let Some(bos) = self.vocab.bos.filter(|_| self.vocab.add_bos) {
            if ids.first() != Some(&bos) {
                ids.insert(0, bos);
            }
        }
    }

    /// The ids of bytes that need not be UTF-8, without BOS. Invalid bytes become byte pieces, so
    /// that decoding gives the same bytes; SentencePiece would encode U+FFFD instead.
    ///
    /// # Errors
    /// If the vocabulary has no piece for such a byte.
    pub fn encode_bytes(&self, bytes: &[u8], special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut space_prefix = self.vocab.add_space_prefix;
        // No piece contains an incomplete character, so none can cross from one chunk to the next.
        for chunk in bytes.utf8_chunks() {
            self.encode_onto([(chunk.valid(), special)], space_prefix, &mut ids);
            space_prefix = false;
            for &byte in chunk.invalid() {
                let id = self.bytes[usize::from(byte)];
                ids.push(id.ok_or(TokenizerError::NoBytePiece(byte))?);
            }
        }
        Ok(ids)
    }

    fn encode_onto<'t>(
        &self,
        segments: impl IntoIterator<Item = (&'t str, Special)>,
        space_prefix: bool,
        ids: &mut Vec<u32>,
    ) {
        let Normalized { text, ends } = Normalized::new(segments, space_prefix);
        let mut merger = Merger::new(self);
        // Where the text begins that has not been merged yet, and the last character read.
        let (mut start, mut last) = (0, None);
        let mut at = 0;
        for (end, special) in ends {
            // The last match of a segment may reach into the next one.
            while at < end {
                let found = self.matcher.longest(&text.as_bytes()[at..], |id, len| {
                    self.kind(id) != PieceKind::Control
                        || (special == Special::Trusted && at + len <= end)
                });
                let next = text[at..].chars().next();
                if found.is_some() || !self.joins(last, next) {
                    merger.merge(&text[start..at], ids);
                    start = at;
                }
                if let Some((id, len)) = found {
                    ids.push(id);
                    (at, start, last) = (at + len, at + len, None);
                } else {
                    (at, last) = (at + next.map_or(0, char::len_utf8), next);
                }
            }
        }
        merger.merge(&text[start..], ids);
    }

    /// Whether some piece may contain the two characters side by side. If none does, no merge can
    /// cross, and the text is split there. That keeps the heap small: most of these parts are words.
    fn joins(&self, left: Option<char>, right: Option<char>) -> bool {
        left.zip(right).is_some_and(|pair| self.neighbours.may_contain(pair))
    }

    /// Appends the ids of text that is not a piece: byte pieces if there are any, otherwise one
    /// unknown piece per run.
    pub(super) fn spell(&self, text: &str, ids: &mut Vec<u32>) {
        let start = ids.len();
        for byte in text.bytes() {
            match (self.bytes[usize::from(byte)], self.vocab.unk) {
                (Some(id), _) => ids.push(id),
                (None, unk) => {
                    ids.truncate(start);
                    // `new` has checked that a vocabulary without all bytes has an unknown piece.
                    ids.extend(unk.filter(|unk| ids.last() != Some(unk)));
                    return;
                }
            }
        }
    }
}
