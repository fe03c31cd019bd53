//! The pieces of a vocabulary, packed: a real one has 256,000, and a `String` for each would take
//! more memory than all else that a model needs besides weights and cache.

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
    /// The higher, the earlier it is merged.
    pub score: f32,
    /// What it is for.
    pub kind: PieceKind,
}

/// All pieces of a vocabulary, by token id; made by collecting [`Piece`]s, or from a GGUF file.
///
/// The texts of a file stay in its map, which the pieces keep open. Besides, a piece takes
/// [`HEAP_BYTES`](Self::HEAP_BYTES).
#[derive(Clone)]
pub struct Pieces {
    texts: Texts,
    /// Where the text before the first would end in `texts`, and then where each one ends.
    ends: Vec<usize>,
    /// Bytes between the end of a text and the next one.
    gap: usize,
    /// Texts that are not those in `texts`, of user-defined pieces only.
    respelt: BTreeMap<u32, Box<str>>,
    scores: Vec<f32>,
    kinds: Vec<PieceKind>,
}

#[derive(Clone)]
enum Texts {
    Owned(Vec<u8>),
    Mapped(Arc<MappedFile>),
}

impl Pieces {
    /// Memory for each piece of a GGUF file, in bytes, where its text lies, its score and its kind.
    pub const HEAP_BYTES: usize = size_of::<usize>() + size_of::<f32>() + size_of::<PieceKind>();

    /// No pieces yet, and room for `n` whose texts lie in `map`, one `gap` bytes after the other.
    /// The first comes `gap` bytes after `start`.
    pub(crate) fn in_map(map: Arc<MappedFile>, start: usize, gap: usize, n: usize) -> Self {
        Self::new(Texts::Mapped(map), start, gap, n)
    }

    fn new(texts: Texts, start: usize, gap: usize, n: usize) -> Self {
        let mut ends = Vec::with_capacity(n + 1);
        ends.push(start);
        let (scores, kinds) = (Vec::with_capacity(n), Vec::with_capacity(n));
        Self { texts, ends, gap, respelt: BTreeMap::new(), scores, kinds }
    }

    /// Adds a piece whose text ends at `end` in the map.
    pub(crate) fn push(&mut self, end: usize, score: f32, kind: PieceKind) {
        self.ends.push(end);
        self.scores.push(score);
        self.kinds.push(kind);
    }

    /// Gives the user-defined piece `id` another text than its file has.
    pub(crate) fn respell(&mut self, id: u32, text: String) {
        debug_assert_eq!(self.kind(id), PieceKind::UserDefined);
        self.respelt.insert(id, text.into());
    }

    /// Changes what the piece `id` is for.
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

    /// The text of the piece `id`. Should somebody have changed the file since it was opened, it
    /// may be empty.
    ///
    /// # Panics
    /// If there is no such piece, as the other questions for an id.
    pub fn text(&self, id: u32) -> &str {
        std::str::from_utf8(self.text_bytes(id)).unwrap_or_default()
    }

    /// The UTF-8 of [`text`](Self::text), for who only compares it.
    pub fn text_bytes(&self, id: u32) -> &[u8] {
        if self.kind(id) == PieceKind::UserDefined {
            if let Some(text) = self.respelt.get(&id) {
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

    /// The score of the piece `id`: the higher, the earlier it is merged.
    pub fn score(&self, id: u32) -> f32 {
        self.scores[id as usize]
    }

    /// What the piece `id` is for.
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

    /// Bytes of memory that they take, without those of the map.
    pub fn heap_bytes(&self) -> usize {
        let owned = match &self.texts {
            Texts::Owned(texts) => texts.capacity(),
            Texts::Mapped(_) => 0,
        };
        let respelt = self.respelt.values();
        owned
            + respelt.map(|text| size_of::<(u32, Box<str>)>() + text.len()).sum::<usize>()
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
    /// Wherever the texts lie.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
