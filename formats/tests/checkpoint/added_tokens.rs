//! The lists of added tokens and of special tokens: all are read, and they must agree.

use lapidary_formats::vocab::{PieceKind, Vocab, VocabError};
use prost::Message;

use super::tokenizer::{cause, from_json, json as tokenizer_json, model, vocab};
use super::*;

/// The vocabulary of a `tokenizer.model` with `files` beside it.
fn beside_model(files: &[(&str, Value)]) -> Result<Vocab, CheckpointError> {
    vocab(|dir| {
        dir.write("tokenizer.model", &model().encode_to_vec());
        files.iter().for_each(|(name, value)| dir.json(name, value));
    })
}

/// `tokenizer.json` with one more added token.
fn with_token(token: Value) -> Value {
    let mut tokenizer = tokenizer_json();
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    tokenizer
}

fn decoder(id: &str, content: &str) -> Value {
    json!({"added_tokens_decoder": {id: {"content": content, "special": true}}})
}

fn piece(vocab: &Vocab, id: u32) -> (&str, PieceKind) {
    (vocab.pieces.text(id), vocab.pieces.kind(id))
}

/// transformers 5 lists added tokens in `tokenizer.json` only, and fine-tunes leave the base's
/// `tokenizer.model` beside it.
#[test]
fn tokens_that_only_tokenizer_json_has_are_read() {
    let more = with_token(json!({"id": 12, "content": "<|im_start|>", "special": true}));
    let vocab = beside_model(&[("tokenizer.json", more)]).unwrap();
    assert_eq!(piece(&vocab, 12), ("<|im_start|>", PieceKind::Control));
    assert_eq!(piece(&vocab, 11), ("[PAD11]", PieceKind::Unused));

    let renamed = with_token(json!({"id": 8, "content": "<|im_start|>", "special": true}));
    let vocab = beside_model(&[("tokenizer.json", renamed.clone())]).unwrap();
    assert_eq!(piece(&vocab, 8), ("<|im_start|>", PieceKind::Control));
    // Some fine-tunes rename the piece itself, too.
    let mut both = renamed;
    let pieces = both["model"]["vocab"].as_object_mut().unwrap();
    pieces.remove("ab");
    pieces.insert("<|im_start|>".into(), json!(8));
    assert_eq!(beside_model(&[("tokenizer.json", both)]).unwrap(), vocab);
}

#[test]
fn lists_that_agree_are_one() {
    let token = json!({"id": 12, "content": "<tool>", "special": true});
    let lists = [
        ("tokenizer.json", with_token(token)),
        ("tokenizer_config.json", decoder("12", "<tool>")),
        ("added_tokens.json", json!({"<tool>": 12, "a word": 13})),
    ];
    let vocab = beside_model(&lists).unwrap();
    assert_eq!(piece(&vocab, 12), ("<tool>", PieceKind::Control));
    assert_eq!(piece(&vocab, 13), ("a▁word", PieceKind::UserDefined));
}

#[test]
fn files_that_contradict_each_other_are_refused_by_name() {
    let token = |id: u32, content| with_token(json!({"id": id, "content": content}));
    let mut pieces = tokenizer_json();
    pieces["model"]["vocab"] = json!({"ab": 8, "b": 9});
    let mut longer = tokenizer_json();
    longer["model"]["vocab"]["abab"] = json!(10);
    let mut shorter = tokenizer_json();
    shorter["model"]["vocab"].as_object_mut().unwrap().remove("a");
    let map = |eos| ("special_tokens_map.json", json!({"eos_token": eos}));
    let eos = ("tokenizer_config.json", json!({"eos_token": {"content": "<end_of_turn>"}}));
    let cases = [
        (
            vec![
                ("tokenizer.json", token(12, "<a>")),
                ("tokenizer_config.json", decoder("12", "<b>")),
            ],
            "tokenizer_config.json: token 12 is `<b>`, but in tokenizer.json it is `<a>`",
        ),
        (
            vec![
                ("tokenizer.json", token(12, "<a>")),
                ("tokenizer_config.json", decoder("13", "<a>")),
            ],
            "tokenizer_config.json: token 13 is `<a>`, but in tokenizer.json it is token 12",
        ),
        (
            vec![
                ("tokenizer_config.json", decoder("12", "<a>")),
                ("added_tokens.json", json!({"<b>": 12})),
            ],
            "added_tokens.json: token 12 is `<b>`, but in tokenizer_config.json it is `<a>`",
        ),
        (
            vec![("tokenizer.json", token(12, "<a>")), ("added_tokens.json", json!({"<a>": 14}))],
            "added_tokens.json: token 14 is `<a>`, but in tokenizer.json it is token 12",
        ),
        (
            vec![("tokenizer.json", pieces)],
            "tokenizer.json: there is no piece 7, but in tokenizer.model it is `<0x09>`",
        ),
        (
            vec![("tokenizer.json", longer)],
            "tokenizer.json: piece 10 is `abab`, but in tokenizer.model there are only 10 pieces",
        ),
        (
            vec![("tokenizer.json", shorter)],
            "tokenizer.json: there is no piece 9, but in tokenizer.model it is `a`",
        ),
        (
            vec![map("<eos>"), eos.clone()],
            "special_tokens_map.json: eos_token is `<eos>`, but in tokenizer_config.json it is `<end_of_turn>`",
        ),
    ];
    for (files, expected) in cases {
        let message = beside_model(&files).unwrap_err().to_string();
        let expected = format!("{expected}: which of the two is right cannot be known");
        assert!(message.ends_with(&expected), "{message}");
    }
    assert_eq!(beside_model(&[map("<end_of_turn>"), eos]).unwrap().eos, Some(5));
}

#[test]
fn tokens_are_matched_as_their_flags_say_or_refused() {
    let flagged = |id: u32, flag: &str| {
        let tokenizer = with_token(json!({"id": id, "content": "<t>", flag: true}));
        vocab(|dir| dir.json("tokenizer.json", &tokenizer))
    };
    for flag in ["lstrip", "rstrip", "single_word"] {
        let message = flagged(12, flag).unwrap_err().to_string();
        let expected =
            format!("tokenizer.json: token `<t>` has `{flag}`, which GGUF files cannot say");
        assert!(message.contains(&expected), "{message}");
        // Without a row it is never matched.
        assert_eq!(flagged(16, flag).unwrap().left_out, ["<t>"]);
    }
    assert_eq!(piece(&flagged(12, "normalized").unwrap(), 12), ("<t>", PieceKind::UserDefined));
    assert_eq!(piece(&flagged(12, "special").unwrap(), 12), ("<t>", PieceKind::Control));
    // A flag in any of the lists.
    let config = json!({"added_tokens_decoder": {"12": {"content": "<t>", "rstrip": true}}});
    let plain = with_token(json!({"id": 12, "content": "<t>"}));
    let refused = beside_model(&[("tokenizer.json", plain), ("tokenizer_config.json", config)]);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("token `<t>` has `rstrip`"), "{message}");
}

/// transformers finds the tokens that are not `normalized` first, in all of a text, and the others in what
/// is left. One pass finds the same unless two tokens can share characters.
#[test]
fn tokens_that_would_be_found_elsewhere_are_refused() {
    let with = |tokens: &[(&str, bool)]| {
        let mut tokenizer = tokenizer_json();
        let list = tokenizer["added_tokens"].as_array_mut().unwrap();
        for (id, (content, normalized)) in (12..).zip(tokens) {
            list.push(json!({"id": id, "content": content, "normalized": normalized}));
        }
        vocab(|dir| dir.json("tokenizer.json", &tokenizer))
    };
    let overlapping = [
        [("foobar", true), ("foo", false)],
        [("foo", true), ("xfoox", false)],
        [("abc", true), ("cde", false)],
        [("cde", true), ("abc", false)],
        // The tokenizer has `▁▁`.
        [(" foo", true), ("x", false)],
    ];
    for tokens in overlapping {
        let message = with(&tokens).unwrap_err().to_string();
        let expected = format!("token `{}` has `normalized: true, and overlaps", tokens[0].0);
        assert!(message.contains(&expected), "{tokens:?}: {message}");
    }
    let message = with(&[("▁foo", false)]).unwrap_err().to_string();
    assert!(message.contains("token `▁foo` has `normalized: false, but a ▁`"), "{message}");
    for tokens in [[("foo", true), ("bar", true)], [("foo", false), ("foobar", false)]] {
        with(&tokens).unwrap();
    }
    with(&[("<tool_call>", true), ("a word", true), ("two words", false)]).unwrap();
}

#[test]
fn special_tokens_of_either_file_are_used() {
    let map = json!({"eos_token": "<end_of_turn>", "pad_token": {"content": "<eos>"},
        "additional_special_tokens": ["ab", "<image>"]});
    let found = beside_model(&[("special_tokens_map.json", map)]).unwrap();
    assert_eq!((found.eos, found.pad, found.bos), (Some(5), Some(1), Some(2)));
    assert_eq!(piece(&found, 8), ("ab", PieceKind::Control));
    assert_eq!(found.left_out, ["<image>"]);
    for key in ["sep_token", "cls_token", "mask_token"] {
        let found = beside_model(&[("tokenizer_config.json", json!({ key: "ab" }))]).unwrap();
        assert_eq!(piece(&found, 8), ("ab", PieceKind::Control), "{key}");
    }
    // As in transformers, a list of added tokens says which of them are special.
    let map = ("special_tokens_map.json", json!({"additional_special_tokens": ["a"]}));
    let listed = ("tokenizer_config.json", decoder("12", "<tool>"));
    assert_eq!(piece(&beside_model(&[map, listed]).unwrap(), 9), ("a", PieceKind::Normal));
    let extra = json!({"extra_special_tokens": {"tool_token": "ab"}});
    let found = beside_model(&[("tokenizer_config.json", extra)]).unwrap();
    assert_eq!(piece(&found, 8), ("ab", PieceKind::Control));
}

/// Such tokens were added after training. Others than the one that begins texts can be left out.
#[test]
fn special_tokens_without_a_row_are_left_out() {
    let mut config = decoder("16", "[PAD]");
    config["pad_token"] = json!("[PAD]");
    config["eos_token"] = json!("[PAD]");
    config["unk_token"] = json!("[UNK]");
    config["add_eos_token"] = json!(true);
    let found = beside_model(&[("tokenizer_config.json", config.clone())]).unwrap();
    assert_eq!((found.pad, found.unk, found.eos), (None, None, Some(1)));
    assert_eq!(found.left_out, ["[PAD]", "[UNK]"]);
    assert!(found.add_eos);
    config["bos_token"] = json!("[PAD]");
    let refused = cause(beside_model(&[("tokenizer_config.json", config)]));
    assert!(matches!(refused, VocabError::NoSuchPiece { what: "bos_token", .. }));
}

#[test]
fn other_rules_than_gemmas_are_refused() {
    let lower = json!({"type": "Lowercase"});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let split =
        |by| json!({"type": "Split", "pattern": {"String": by}, "behavior": "MergedWithPrevious"});
    let set = |key: &str, value: &Value| {
        let mut tokenizer = tokenizer_json();
        match key.strip_prefix("model.") {
            Some(key) => tokenizer["model"][key] = value.clone(),
            None => tokenizer[key] = value.clone(),
        }
        from_json(tokenizer)
    };
    let refused = [
        ("normalizer", lower.clone()),
        ("normalizer", json!({"type": "Sequence", "normalizers": [lower, replace]})),
        ("normalizer", json!({"type": "Prepend", "prepend": "▁"})),
        ("pre_tokenizer", json!({"type": "ByteLevel"})),
        ("pre_tokenizer", split("a")),
        ("model.dropout", json!(0.1)),
        ("model.byte_fallback", json!(false)),
        ("model.ignore_merges", json!(true)),
        ("model.continuing_subword_prefix", json!("##")),
        ("model.end_of_word_suffix", json!("</w>")),
    ];
    for (key, value) in refused {
        let message = set(key, &value).unwrap_err().to_string();
        assert!(message.contains(&format!("tokenizer.json: `{key}` is ")), "{message}");
    }
    let usual = [
        ("normalizer", replace.clone()),
        ("normalizer", json!({"type": "Sequence", "normalizers": [replace]})),
        ("pre_tokenizer", split(" ")),
        ("pre_tokenizer", Value::Null),
        ("model.dropout", Value::Null),
        ("model.byte_fallback", json!(true)),
        ("model.ignore_merges", json!(false)),
        ("model.continuing_subword_prefix", json!("")),
    ];
    let plain = from_json(tokenizer_json()).unwrap();
    for (key, value) in usual {
        assert_eq!(set(key, &value).unwrap(), plain, "{key}");
    }
}

/// Editors on Windows put a byte order mark before the text of every file.
#[test]
fn byte_order_marks_are_not_part_of_any_file() {
    let marked = |value: &Value| format!("\u{feff}{value}").into_bytes();
    let dir = Dir::new();
    dir.write("config.json", &marked(&config()));
    dir.write("generation_config.json", &marked(&json!({"eos_token_id": 7})));
    dir.write("tokenizer.json", &marked(&tokenizer_json()));
    dir.write("tokenizer_config.json", &marked(&decoder("12", "<tool>")));
    dir.write("added_tokens.json", &marked(&json!({"word": 13})));
    dir.write("special_tokens_map.json", &marked(&json!({"eos_token": "<end_of_turn>"})));
    dir.write("chat_template.jinja", "\u{feff}{{ bos_token }}".as_bytes());
    let checkpoint = dir.open().unwrap();
    let vocab = checkpoint.vocab().unwrap();
    assert_eq!(checkpoint.stop_ids().ids, [7]);
    assert_eq!((vocab.pieces.text(12), vocab.pieces.text(13)), ("<tool>", "word"));
    assert_eq!(vocab.eos, Some(5));
    assert_eq!(checkpoint.chat_template().unwrap().as_deref(), Some("{{ bos_token }}"));
}
