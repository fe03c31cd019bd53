//! From token ids to text, whole or as it comes.

use lapidary_formats::vocab::PieceKind;

use super::{parse_byte, Tokenizer, SPACE};

/// What SentencePiece writes for the unknown piece.
const UNKNOWN: &str = " \u{2047} ";

/// What decoding does with CONTROL pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlPieces {
    /// They leave no text.
    Omit,
    /// They are spelt out.
    Show,
}

impl Tokenizer {
    /// The bytes that ids stand for. An id past the vocabulary decodes like the unknown piece.
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

    /// The text that ids stand for; what is not UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32], control: ControlPieces) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, control)).into_owned()
    }

    /// A decoder of ids that arrive one at a time.
    pub fn stream(&self, control: ControlPieces) -> Decoder<'_> {
        Decoder { tokenizer: self, control, pending: Vec::new() }
    }

    /// The bytes that one id stands for within a text, a space that it begins with included.
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
/// The texts of all the pushes and of [`finish`](Self::finish), joined, are what
/// [`Tokenizer::decode`] makes of all the ids, except that the space prefix of vocabularies that
/// have one stays: a stream continues a text.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlPieces,
    /// The first bytes of a character, at most three.
    pending: Vec<u8>,
}

impl Decoder<'_> {
    /// The text that `id` completes: empty while a character waits for its last bytes. Bytes
    /// that no more bytes can make UTF-8 become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.tokenizer.decode_onto(id, self.control, &mut self.pending);
        let complete = self.pending.len() - unfinished(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// Whether a character waits for its last bytes.
    pub fn is_within_a_character(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left at the end: U+FFFD if a character is incomplete, otherwise nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// The length in bytes of the character that `bytes` end in the middle of.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}
