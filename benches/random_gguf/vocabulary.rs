//! A made-up vocabulary, as large as Gemma's and with pieces of the same length.
//!
//! Words have one to three syllables, with or without a leading space. Every piece is made of two
//! earlier ones, so that merging finds it. Text that no piece spells is spelled in bytes.

use std::borrow::Cow;
use std::collections::HashSet;

use lapidary_formats::vocab::{Piece, PieceKind, Vocab};

use crate::random::Random;

const CONSONANTS: &str = "bcdfghjklmnprstvwz";
const VOWELS: &str = "aeiou";
/// Consonants that a syllable can end with.
const FINALS: &str = "lmnrst";
/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// A vocabulary of `n` pieces. The special pieces have Gemma 2's ids.
///
/// # Panics
/// If `n` is less than a few thousand.
pub fn vocabulary(n: usize, seed: u64) -> Vocab {
    let mut pieces = special();
    let characters = characters();
    let words = words(n - pieces.len() - characters.len(), &mut Random::new(seed, 0));
    // Earlier pieces are merged first. The numbers are below 2^24, so no two scores are equal as f32.
    let normal = words.into_iter().chain(characters).enumerate();
    pieces.extend(normal.map(|(i, text)| piece(text, -(i as f32), PieceKind::Normal)));
    Vocab {
        pieces: pieces.into_iter().collect(),
        pad: Some(0),
        eos: Some(1),
        bos: Some(2),
        unk: Some(3),
        eot: Some(107),
        add_bos: true,
        add_space_prefix: false,
        add_eos: false,
        left_out: Vec::new(),
    }
}

fn piece<'a>(text: impl Into<Cow<'a, str>>, score: f32, kind: PieceKind) -> Piece<'a> {
    Piece { text: text.into(), score, kind }
}

/// The pieces that are not made by merging, with the scores that `convert` gives them.
fn special() -> Vec<Piece<'static>> {
    let control = |text: &'static str| piece(text, -1000.0, PieceKind::Control);
    let mut pieces: Vec<Piece> = ["<pad>", "<eos>", "<bos>"].map(control).into();
    pieces.push(piece("<unk>", -1000.0, PieceKind::Unknown));
    let unused = (0..102).map(|i| piece(format!("<unused{i}>"), -10_000.0, PieceKind::Unused));
    pieces.extend(unused);
    pieces.extend(["<start_of_turn>", "<end_of_turn>"].map(control));
    pieces.extend((0..=255u8).map(|b| piece(format!("<0x{b:02X}>"), 0.0, PieceKind::Byte)));
    pieces
}

/// Pieces of one character: a space, ASCII, Latin and Cyrillic letters.
fn characters() -> Vec<String> {
    let ranges = ['!'..='~', '\u{a1}'..='\u{24f}', '\u{400}'..='\u{4ff}'];
    let characters = ['\u{2581}', '\n', '\t'].into_iter().chain(ranges.into_iter().flatten());
    characters.map(String::from).collect()
}

/// `n` pieces of several characters: all syllables, and random words of two or three syllables.
fn words(n: usize, random: &mut Random) -> Vec<String> {
    let joined = |left: &[String], right: &str| -> Vec<String> {
        let pairs = left.iter().flat_map(|l| right.chars().map(move |r| format!("{l}{r}")));
        pairs.collect()
    };
    let consonants: Vec<String> = CONSONANTS.chars().map(String::from).collect();
    let open = joined(&consonants, VOWELS);
    let closed = joined(&open, FINALS);
    let syllables = [open, closed].concat();
    let spaced = syllables.iter().map(|syllable| format!("{SPACE}{syllable}"));
    let mut words: Vec<String> = syllables.iter().cloned().chain(spaced).collect();
    let roots = words.len();
    let mut seen: HashSet<String> = words.iter().cloned().collect();
    let mut of_two = Vec::new();
    while words.len() < n {
        // One word in eight has three syllables: the mean length is then Gemma's, 7.5 bytes.
        let longer = !of_two.is_empty() && random.below(8) == 0;
        let begin = if longer { of_two[random.below(of_two.len())] } else { random.below(roots) };
        let word = format!("{}{}", words[begin], syllables[random.below(syllables.len())]);
        if seen.insert(word.clone()) {
            if !longer {
                of_two.push(words.len());
            }
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};

    use super::*;
    use crate::size::VOCABULARY;

    #[test]
    fn the_tokenizer_accepts_it_and_encodes_every_text() {
        let tokenizer = Tokenizer::new(vocabulary(VOCABULARY, 0)).unwrap();
        let vocab = tokenizer.vocab();
        assert_eq!(vocab.pieces.len(), VOCABULARY);
        assert_eq!(vocab.find("<start_of_turn>"), Some(106));
        assert_eq!(vocab.find("<end_of_turn>"), vocab.eot);
        for text in ["Why is the sky blue?\n\n\tWell ...", "Привет, 世界 🦀\r\n\0", "tarinko lapis"]
        {
            let ids = tokenizer.encode(text, Special::Plain);
            assert_eq!(tokenizer.decode(&ids, ControlPieces::Omit), text);
        }
    }

    #[test]
    fn pieces_are_as_long_as_gemmas_and_found_by_merging() {
        let tokenizer = Tokenizer::new(vocabulary(VOCABULARY, 0)).unwrap();
        let pieces = &tokenizer.vocab().pieces;
        let bytes: usize = pieces.iter().map(|piece| piece.text.len()).sum();
        // Gemma's mean is 7.5.
        let mean = bytes as f64 / pieces.len() as f64;
        assert!((7.0..8.0).contains(&mean), "{mean}");
        let normal =
            (0u32..).zip(pieces.iter()).filter(|(_, p)| p.kind == PieceKind::Normal).step_by(101);
        let (mut found, mut all) = (0, 0);
        for (id, piece) in normal {
            let ids = tokenizer.encode(&piece.text.replace(SPACE, " "), Special::Plain);
            (found, all) = (found + usize::from(ids == [id]), all + 1);
        }
        // In a word of three syllables, the last two may be a word that is merged earlier.
        assert!(found * 100 > all * 90, "{found} of {all}");
    }
}
