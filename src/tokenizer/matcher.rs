//! The pieces that are found in raw text before any merging.

/// A byte trie of pieces.
#[derive(Debug)]
pub(super) struct Matcher {
    /// The root is the first.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// The piece that ends here.
    id: Option<u32>,
    /// Next byte, index of its node. Few enough that a scan is the fastest search.
    children: Vec<(u8, usize)>,
}

impl Default for Matcher {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Matcher {
    /// Adds a piece; `text` is not empty.
    pub(super) fn insert(&mut self, text: &str, id: u32) {
        let mut node = 0;
        for byte in text.bytes() {
            node = match self.child(node, byte) {
                Some(child) => child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].children.push((byte, child));
                    child
                }
            };
        }
        self.nodes[node].id = Some(id);
    }

    /// The longest piece at the start of `text` that `accept` takes, and its length in bytes.
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
        self.nodes[node].children.iter().find(|(b, _)| *b == byte).map(|(_, child)| *child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_accepted_piece_wins() {
        let mut matcher = Matcher::default();
        for (id, text) in (0..).zip(["<b", "<b>", "<body>", "é"]) {
            matcher.insert(text, id);
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
