//! The pieces of a vocabulary, packed. Gemma has 256,000 of them; a `String` for each would take
//! more memory than everything else that a model needs besides its weights and KV cache.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::PieceKind;
use crate::map::MappedFile;

/// One entry of a vocabulary; its index is its token id.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece<'a> {
    /// SentencePiece spelling: spaces are `▁` (U+2581), bytes are `<0xNN>`.
    pub text: Cow<'a, str>,
    /// Pieces with higher scores are merged first.
    pub score: f32,
    /// Its kind.
    pub kind: PieceKind,
}

/// All pieces of a vocabulary, by token id, collected from [`Piece`]s or read from a GGUF file.
///
/// The texts of a GGUF file stay in its map, which this value keeps open. Apart from its text, a
/// piece takes [`HEAP_BYTES`](Self::HEAP_BYTES).
#[derive(Clone)]
pub struct Pieces {
    texts: Texts,
    /// Where the texts end in `texts`, in bytes. Entry 0 is where a text before the first would end.
    ends: Vec<usize>,
    /// Bytes between the end of one text and the start of the next.
    gap: usize,
    /// Texts that replace those in `texts`; only user-defined pieces have one.
    respelled: BTreeMap<u32, Box<str>>,
    scores: Vec<f32>,
    kinds: Vec<PieceKind>,
}

#[derive(Clone)]
enum Texts {
    Owned(Vec<u8>),
    Mapped(Arc<MappedFile>),
}

impl Pieces {
    /// Memory per piece of a GGUF file, in bytes: where its text ends, its score and its kind.
    pub const HEAP_BYTES: usize = size_of::<usize>() + size_of::<f32>() + size_of::<PieceKind>();

    /// An empty list with room for `n` pieces whose texts lie in `map`, with `gap` bytes before each.
    /// The first `gap` begins at `start`.
    pub(crate) fn in_map(map: Arc<MappedFile>, start: usize, gap: usize, n: usize) -> Self {
        Self::new(Texts::Mapped(map), start, gap, n)
    }

    fn new(texts: Texts, start: usize, gap: usize, n: usize) -> Self {
        let mut ends = Vec::with_capacity(n + 1);
        ends.push(start);
        let (scores, kinds) = (Vec::with_capacity(n), Vec::with_capacity(n));
        Self { texts, ends, gap, respelled: BTreeMap::new(), scores, kinds }
    }

    /// Adds a piece whose text ends at `end` in the map.
    pub(crate) fn push(&mut self, end: usize, score: f32, kind: PieceKind) {
        self.ends.push(end);
        self.scores.push(score);
        self.kinds.push(kind);
    }

    /// Replaces the text of the user-defined piece `id`.
    pub(crate) fn respell(&mut self, id: u32, text: String) {
        debug_assert_eq!(self.kind(id), PieceKind::UserDefined);
        self.respelled.insert(id, text.into());
    }

    /// Changes the kind of the piece `id`.
    pub(crate) fn set_kind(&mut self, id: u32, kind: PieceKind) {
        self.kinds[id as usize] = kind;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The text of the piece `id`. It may be empty if the file was changed after it was opened.
    ///
    /// # Panics
    /// If there is no such piece, like the other methods that take an id.
    pub fn text(&self, id: u32) -> &str {
        std::str::from_utf8(self.text_bytes(id)).unwrap_or_default()
    }

    /// The UTF-8 bytes of [`text`](Self::text), for callers that only compare them.
    pub fn text_bytes(&self, id: u32) -> &[u8] {
        if self.kind(id) == PieceKind::UserDefined {
            if let Some(text) = self.respelled.get(&id) {
                return text.as_bytes();
            }
        }
        let Range { start, end } = self.ends[id as usize]..self.ends[id as usize + 1];
        let texts = match &self.texts {
            Texts::Owned(texts) => texts,
            Texts::Mapped(map) => map.bytes(),
        };
        &texts[start + self.gap..end]
    }

    /// The score of the piece `id`; pieces with higher scores are merged first.
    pub fn score(&self, id: u32) -> f32 {
        self.scores[id as usize]
    }

    /// The kind of the piece `id`.
    pub fn kind(&self, id: u32) -> PieceKind {
        self.kinds[id as usize]
    }

    /// The piece `id`, if there is one.
    pub fn get(&self, id: u32) -> Option<Piece<'_>> {
        let kind = *self.kinds.get(id as usize)?;
        Some(Piece { text: self.text(id).into(), score: self.score(id), kind })
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = Piece<'_>> {
        (0..).map_while(|id| self.get(id))
    }

    /// Bytes of heap memory in use, without the map.
    pub fn heap_bytes(&self) -> usize {
        let owned = match &self.texts {
            Texts::Owned(texts) => texts.capacity(),
            Texts::Mapped(_) => 0,
        };
        let respelled = self.respelled.values();
        owned
            + respelled.map(|text| size_of::<(u32, Box<str>)>() + text.len()).sum::<usize>()
            + self.ends.capacity() * size_of::<usize>()
            + self.scores.capacity() * size_of::<f32>()
            + self.kinds.capacity() * size_of::<PieceKind>()
    }
}

impl<'a> FromIterator<Piece<'a>> for Pieces {
    fn from_iter<I: IntoIterator<Item = Piece<'a>>>(pieces: I) -> Self {
        let pieces = pieces.into_iter();
        let mut all = Self::new(Texts::Owned(Vec::new()), 0, 0, pieces.size_hint().0);
        let mut texts = Vec::new();
        for piece in pieces {
            texts.extend(piece.text.bytes());
            all.push(texts.len(), piece.score, piece.kind);
        }
        texts.shrink_to_fit();
        Self { texts: Texts::Owned(texts), ..all }
    }
}

impl PartialEq for Pieces {
    /// Compares the pieces, wherever their texts are stored.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
