//! From text to token ids.

use lapidary_formats::vocab::PieceKind;

use super::merge::Merger;
use super::{Tokenizer, TokenizerError, SPACE};

/// Whether the spelling of a CONTROL piece in a text means that piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is ordinary text: for whatever users wrote.
    Plain,
    /// It is the piece: for the text of chat templates.
    Trusted,
}

/// The segments of a text as one string, spaces as `▁`.
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

    /// The ids of the segments' texts joined together, without BOS.
    ///
    /// Pieces form across the seams, as if the text were one; only a CONTROL piece has to lie
    /// within one trusted segment.
    pub fn encode_segments<'t>(
        &self,
        segments: impl IntoIterator<Item = (&'t str, Special)>,
    ) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_onto(segments, self.vocab.add_space_prefix, &mut ids);
        ids
    }

    /// Appends the ids of segments that follow other text, whose ids are in `ids`: pieces do not
    /// form across that seam, and there is no space prefix.
    pub fn continue_segments<'t>(
        &self,
        segments: impl IntoIterator<Item = (&'t str, Special)>,
        ids: &mut Vec<u32>,
    ) {
        self.encode_onto(segments, false, ids);
    }

    /// The ids of a text, beginning with BOS where the vocabulary wants one ([`prepend_bos`]).
    ///
    /// [`prepend_bos`]: Self::prepend_bos
    pub fn encode_with_bos(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = self.encode(text, special);
        self.prepend_bos(&mut ids);
        ids
    }

    /// Puts BOS first if the vocabulary wants one and it is not already there, as it is when a
    /// chat template wrote it (<https://github.com/ggml-org/llama.cpp/pull/7332>).
    pub fn prepend_bos(&self, ids: &mut Vec<u32>) {
        if let Some(bos) = self.vocab.bos.filter(|_| self.vocab.add_bos) {
            if ids.first() != Some(&bos) {
                ids.insert(0, bos);
            }
        }
    }

    /// The ids of bytes that need not be UTF-8, without BOS. What is not UTF-8 becomes byte
    /// pieces, where SentencePiece would write U+FFFD, so that decoding gives the same bytes.
    ///
    /// # Errors
    /// If the vocabulary lacks the piece of such a byte.
    pub fn encode_bytes(&self, bytes: &[u8], special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut space_prefix = self.vocab.add_space_prefix;
        // No piece holds half a character, so none could cross from one chunk into the next.
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
        // Where the text starts that is not merged yet, and its last character.
        let (mut start, mut last) = (0, None);
        let mut at = 0;
        for (end, special) in ends {
            // The last match of a segment may reach into the next.
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

    /// Whether some piece may hold the two characters side by side. Where none does, no merge can
    /// cross, and merging the parts by themselves keeps the heap small: mostly it is words.
    fn joins(&self, left: Option<char>, right: Option<char>) -> bool {
        left.zip(right).is_some_and(|pair| self.neighbours.may_contain(pair))
    }

    /// Writes text that no piece spells: in bytes, or else as the unknown piece, one for each run.
    pub(super) fn spell(&self, text: &str, ids: &mut Vec<u32>) {
        let start = ids.len();
        for byte in text.bytes() {
            match (self.bytes[usize::from(byte)], self.vocab.unk) {
                (Some(id), _) => ids.push(id),
                (None, unk) => {
                    ids.truncate(start);
                    // `new` made sure that what lacks a byte has an unknown piece.
                    ids.extend(unk.filter(|unk| ids.last() != Some(unk)));
                    return;
                }
            }
        }
    }
}
