//! Which characters stand side by side in pieces.

/// A Bloom filter of pairs of characters: says yes to every pair that was added and to few others.
/// A set would take ten times the memory.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// A power of two of them; a pair is two bits in one.
    words: Vec<u64>,
}

impl Neighbours {
    /// An empty one for the pairs in `n` pieces.
    pub(super) fn new(n: usize) -> Self {
        // A piece brings less than one pair that no other has.
        const PIECES_PER_WORD: usize = 8;
        Self { words: vec![0; n.div_ceil(PIECES_PER_WORD).next_power_of_two()] }
    }

    /// Adds all pairs of neighbours in `text`.
    pub(super) fn insert(&mut self, text: &str) {
        for pair in text.chars().zip(text.chars().skip(1)) {
            let (word, bits) = self.place(pair);
            self.words[word] |= bits;
        }
    }

    /// Whether `pair` was added; now and then true for one that was not.
    pub(super) fn may_contain(&self, pair: (char, char)) -> bool {
        let (word, bits) = self.place(pair);
        self.words[word] & bits == bits
    }

    fn place(&self, (left, right): (char, char)) -> (usize, u64) {
        // The golden ratio's bits: both halves of the product depend on all bits of the pair.
        const MIX: u128 = 0x9E37_79B9_7F4A_7C15;
        let product = (u128::from(left) << 32 | u128::from(right)) * MIX;
        let hash = (product >> 64) as u64 ^ product as u64;
        let bits = 1 << (hash & 63) | 1 << (hash >> 6 & 63);
        ((hash >> 12) as usize & (self.words.len() - 1), bits)
    }

    /// Bytes of memory that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}
