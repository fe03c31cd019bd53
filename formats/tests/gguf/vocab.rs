//! The vocabulary in the metadata.

use lapidary_formats::gguf::{OwnedValue, ValueType};
use lapidary_formats::vocab::{Piece, PieceKind, Vocab, VocabError};

use super::*;

fn vocab() -> Vocab {
    let piece = |text: &'static str, score, kind| Piece { text: text.into(), score, kind };
    use PieceKind::*;
    Vocab {
        pieces: [
            piece("<pad>", -1000.0, Control),
            piece("<eos>", -1000.0, Control),
            piece("<bos>", -1000.0, Control),
            piece("<unk>", -1000.0, Unknown),
            piece("<end_of_turn>", -1000.0, Control),
            piece("▁▁", -1000.0, UserDefined),
            piece("<0x00>", 0.0, Byte),
            piece("▁the", -1.0, Normal),
            piece("[PAD8]", -10_000.0, Unused),
        ]
        .into_iter()
        .collect(),
        bos: Some(2),
        eos: Some(1),
        eot: Some(4),
        unk: Some(3),
        pad: Some(0),
        add_bos: true,
        add_space_prefix: false,
        add_eos: false,
        left_out: Vec::new(),
    }
}

/// Reads the vocabulary from metadata that holds [`vocab`] with `change` applied.
fn changed(change: impl FnOnce(&mut Header)) -> Result<Vocab, GgufError> {
    let mut header = Header::new();
    header.set_vocab(&vocab());
    change(&mut header);
    Vocab::from_gguf(&open(&write(header, 1)).unwrap())
}

#[test]
fn a_vocabulary_survives_the_round_trip() {
    assert_eq!(changed(|_| {}).unwrap(), vocab());
    let mut header = Header::new();
    header.set_vocab(&vocab());
    let gguf = open(&write(header, 1)).unwrap();
    let tokens = gguf.array("tokenizer.ggml.tokens").unwrap().unwrap();
    // Spaces, because llama.cpp matches user-defined pieces in raw text.
    assert_eq!(tokens.strings().unwrap().nth(5), Some("  "));
    assert_eq!(tokens.element_type(), ValueType::Str);
}

#[test]
fn a_vocabulary_of_another_converter_gets_the_same_kinds() {
    let read = changed(|h| {
        h.set("tokenizer.ggml.token_type", vec![4, 3, 3, 3, 4, 4, 6, 1, 5]);
        let texts = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", "▁▁", "<0x00>", "▁the"];
        let texts = texts.iter().chain(&["[PAD8]"]).map(|t| t.to_string());
        h.set("tokenizer.ggml.tokens", texts.collect::<Vec<_>>());
    });
    assert_eq!(read.unwrap(), vocab());
}

#[test]
fn invalid_vocabularies_are_refused() {
    let cause = |key: &str, value: OwnedValue| match changed(|h| h.set(key, value)) {
        Err(GgufError::Vocab { cause, .. }) => cause,
        other => panic!("{other:?}"),
    };
    assert!(matches!(cause("tokenizer.ggml.model", "gpt2".into()), VocabError::Model(_)));
    let short = cause("tokenizer.ggml.scores", vec![0f32; 8].into());
    assert!(matches!(short, VocabError::Length { found: 8, pieces: 9, .. }));
    let short = cause("tokenizer.ggml.token_type", vec![1i32; 10].into());
    assert!(matches!(short, VocabError::Length { found: 10, pieces: 9, .. }));
    for kind in [0, 7, -1] {
        let cause = cause("tokenizer.ggml.token_type", vec![kind; 9].into());
        assert!(matches!(cause, VocabError::Kind { id: 0, .. }));
    }
    let nan = cause("tokenizer.ggml.scores", vec![f32::NAN; 9].into());
    assert!(matches!(nan, VocabError::Score { id: 0 }));
    let long = |n: usize| {
        let mut texts = vec![String::new(); 9];
        texts[7] = "x".repeat(n);
        changed(|h| h.set("tokenizer.ggml.tokens", texts))
    };
    assert!(long(1024).is_ok());
    let message = long(1025).unwrap_err().to_string();
    assert!(message.ends_with("piece 7 is 1025 bytes long, at most 1024 are allowed"), "{message}");
    let outside = cause("tokenizer.ggml.bos_token_id", 9u32.into());
    assert!(matches!(outside, VocabError::Id { id: 9, len: 9, .. }));
}

/// Some files name a token that was added after training, and some have -1 for none.
#[test]
fn ids_without_a_piece_are_left_out() {
    for (id, what) in [("eos", "eos"), ("eot", "eot"), ("unknown", "unk"), ("padding", "pad")] {
        let found = |id: OwnedValue, key: &str| changed(|h| h.set(key, id)).unwrap();
        let key = format!("tokenizer.ggml.{id}_token_id");
        let beyond = found(9u32.into(), &key);
        assert_eq!(beyond.left_out, [format!("{what} (token 9)")]);
        assert_eq!(found(u32::MAX.into(), &key).left_out, [format!("{what} (token {})", u32::MAX)]);
        assert!(found((-1i32).into(), &key).left_out.is_empty());
    }
    let add_eos = changed(|h| h.set("tokenizer.ggml.add_eos_token", true)).unwrap();
    assert!(add_eos.add_eos && add_eos.left_out.is_empty());
}

#[test]
fn ends_are_control_pieces_with_known_names() {
    assert_eq!(vocab().ends().collect::<Vec<_>>(), [1, 4]);
    let texts = ["<eos>", "<|im_end|>", "<bos>", "</s>", "<end_of_turn>", "a", "<EOT>", "b", "c"];
    let kinds = [3, 3, 3, 4, 3, 1, 3, 1, 1];
    let renamed = changed(|h| {
        h.set("tokenizer.ggml.tokens", texts.map(str::to_owned).to_vec());
        h.set("tokenizer.ggml.token_type", kinds.to_vec());
    });
    assert_eq!(renamed.unwrap().ends().collect::<Vec<_>>(), [0, 1, 4, 6]);
}

#[test]
fn vocabulary_keys_of_the_wrong_type_are_refused() {
    let values: [(&str, OwnedValue); 6] = [
        ("tokenizer.ggml.model", 1u32.into()),
        ("tokenizer.ggml.tokens", vec![1u32; 9].into()),
        ("tokenizer.ggml.scores", vec![1f64; 9].into()),
        ("tokenizer.ggml.token_type", vec![1f32; 9].into()),
        ("tokenizer.ggml.bos_token_id", (-1i32).into()),
        ("tokenizer.ggml.add_bos_token", 1u8.into()),
    ];
    for (name, value) in values {
        let error = changed(|h| h.set(name, value)).unwrap_err();
        assert!(matches!(error, GgufError::ValueType { ref key, .. } if key == name), "{error}");
    }
    let error = Vocab::from_gguf(&open(&small().bytes()).unwrap()).unwrap_err();
    assert!(matches!(error, GgufError::MissingKey { key: "tokenizer.ggml.model", .. }));
}
