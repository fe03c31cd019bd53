//! Turns the tokens of an answer into the text that may be shown: only complete characters, and
//! nothing that may be the beginning of a stop text.

use super::Token;
use crate::tokenizer::Decoder;

/// The text of an answer, with the part that is still held back.
#[derive(Debug)]
pub(super) struct Text<'t> {
    decoder: Decoder<'t>,
    /// Stop texts; none of them is empty.
    stop: Vec<String>,
    /// The text that is held back.
    text: String,
    /// The tokens of the text that is held back, each with the end of its own text, or `None` while
    /// a character is incomplete.
    tokens: Vec<(Token, Option<usize>)>,
}

/// What may be shown.
#[derive(Debug, Default, PartialEq)]
pub struct Shown {
    /// The new text.
    pub text: String,
    /// The tokens whose text is complete with it.
    pub tokens: Vec<Token>,
}

impl Shown {
    /// Appends what is shown after it.
    pub(super) fn append(&mut self, mut after: Self) {
        self.text.push_str(&after.text);
        self.tokens.append(&mut after.tokens);
    }
}

impl<'t> Text<'t> {
    pub fn new(decoder: Decoder<'t>, stop: Vec<String>) -> Self {
        Self { decoder, stop, text: String::new(), tokens: Vec::new() }
    }

    /// Adds the next token. Returns what may be shown now, and whether a stop text has ended the
    /// answer.
    pub fn push(&mut self, token: Token) -> (Shown, bool) {
        let new = self.decoder.push(token.id);
        self.tokens.push((token, None));
        self.text.push_str(&new);
        if !self.decoder.is_within_a_character() {
            self.tokens.iter_mut().for_each(|(_, end)| _ = end.get_or_insert(self.text.len()));
        }
        match self.stop.iter().filter_map(|stop| self.text.find(stop)).min() {
            Some(at) => {
                let shown = self.show(at);
                self.text.clear();
                self.tokens.clear();
                (shown, true)
            }
            None => (self.show(self.text.len() - self.held_back()), false),
        }
    }

    /// Ends the text and returns what was held back; nothing if a stop text ended it.
    pub fn finish(&mut self) -> Shown {
        let mut text = std::mem::take(&mut self.text);
        text.push_str(&self.decoder.finish());
        Shown { text, tokens: self.tokens.drain(..).map(|(token, _)| token).collect() }
    }

    /// Length of the longest end of the text with which a stop text begins.
    fn held_back(&self) -> usize {
        let longest = self.stop.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        let mut at = self.text.len().saturating_sub(longest);
        while at < self.text.len() {
            let end = self.text.get(at..);
            if end.is_some_and(|end| self.stop.iter().any(|stop| stop.starts_with(end))) {
                break;
            }
            at += 1;
        }
        self.text.len() - at
    }

    /// Returns the first `len` bytes, and the tokens that end within them.
    fn show(&mut self, len: usize) -> Shown {
        let shown = |(_, end): &&(Token, Option<usize>)| end.is_some_and(|end| end <= len);
        let n = self.tokens.iter().take_while(shown).count();
        let tokens = self.tokens.drain(..n).map(|(token, _)| token).collect();
        for (_, end) in &mut self.tokens {
            *end = end.map(|end| end - len);
        }
        Shown { text: self.text.drain(..len).collect(), tokens }
    }
}

#[cfg(test)]
mod tests {
    use lapidary_formats::vocab::{Piece, PieceKind, Vocab};

    use super::*;
    use crate::tokenizer::{ControlPieces, Tokenizer};

    /// A tokenizer with one piece per byte, whose id is the byte.
    fn bytes() -> Tokenizer {
        let piece = |byte: u8| Piece {
            text: format!("<0x{byte:02X}>").into(),
            score: 0.0,
            kind: PieceKind::Byte,
        };
        let pieces = (0..=255).map(piece).collect();
        let (bos, eos, eot, unk, pad) = (None, None, None, None, None);
        let vocab = Vocab {
            pieces,
            bos,
            eos,
            eot,
            unk,
            pad,
            add_bos: false,
            add_space_prefix: false,
            add_eos: false,
            left_out: Vec::new(),
        };
        Tokenizer::new(vocab).unwrap()
    }

    /// What is shown after each byte of `answer`, as text and number of tokens, until a stop text
    /// or, with what was held back, the end.
    fn shown(answer: &str, stop: &[&str]) -> Vec<(String, usize)> {
        let tokenizer = bytes();
        let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = Text::new(tokenizer.stream(ControlPieces::Omit), stop);
        let mut all = Vec::new();
        let mut add = |shown: Shown| all.push((shown.text, shown.tokens.len()));
        for byte in answer.bytes() {
            let (shown, stopped) = text.push(Token { id: byte.into(), logprobs: None });
            add(shown);
            if stopped {
                return all;
            }
        }
        add(text.finish());
        all
    }

    fn joined(shown: &[(String, usize)]) -> (String, usize) {
        (shown.iter().map(|(text, _)| text.as_str()).collect(), shown.iter().map(|(_, n)| n).sum())
    }

    #[test]
    fn characters_are_shown_complete_and_with_all_their_tokens() {
        let expected = [("a", 1), ("", 0), ("", 0), ("€", 3), ("", 0)];
        assert_eq!(shown("a€", &[]), expected.map(|(text, n)| (text.to_owned(), n)));
        // A character that stays incomplete is shown at the end.
        let tokenizer = bytes();
        let mut text = Text::new(tokenizer.stream(ControlPieces::Omit), Vec::new());
        assert_eq!(text.push(Token { id: 0xE2, logprobs: None }), (Shown::default(), false));
        let rest = text.finish();
        assert_eq!((rest.text.as_str(), rest.tokens.len()), ("\u{FFFD}", 1));
    }

    #[test]
    fn the_possible_beginning_of_a_stop_text_is_held_back() {
        let found = shown("one, two", &[", t"]);
        assert_eq!(joined(&found), ("one".to_owned(), 3));
        assert_eq!(found.len(), 6, "it ends with the last byte of the stop text");
        // It was not a stop text after all.
        let found = shown("one, 2", &[", t"]);
        assert_eq!(found[3..5], [(String::new(), 0), (String::new(), 0)]);
        assert_eq!(found[5], (", 2".to_owned(), 3));
        assert_eq!(joined(&found), ("one, 2".to_owned(), 6));
        // What is held back at the end of the answer is part of it.
        assert_eq!(joined(&shown("one, ", &[", t"])), ("one, ".to_owned(), 5));
    }

    #[test]
    fn the_earliest_of_several_stop_texts_counts() {
        for (answer, stop, left) in [
            ("abcd", vec!["d", "bc"], "a"),
            ("aab", vec!["ab"], "a"),
            ("ababac", vec!["abac"], "ab"),
            ("x€y", vec!["€"], "x"),
            ("x€y", vec!["€€", "y"], "x€"),
            ("x", vec!["x"], ""),
            ("xyz", vec!["yza", "zz"], "xyz"),
        ] {
            assert_eq!(joined(&shown(answer, &stop)).0, left, "{answer} until {stop:?}");
        }
    }
}
