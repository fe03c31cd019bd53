//! Byte-pair merging by score.
//!
//! This is the algorithm of SentencePiece's `bpe::Model`
//! (<https://github.com/google/sentencepiece/blob/master/src/bpe_model.cc>): symbols in a doubly
//! linked list and candidate pairs in a heap, O(n log n) for n characters.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use lapidary_formats::vocab::PieceKind;

use super::Tokenizer;

/// In `prev` of the first symbol and `next` of the last one.
const NONE: usize = usize::MAX;

/// A range of the text that is a piece or may become one.
struct Symbol {
    /// Where it starts in the text, in bytes.
    start: usize,
    /// Its length in bytes; 0 once it has been merged into its left neighbour.
    len: usize,
    prev: usize,
    next: usize,
}

/// Two neighbours that together are a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// The length of both in bytes; it shows whether one of them has been merged since.
    len: usize,
}

impl Ord for Pair {
    /// The greatest pair is merged first: the one with the highest score, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// Merges one text after another, reusing its buffers.
pub(super) struct Merger<'a> {
    tokenizer: &'a Tokenizer,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Pair>,
    /// For each UNUSED piece seen, the length in bytes of the left symbol that it was merged from.
    unused: HashMap<u32, usize>,
}

impl<'a> Merger<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, symbols: Vec::new(), agenda: BinaryHeap::new(), unused: HashMap::new() }
    }

    /// Merges until no pair of neighbours is a piece, then appends the ids to `ids`.
    pub(super) fn merge(&mut self, text: &str, ids: &mut Vec<u32>) {
        self.symbols.clear();
        for (index, (start, char)) in text.char_indices().enumerate() {
            let (prev, next) = (index.checked_sub(1).unwrap_or(NONE), index + 1);
            self.symbols.push(Symbol { start, len: char.len_utf8(), prev, next });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for right in 1..self.symbols.len() {
            self.consider(text, right - 1, right);
        }
        while let Some(pair) = self.agenda.pop() {
            self.apply(text, &pair);
        }
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            self.emit(&text[symbol.start..symbol.start + symbol.len], ids);
        }
    }

    /// Adds two neighbours to the agenda if they are a piece.
    fn consider(&mut self, text: &str, left: usize, right: usize) {
        if left == NONE || right == NONE {
            return;
        }
        let (start, left_len) = (self.symbols[left].start, self.symbols[left].len);
        let len = left_len + self.symbols[right].len;
        let Some(id) = self.tokenizer.merged(&text[start..start + len]) else { return };
        let pieces = &self.tokenizer.vocab.pieces;
        if pieces.kind(id) == PieceKind::Unused {
            self.unused.insert(id, left_len);
        }
        self.agenda.push(Pair { score: pieces.score(id), left, right, len });
    }

    fn apply(&mut self, text: &str, pair: &Pair) {
        let (left, right) = (&self.symbols[pair.left], &self.symbols[pair.right]);
        // Symbols only grow or vanish, so if the sum is unchanged, both symbols are.
        if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
            return;
        }
        let (prev, next) = (left.prev, right.next);
        self.symbols[pair.left].len = pair.len;
        self.symbols[pair.left].next = next;
        self.symbols[pair.right].len = 0;
        if next != NONE {
            self.symbols[next].prev = pair.left;
        }
        self.consider(text, prev, pair.left);
        self.consider(text, pair.left, next);
    }

    /// Appends the ids of a merged symbol. UNUSED pieces are split again, into the symbols that they
    /// were merged from, until none is left.
    fn emit(&self, text: &str, ids: &mut Vec<u32>) {
        match self.tokenizer.merged(text) {
            None => self.tokenizer.spell(text, ids),
            Some(id) if self.tokenizer.kind(id) != PieceKind::Unused => ids.push(id),
            Some(id) => match self.unused.get(&id) {
                Some(&middle) => {
                    self.emit(&text[..middle], ids);
                    self.emit(&text[middle..], ids);
                }
                None => self.tokenizer.spell(text, ids),
            },
        }
    }
}
