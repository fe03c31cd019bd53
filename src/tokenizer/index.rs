//! Finds the ids of pieces by their text.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use lapidary_formats::vocab::Pieces;

use super::spelling;

/// A hash table that holds only ids. The texts stay with the pieces, which every call passes.
#[derive(Debug)]
pub(super) struct Index {
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    /// An empty index with room for `n` ids.
    pub(super) fn new(n: usize) -> Self {
        Self { ids: HashTable::with_capacity(n), hasher: DefaultHashBuilder::default() }
    }

    /// Adds the id of the piece whose text is `text`. If there is such a piece already, returns its
    /// id and adds nothing.
    pub(super) fn insert(&mut self, pieces: &Pieces, text: &str, id: u32) -> Option<u32> {
        let hasher = &self.hasher;
        let rehash = |id: &u32| hasher.hash_one(&*spelling(pieces.text(*id)));
        match self.ids.entry(hasher.hash_one(text), |id| is_spelt(pieces, *id, text), rehash) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(place) => {
                place.insert(id);
                None
            }
        }
    }

    /// The id of the piece whose text is `text`, with spaces as `▁`.
    pub(super) fn get(&self, pieces: &Pieces, text: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(text), |id| is_spelt(pieces, *id, text)).copied()
    }

    /// Bytes of heap memory in use.
    pub(super) fn heap_bytes(&self) -> usize {
        self.ids.allocation_size()
    }

    /// What [`heap_bytes`](Self::heap_bytes) will be with room for `n` ids. At most seven eighths of
    /// the table are in use; each entry takes an id and a byte of its hash.
    pub(super) fn predicted_heap_bytes(n: usize) -> usize {
        (n * 8).div_ceil(7).next_power_of_two() * (size_of::<u32>() + 1)
    }
}

/// Whether `text` is that of piece `id`, with spaces as `▁`.
fn is_spelt(pieces: &Pieces, id: u32, text: &str) -> bool {
    let found = pieces.text_bytes(id);
    found == text.as_bytes() || (found.contains(&b' ') && spelling(pieces.text(id)) == text)
}
