//! The vocabulary, from `tokenizer.model` and `tokenizer.json`.

use lapidary_formats::gguf::{Gguf, Header, Writer};
use lapidary_formats::vocab::{PieceKind, Vocab, VocabError};
use prost::Message;

use super::*;

#[derive(Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
}

#[derive(Message)]
struct SentencePiece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, tag = "3")]
    kind: i32,
}

#[derive(Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pad_id: Option<i32>,
}

/// Ten pieces in Gemma's order, with SentencePiece's kinds.
pub(super) fn model() -> ModelProto {
    let pieces = [
        ("<pad>", 0.0, 3),
        ("<eos>", 0.0, 3),
        ("<bos>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("<start_of_turn>", 0.0, 4),
        ("<end_of_turn>", 0.0, 4),
        ("▁▁", 0.0, 4),
        ("<0x09>", 0.0, 6),
        ("ab", -1.0, 1),
        ("a", -3.0, 1),
    ];
    let piece =
        |(text, score, kind): (&str, f32, i32)| SentencePiece { piece: text.into(), score, kind };
    let spec = TrainerSpec {
        model_type: Some(2),
        unk_id: Some(3),
        bos_id: Some(2),
        eos_id: Some(1),
        pad_id: Some(0),
    };
    ModelProto { pieces: pieces.map(piece).into(), trainer_spec: Some(spec) }
}

/// The same as `tokenizer.json`.
pub(super) fn json() -> Value {
    let added = |id: u32, content: &str, special: bool| json!({"id": id, "content": content, "special": special});
    json!({
        "added_tokens": [
            added(0, "<pad>", true), added(1, "<eos>", true), added(2, "<bos>", true),
            added(3, "<unk>", true), added(4, "<start_of_turn>", true),
            added(5, "<end_of_turn>", true), added(6, "▁▁", true),
        ],
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {
                "<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 4,
                "<end_of_turn>": 5, "▁▁": 6, "\t": 7, "ab": 8, "a": 9,
            },
            "merges": ["▁ ▁", "a b", ["a", "b"]],
        },
    })
}

pub(super) fn vocab(write: impl FnOnce(&Dir)) -> Result<Vocab, CheckpointError> {
    let dir = Dir::new();
    write(&dir);
    dir.open().unwrap().vocab()
}

fn from_model(model: ModelProto) -> Result<Vocab, CheckpointError> {
    vocab(|dir| dir.write("tokenizer.model", &model.encode_to_vec()))
}

pub(super) fn from_json(tokenizer: Value) -> Result<Vocab, CheckpointError> {
    vocab(|dir| dir.json("tokenizer.json", &tokenizer))
}

/// The vocabulary of [`model`] with this `tokenizer_config.json`.
fn configured(config: Value) -> Result<Vocab, CheckpointError> {
    vocab(|dir| {
        dir.write("tokenizer.model", &model().encode_to_vec());
        dir.json("tokenizer_config.json", &config);
    })
}

pub(super) fn cause(vocab: Result<Vocab, CheckpointError>) -> VocabError {
    match vocab {
        Err(CheckpointError::Vocab { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

fn assert_agree(a: &Vocab, b: &Vocab) {
    let order = |v: &Vocab| {
        let mut normal: Vec<_> = v.pieces.iter().filter(|p| p.kind == PieceKind::Normal).collect();
        // Single characters are never the result of a merge; their scores have no meaning.
        normal.retain(|p| p.text.chars().nth(1).is_some());
        normal.sort_by(|p, q| q.score.total_cmp(&p.score));
        normal.into_iter().map(|p| p.text.into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(a.pieces.len(), b.pieces.len());
    for (id, (p, q)) in a.pieces.iter().zip(b.pieces.iter()).enumerate() {
        assert_eq!((&p.text, p.kind), (&q.text, q.kind), "piece {id}");
        assert!(p.kind == PieceKind::Normal || p.score == q.score, "piece {id}");
    }
    assert_eq!(order(a), order(b));
    let pieces = a.pieces.clone();
    assert_eq!(*a, Vocab { pieces, ..b.clone() });
}

#[test]
fn both_files_give_the_same_vocabulary() {
    let (model, json) = (from_model(model()).unwrap(), from_json(json()).unwrap());
    assert_agree(&model, &json);
    use PieceKind::*;
    let kinds: Vec<_> = model.pieces.iter().map(|p| p.kind).collect();
    let trained =
        [Control, Control, Control, Unknown, Control, Control, UserDefined, Byte, Normal, Normal];
    assert_eq!(kinds[..10], trained);
    assert_eq!(kinds[10..], [Unused; 6]);
    assert_eq!(model.pieces.text(10), "[PAD10]");
    assert_eq!((model.bos, model.eos, model.eot), (Some(2), Some(1), Some(5)));
    assert_eq!((model.unk, model.pad, model.add_bos), (Some(3), Some(0), true));
    assert!(!model.add_space_prefix);
    assert_eq!((json.pieces.score(8), json.pieces.score(9)), (-1.0, -3.0));
}

#[test]
fn both_files_of_the_fixture_give_the_same_vocabulary() {
    let with = |file: &str| {
        let dir = TempDir::new().unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer_config.json", file] {
            fs::copy(fixture().join(name), dir.path().join(name)).unwrap();
        }
        Checkpoint::open(dir.path()).unwrap().vocab().unwrap()
    };
    let model = with("tokenizer.model");
    assert_agree(&model, &with("tokenizer.json"));
    assert_eq!(model.pieces.text(226), "<0x09>");
    assert_eq!((model.pieces.text(108), model.eot), ("\n", Some(107)));

    let path = TempDir::new().unwrap();
    let path = path.path().join("vocab.gguf");
    let mut header = Header::new();
    header.set_vocab(&model);
    Writer::new(fs::File::create(&path).unwrap(), header).unwrap().finish().unwrap();
    assert_eq!(Vocab::from_gguf(&Gguf::open(&path).unwrap()).unwrap(), model);
}

#[test]
fn added_tokens_rename_and_add_pieces() {
    let added = json!({
        "3": {"content": "<unk>", "special": true},
        "8": {"content": "<|im_start|>", "special": false},
        "9": {"content": "a b", "special": false},
        "10": {"content": "<tool>", "special": true},
        "11": {"content": "\n\n", "special": true},
        "12": {"content": "<unused7>"},
    });
    let config = json!({"added_tokens_decoder": added, "eos_token": "<tool>",
        "pad_token": {"content": "<eos>"}, "bos_token": null, "add_bos_token": false});
    let vocab = configured(config).unwrap();
    let found = |id| (vocab.pieces.text(id), vocab.pieces.kind(id));
    use PieceKind::*;
    assert_eq!(found(3), ("<unk>", Unknown));
    assert_eq!(found(8), ("<|im_start|>", Control));
    assert_eq!(found(9), ("a▁b", UserDefined));
    assert_eq!(found(10), ("<tool>", Control));
    assert_eq!(found(11), ("\n\n", UserDefined));
    assert_eq!(found(12), ("<unused7>", UserDefined));
    assert_eq!(found(13), ("[PAD13]", Unused));
    assert_eq!((vocab.bos, vocab.eos, vocab.pad), (Some(2), Some(10), Some(1)));
    assert!(!vocab.add_bos);
}

#[test]
fn older_lists_of_added_tokens_are_read() {
    let vocab = vocab(|dir| {
        dir.write("tokenizer.model", &model().encode_to_vec());
        dir.json("added_tokens.json", &json!({"<|im_end|>": 11, "word": 10}));
    });
    let vocab = vocab.unwrap();
    assert_eq!(vocab.pieces.kind(10), PieceKind::UserDefined);
    assert_eq!(vocab.pieces.kind(11), PieceKind::Control);
}

#[test]
fn tokenizers_larger_than_the_embedding_are_refused() {
    let mut large = model();
    large.pieces.extend((0..7).map(|i| SentencePiece {
        piece: format!("more{i}"),
        score: -9.0,
        kind: 1,
    }));
    assert!(matches!(cause(from_model(large)), VocabError::Id { id: 16, len: 16, .. }));
    let mut large = json();
    large["model"]["vocab"]["more"] = json!(4_000_000_000u32);
    assert!(matches!(cause(from_json(large)), VocabError::Id { id: 4_000_000_000, .. }));
    let claimed = vocab(|dir| {
        let mut config = config();
        config["vocab_size"] = json!(1 << 20);
        dir.json("config.json", &config);
        dir.write("tokenizer.model", &model().encode_to_vec());
    });
    assert_eq!(claimed.unwrap().pieces.len(), 16, "the embedding decides, whatever is claimed");
}

/// Gemma 3's tokenizer has a token for images beside models of text.
#[test]
fn added_tokens_without_a_row_are_left_out_and_named() {
    let dir = Dir::new();
    dir.write("tokenizer.model", &model().encode_to_vec());
    let added = json!({"16": {"content": "<image>"}, "4000000000": {"content": "<more>"}});
    dir.json("tokenizer_config.json", &json!({ "added_tokens_decoder": added }));
    dir.json("added_tokens.json", &json!({"<image>": 16, "<here>": 15}));
    let checkpoint = dir.open().unwrap();
    let vocab = checkpoint.vocab().unwrap();
    assert_eq!(
        (vocab.pieces.len(), vocab.find("<image>"), vocab.find("<here>")),
        (16, None, Some(15))
    );
    assert_eq!(vocab.left_out, ["<image>", "<more>"]);
}

#[test]
fn tokenizers_of_another_kind_are_refused() {
    let mut unigram = model();
    unigram.trainer_spec = None;
    assert_eq!(cause(from_model(unigram)), VocabError::Model("unigram".into()));
    let mut word_piece = json();
    word_piece["model"]["type"] = json!("WordPiece");
    assert_eq!(cause(from_json(word_piece)), VocabError::Model("WordPiece".into()));
    assert!(matches!(vocab(|_| {}), Err(CheckpointError::NoTokenizer { .. })));
}

#[test]
fn malformed_tokenizers_are_refused() {
    let mut twice = json();
    twice["model"]["vocab"]["b"] = json!(8);
    assert_eq!(cause(from_json(twice)), VocabError::DuplicateId(8));
    let mut kind = model();
    kind.pieces[4].kind = 9;
    assert_eq!(cause(from_model(kind)), VocabError::Kind { id: 4, kind: 9 });
    let mut nan = model();
    nan.pieces[8].score = f32::NAN;
    assert_eq!(cause(from_model(nan)), VocabError::Score { id: 8 });
    let mut outside = model();
    outside.trainer_spec.as_mut().unwrap().bos_id = Some(99);
    assert!(matches!(cause(from_model(outside)), VocabError::Id { id: 99, .. }));
    let nobody = cause(configured(json!({"eos_token": "<nobody>"})));
    assert!(matches!(nobody, VocabError::NoSuchPiece { what: "eos_token", .. }));
    let bytes = model().encode_to_vec();
    let cut = vocab(|dir| dir.write("tokenizer.model", &bytes[..bytes.len() - 1]));
    assert!(matches!(cut, Err(CheckpointError::SentencePiece { .. })));
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    let pointer = vocab(|dir| dir.write("tokenizer.model", pointer));
    assert!(matches!(pointer, Err(CheckpointError::StandIn { .. })));
    let no_json = vocab(|dir| dir.write("tokenizer.json", b"{\"model\": 1}"));
    assert!(matches!(no_json, Err(CheckpointError::Json { .. })));
}

#[test]
fn pieces_that_occur_twice_are_refused() {
    let text = json().to_string().replacen("\"<pad>\":0", "\"<pad>\":0,\"<pad>\":9", 1);
    let twice = vocab(|dir| dir.write("tokenizer.json", text.as_bytes()));
    let message = twice.unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: \"<pad>\" occurs twice"), "{message}");
}

#[test]
fn invalid_merges_are_refused() {
    for merges in
        [json!(["a b", 1]), json!([["a"]]), json!([["a", "b", "c"]]), json!([[1, 2]]), json!("a b")]
    {
        let mut tokenizer = json();
        tokenizer["model"]["merges"] = merges.clone();
        let error = from_json(tokenizer).unwrap_err();
        assert!(matches!(error, CheckpointError::Json { .. }), "{merges}: {error}");
    }
}

#[test]
fn pieces_that_are_too_long_are_refused() {
    let mut long = model();
    long.pieces[8].piece = "a".repeat(1025);
    let cause = cause(from_model(long)).to_string();
    assert_eq!(cause, "piece 8 is 1025 bytes long, at most 1024 are allowed");
}
