//! From the tokens of an answer to the text that may be shown: whole characters, and nothing that a stop
//! text may begin with.

use super::Token;
use crate::tokenizer::Decoder;

/// An answer's text on its way.
#[derive(Debug)]
pub(super) struct Text<'t> {
    decoder: Decoder<'t>,
    /// None is empty.
    stop: Vec<String>,
    /// What is not shown yet.
    text: String,
    /// The tokens of that, each with where its own text ends; `None` while a character is incomplete.
    tokens: Vec<(Token, Option<usize>)>,
}

/// What may be shown.
#[derive(Debug, Default, PartialEq)]
pub struct Shown {
    /// What is new of the text.
    pub text: String,
    /// The tokens that are complete with it.
    pub tokens: Vec<Token>,
}

impl Shown {
    /// Adds what is to be shown after it.
    pub(super) fn append(&mut self, mut after: Self) {
        self.text.push_str(&after.text);
        self.tokens.append(&mut after.tokens);
    }
}

impl<'t> Text<'t> {
    pub fn new(decoder: Decoder<'t>, stop: Vec<String>) -> Self {
        Self { decoder, stop, text: String::new(), tokens: Vec::new() }
    }

    /// Takes the next token; gives what may be shown now, and whether a stop text has ended it all.
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

    /// What is left at the end: nothing, if a stop text ended it.
    pub fn finish(&mut self) -> Shown {
        let mut text = std::mem::take(&mut self.text);
        text.push_str(&self.decoder.finish());
        Shown { text, tokens: self.tokens.drain(..).map(|(token, _)| token).collect() }
    }

    /// The length of the longest end of the text that begins a stop text.
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

    /// The first `len` bytes, and the tokens that end there or before.
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

    /// One piece a byte: its id is the byte.
    fn bytes() -> Tokenizer {
        let piece = |byte: u8| Piece {
            text: format!("<0x{byte:02X}>").into(),
            score: 0.0,
            kind: PieceKind::Byte,
        };
        let pieces = (0..=255).map(piece).collect();
        let (bos, eos, eot, unk, pad) = (None, None, None, None, None);
        let vocab =
            Vocab { pieces, bos, eos, eot, unk, pad, add_bos: false, add_space_prefix: false };
        Tokenizer::new(vocab).unwrap()
    }

    /// What is shown at each byte of `said`, as text and number of tokens, up to a stop, and at the end.
    fn shown(said: &str, stop: &[&str]) -> Vec<(String, usize)> {
        let tokenizer = bytes();
        let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = Text::new(tokenizer.stream(ControlPieces::Omit), stop);
        let mut all = Vec::new();
        let mut add = |shown: Shown| all.push((shown.text, shown.tokens.len()));
        for byte in said.bytes() {
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
    fn characters_come_whole_and_with_all_their_tokens() {
        let expected = [("a", 1), ("", 0), ("", 0), ("€", 3), ("", 0)];
        assert_eq!(shown("a€", &[]), expected.map(|(text, n)| (text.to_owned(), n)));
        // A character that is never completed comes at the end.
        let tokenizer = bytes();
        let mut text = Text::new(tokenizer.stream(ControlPieces::Omit), Vec::new());
        assert_eq!(text.push(Token { id: 0xE2, logprobs: None }), (Shown::default(), false));
        let rest = text.finish();
        assert_eq!((rest.text.as_str(), rest.tokens.len()), ("\u{FFFD}", 1));
    }

    #[test]
    fn what_may_begin_a_stop_text_waits() {
        let found = shown("one, two", &[", t"]);
        assert_eq!(joined(&found), ("one".to_owned(), 3));
        assert_eq!(found.len(), 6, "it ends with the last byte of the stop text");
        // It was none after all.
        let found = shown("one, 2", &[", t"]);
        assert_eq!(found[3..5], [(String::new(), 0), (String::new(), 0)]);
        assert_eq!(found[5], (", 2".to_owned(), 3));
        assert_eq!(joined(&found), ("one, 2".to_owned(), 6));
        // What waits at the end of the answer is part of it.
        assert_eq!(joined(&shown("one, ", &[", t"])), ("one, ".to_owned(), 5));
    }

    #[test]
    fn the_first_of_several_stop_texts_counts() {
        for (said, stop, left) in [
            ("abcd", vec!["d", "bc"], "a"),
            ("aab", vec!["ab"], "a"),
            ("ababac", vec!["abac"], "ab"),
            ("x€y", vec!["€"], "x"),
            ("x€y", vec!["€€", "y"], "x€"),
            ("x", vec!["x"], ""),
            ("xyz", vec!["yza", "zz"], "xyz"),
        ] {
            assert_eq!(joined(&shown(said, &stop)).0, left, "{said} until {stop:?}");
        }
    }
}
