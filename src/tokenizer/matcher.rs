//! Finds the pieces that are matched in raw text before merging.

use super::TokenizerError;

/// Most nodes, 84 MB. Gemma 2 needs a thousand, Gemma 3 with its 6,000 unused pieces some ten thousand.
const MAX_NODES: usize = 1 << 22;

/// A byte trie of pieces.
#[derive(Debug)]
pub(super) struct Matcher {
    /// The root comes first.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// The byte that leads here from the parent.
    byte: u8,
    /// The piece that ends here.
    id: Option<u32>,
    /// Index of the child that was added last; 0, the root, if there is none.
    child: u32,
    /// Index of the parent's child that was added before this one. There are so few children that
    /// walking the list is the fastest search.
    sibling: u32,
}

impl Default for Matcher {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Matcher {
    /// Heap memory for Gemma 2's pieces, in bytes: runs of spaces and newlines, tags, turn markers.
    pub(super) const GEMMA2_HEAP_BYTES: usize = 1024 * size_of::<Node>();

    /// Adds a piece. `text` must not be empty.
    ///
    /// # Errors
    /// If there would be more than [`MAX_NODES`] nodes.
    pub(super) fn insert(&mut self, text: &str, id: u32) -> Result<(), TokenizerError> {
        if self.nodes.len() + text.len() > MAX_NODES {
            return Err(TokenizerError::TooManyMatched);
        }
        let mut node = 0;
        for byte in text.bytes() {
            node = match self.child(node, byte) {
                Some(child) => child,
                None => {
                    let child = self.nodes.len();
                    let sibling = std::mem::replace(&mut self.nodes[node].child, child as u32);
                    self.nodes.push(Node { byte, sibling, ..Node::default() });
                    child
                }
            };
        }
        self.nodes[node].id = Some(id);
        Ok(())
    }

    /// The longest piece at the start of `text` that `accept` allows, and its length in bytes.
    pub(super) fn longest(
        &self,
        text: &[u8],
        accept: impl Fn(u32, usize) -> bool,
    ) -> Option<(u32, usize)> {
        let mut node = 0;
        let mut found = None;
        for (length, byte) in (1..).zip(text) {
            let Some(child) = self.child(node, *byte) else { break };
            node = child;
            if let Some(id) = self.nodes[node].id.filter(|id| accept(*id, length)) {
                found = Some((id, length));
            }
        }
        found
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let mut child = self.nodes[node].child as usize;
        while child != 0 && self.nodes[child].byte != byte {
            child = self.nodes[child].sibling as usize;
        }
        (child != 0).then_some(child)
    }

    /// Bytes of heap memory in use.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_accepted_piece_wins() {
        let mut matcher = Matcher::default();
        for (id, text) in (0..).zip(["<b", "<b>", "<body>", "é"]) {
            matcher.insert(text, id).unwrap();
        }
        let any = |_, _| true;
        assert_eq!(matcher.longest(b"<b>old", any), Some((1, 3)));
        assert_eq!(matcher.longest(b"<body", any), Some((0, 2)));
        assert_eq!(matcher.longest("é".as_bytes(), any), Some((3, 2)));
        assert_eq!(matcher.longest(b"\xc3", any), None);
        assert_eq!(matcher.longest(b"", any), None);
        assert_eq!(matcher.longest(b"<body>", |id, _| id != 2), Some((0, 2)));
        assert_eq!(matcher.longest(b"<body>", |_, length| length < 2), None);
    }
}
