//! Turns token ids into text, all at once or as they arrive.

use lapidary_formats::vocab::PieceKind;

use super::{parse_byte, Tokenizer, SPACE};

/// The text that SentencePiece gives for the unknown piece.
const UNKNOWN: &str = " \u{2047} ";

/// What decoding does with CONTROL pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlPieces {
    /// They give no text.
    Omit,
    /// Their spelling is shown.
    Show,
}

impl Tokenizer {
    /// The bytes of `ids`. An id outside the vocabulary is decoded like the unknown piece.
    pub fn decode_bytes(&self, ids: &[u32], control: ControlPieces) -> Vec<u8> {
        let mut bytes = Vec::new();
        for id in ids {
            self.decode_onto(*id, control, &mut bytes);
        }
        if self.vocab.add_space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], control: ControlPieces) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, control)).into_owned()
    }

    /// A decoder for ids that arrive one at a time.
    pub fn stream(&self, control: ControlPieces) -> Decoder<'_> {
        Decoder { tokenizer: self, control, pending: Vec::new() }
    }

    /// The bytes of one id within a text, including a leading space.
    pub fn piece_bytes(&self, id: u32, control: ControlPieces) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.decode_onto(id, control, &mut bytes);
        bytes
    }

    fn decode_onto(&self, id: u32, control: ControlPieces, bytes: &mut Vec<u8>) {
        let Some(piece) = self.vocab.pieces.get(id) else {
            bytes.extend(UNKNOWN.bytes());
            return;
        };
        match piece.kind {
            PieceKind::Control if control == ControlPieces::Omit => {}
            PieceKind::Unknown => bytes.extend(UNKNOWN.bytes()),
            PieceKind::Byte => bytes.extend(parse_byte(&piece.text)),
            PieceKind::Control | PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                bytes.extend(piece.text.replace(SPACE, " ").bytes())
            }
        }
    }
}

/// Decodes ids one at a time into whole characters.
///
/// The texts of all calls to [`push`](Self::push) and of [`finish`](Self::finish) together are what
/// [`Tokenizer::decode`] gives for all the ids, except that a space prefix is kept if the vocabulary
/// has one: a stream continues a text.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlPieces,
    /// The first bytes of an incomplete character, at most three.
    pending: Vec<u8>,
}

impl Decoder<'_> {
    /// The text that `id` completes; empty while a character is incomplete. Bytes that cannot become
    /// UTF-8 any more are replaced by U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.tokenizer.decode_onto(id, self.control, &mut self.pending);
        let complete = self.pending.len() - unfinished(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// Whether a character is incomplete.
    pub fn is_within_a_character(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The text of the remaining bytes: U+FFFD if a character is incomplete, otherwise nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// The number of bytes at the end of `bytes` that begin an incomplete character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}
