//! Knows which characters are adjacent in pieces.

/// A Bloom filter of pairs of characters: answers yes for every pair that was added, and for few
/// others. A set would take ten times the memory.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// Their number is a power of two. A pair sets two bits in one word.
    words: Vec<u64>,
}

impl Neighbours {
    /// An empty filter for the pairs in `n` pieces.
    pub(super) fn new(n: usize) -> Self {
        // A piece has on average less than one pair that no other piece has.
        const PIECES_PER_WORD: usize = 8;
        Self { words: vec![0; n.div_ceil(PIECES_PER_WORD).next_power_of_two()] }
    }

    /// Adds all pairs of neighbours in `text`.
    pub(super) fn insert(&mut self, text: &str) {
        for pair in text.chars().zip(text.chars().skip(1)) {
            let (word, bits) = self.position(pair);
            self.words[word] |= bits;
        }
    }

    /// Whether `pair` was added. Rarely also true for one that was not.
    pub(super) fn may_contain(&self, pair: (char, char)) -> bool {
        let (word, bits) = self.position(pair);
        self.words[word] & bits == bits
    }

    /// The index of a pair's word, and its bits in that word.
    fn position(&self, (left, right): (char, char)) -> (usize, u64) {
        // The bits of the golden ratio: both halves of the product depend on all bits of the pair.
        const MIX: u128 = 0x9E37_79B9_7F4A_7C15;
        let product = (u128::from(left) << 32 | u128::from(right)) * MIX;
        let hash = (product >> 64) as u64 ^ product as u64;
        let bits = 1 << (hash & 63) | 1 << (hash >> 6 & 63);
        ((hash >> 12) as usize & (self.words.len() - 1), bits)
    }

    /// Bytes of heap memory in use.
    pub(super) fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}
