//! Tests rules for which Gemma's vocabulary has no case, with vocabularies made by hand. The expected
//! pieces are what the `sentencepiece` package 0.2.3 gives for the same vocabularies.

use lapidary_formats::vocab::Piece;

use super::*;

fn vocab(pieces: &[(&str, f32, PieceKind)]) -> Vocab {
    let pieces = pieces.iter().map(|(text, score, kind)| Piece {
        text: (*text).into(),
        score: *score,
        kind: *kind,
    });
    Vocab {
        pieces: pieces.collect(),
        bos: None,
        eos: None,
        eot: None,
        unk: Some(0),
        pad: None,
        add_bos: true,
        add_space_prefix: false,
        add_eos: false,
        left_out: Vec::new(),
    }
}

const UNK: (&str, f32, PieceKind) = ("<unk>", 0.0, PieceKind::Unknown);

fn with_bytes(pieces: &[(&str, f32, PieceKind)]) -> Vocab {
    let vocab = vocab(&[&[UNK], pieces].concat());
    let bytes = (0..=255u8).map(|byte| Piece {
        text: format!("<0x{byte:02X}>").into(),
        score: 0.0,
        kind: PieceKind::Byte,
    });
    let pieces = vocab.pieces.iter().chain(bytes).collect();
    Vocab { pieces, ..vocab }
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, Special::Plain);
    ids.iter().map(|id| tokenizer.vocab().pieces.text(*id).to_owned()).collect()
}

#[test]
fn unused_pieces_are_split_again() {
    use PieceKind::{Normal, Unused};
    let tokenizer = Tokenizer::new(with_bytes(&[
        ("a", 0.0, Unused),
        ("b", 0.0, Normal),
        ("ab", -1.0, Unused),
        ("abb", -2.0, Normal),
        ("c", 0.0, Normal),
        ("bc", -3.0, Unused),
        ("abc", -1.5, Unused),
    ]))
    .unwrap();
    for (text, expected) in [
        ("a", vec!["<0x61>"]),
        ("ab", vec!["<0x61>", "b"]),
        ("abb", vec!["abb"]),
        ("abc", vec!["<0x61>", "b", "c"]),
        ("bc", vec!["b", "c"]),
        ("xab", vec!["<0x78>", "<0x61>", "b"]),
        ("ab abb", vec!["<0x61>", "b", "<0xE2>", "<0x96>", "<0x81>", "abb"]),
    ] {
        assert_eq!(pieces(&tokenizer, text), expected, "{text:?}");
    }
}

#[test]
fn without_byte_pieces_a_run_of_unknown_characters_is_one_unknown_piece() {
    use PieceKind::{Control, Normal};
    let tokenizer = Tokenizer::new(vocab(&[
        UNK,
        ("<s>", 0.0, Control),
        ("a", 0.0, Normal),
        ("b", 0.0, Normal),
        (SPACE, 0.0, Normal),
    ]))
    .unwrap();
    assert_eq!(tokenizer.encode("axyb", Special::Plain), [2, 0, 3]);
    assert_eq!(tokenizer.encode("x y", Special::Plain), [0, 4, 0]);
    assert_eq!(tokenizer.encode("<s>a", Special::Plain), [0, 2]);
    assert_eq!(tokenizer.encode("<s>a", Special::Trusted), [1, 2]);
    assert_eq!(tokenizer.decode(&[2, 0, 3], ControlPieces::Omit), "a ⁇ b");
    assert_eq!(tokenizer.decode(&[1, 2, 99], ControlPieces::Omit), "a ⁇ ");
    let error = tokenizer.encode_bytes(b"a\xff", Special::Plain).unwrap_err();
    assert_eq!(error, TokenizerError::NoBytePiece(0xff));
}

#[test]
fn the_highest_score_merges_first_and_then_the_leftmost() {
    use PieceKind::Normal;
    let tokenizer = Tokenizer::new(with_bytes(&[
        ("aa", -1.0, Normal),
        ("ab", -0.5, Normal),
        ("a", 0.0, Normal),
    ]))
    .unwrap();
    assert_eq!(pieces(&tokenizer, "aab"), ["a", "ab"]);
    assert_eq!(pieces(&tokenizer, "aaa"), ["aa", "a"]);
}

#[test]
fn matched_pieces_are_the_longest_and_merge_no_further() {
    use PieceKind::{Normal, UserDefined};
    let tokenizer = Tokenizer::new(with_bytes(&[
        ("a", 0.0, Normal),
        ("b", 0.0, Normal),
        ("<x>", 0.0, UserDefined),
        ("<x>a", 0.0, UserDefined),
        ("<x>ab", 9.0, Normal),
        ("b<x>", 9.0, Normal),
        // With a plain space, as in some GGUF files.
        ("  ", 0.0, UserDefined),
    ]))
    .unwrap();
    assert_eq!(pieces(&tokenizer, "b<x>ab"), ["b", "<x>a", "b"]);
    assert_eq!(pieces(&tokenizer, "<x>b"), ["<x>", "b"]);
    assert_eq!(pieces(&tokenizer, "a  b"), ["a", "  ", "b"]);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("a  b", Special::Plain), ControlPieces::Omit),
        "a  b"
    );
}

#[test]
fn control_pieces_lie_within_one_trusted_segment() {
    use PieceKind::{Control, UserDefined};
    let tokenizer =
        Tokenizer::new(with_bytes(&[("<c>", 0.0, Control), ("<u>", 0.0, UserDefined)])).unwrap();
    use Special::{Plain, Trusted};
    let has_control = |segments: &[(&str, Special)]| {
        tokenizer.encode_segments(segments.iter().copied()).contains(&1)
    };
    assert!(has_control(&[("x", Plain), ("<c>", Trusted), ("x", Plain)]));
    assert!(!has_control(&[("<c>", Plain), ("x", Trusted)]));
    assert!(!has_control(&[("<", Trusted), ("c>", Plain)]));
    assert!(!has_control(&[("<", Plain), ("c>", Trusted)]));
    assert!(!has_control(&[("<c", Trusted), (">", Trusted)]));
    // Other pieces may cross segments, even over a whole segment.
    assert_eq!(tokenizer.encode_segments([("<", Plain), ("u", Trusted), (">", Plain)]), [2]);
}

#[test]
fn a_space_prefix_is_added_once_and_removed() {
    let mut vocab = with_bytes(&[("▁", 0.0, PieceKind::Normal)]);
    vocab.add_space_prefix = true;
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(pieces(&tokenizer, "é"), ["▁", "<0xC3>", "<0xA9>"]);
    assert!(pieces(&tokenizer, "").is_empty());
    for bytes in [&b""[..], b" ", b"x", b"\xffx", b"x\xffy"] {
        let ids = tokenizer.encode_bytes(bytes, Special::Plain).unwrap();
        assert_eq!(tokenizer.decode_bytes(&ids, ControlPieces::Omit), bytes);
    }
}

#[test]
fn unusable_vocabularies_are_refused() {
    use PieceKind::{Byte, Control, Normal};
    let error = |vocab| Tokenizer::new(vocab).unwrap_err();
    let mut no_unk = vocab(&[("a", 0.0, Normal)]);
    no_unk.unk = None;
    assert_eq!(error(no_unk), TokenizerError::NoFallback);
    let twice = TokenizerError::DuplicatePiece { text: "▁a".to_owned(), first: 1, second: 2 };
    assert_eq!(error(vocab(&[UNK, ("▁a", 0.0, Normal), (" a", 0.0, Control)])), twice);
    for text in ["a", "<0x+F>", "<0x1>", "<0x100>", "<0xGG>"] {
        let wrong = TokenizerError::BytePiece { id: 1, text: text.to_owned() };
        assert_eq!(error(vocab(&[UNK, (text, 0.0, Byte)])), wrong);
    }
    let nan = vocab(&[UNK, ("a", f32::NAN, Normal)]);
    assert_eq!(error(nan), TokenizerError::NanScore { id: 1 });
    let mut outside = vocab(&[UNK]);
    outside.eot = Some(1);
    assert_eq!(error(outside), TokenizerError::SpecialId { name: "eot", id: 1, pieces: 1 });
}

#[test]
fn pieces_without_text_are_never_produced() {
    use PieceKind::{Control, Normal, UserDefined};
    let empty = [("", 0.0, Normal), ("", 0.0, UserDefined), ("", 0.0, Control)];
    let tokenizer = Tokenizer::new(with_bytes(&empty)).unwrap();
    assert_eq!(pieces(&tokenizer, "ab"), ["<0x61>", "<0x62>"]);
}
