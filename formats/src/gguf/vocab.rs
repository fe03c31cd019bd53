//! Reads the vocabulary from GGUF metadata and writes it.

use super::error::GgufError;
use super::read::Gguf;
use super::value::{Array, ValueType};
use super::write::Header;
use crate::vocab::{is_control_text, Piece, PieceKind, Pieces, Vocab, VocabError};

/// Bytes of the length that precedes a string.
const STRING_LEN: usize = size_of::<u64>();

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

impl Vocab {
    /// Reads the vocabulary from a GGUF file's metadata.
    ///
    /// User-defined pieces are returned with `▁`, whether the file has spaces or `▁`. Keys that
    /// are absent get Gemma's values: `add_bos_token` true, `add_space_prefix` false (the first
    /// Gemma 2 files lacked it, [llama.cpp#8248](https://github.com/ggml-org/llama.cpp/pull/8248)),
    /// and `<end_of_turn>` as the end of a chat turn.
    ///
    /// # Errors
    /// If a key is missing or has the wrong type, the lists differ in length, a special id is
    /// outside the vocabulary, or the tokenizer is not SentencePiece BPE.
    pub fn from_gguf(gguf: &Gguf) -> Result<Vocab, GgufError> {
        let error = |cause| GgufError::Vocab { path: gguf.path().to_owned(), cause };
        match gguf.str(MODEL)?.ok_or_else(|| missing(gguf, MODEL))? {
            "llama" => {}
            other => return Err(error(VocabError::Model(other.to_owned()))),
        }
        let pieces = pieces(gguf)?;
        let mut vocab = Vocab {
            pieces,
            bos: gguf.u32(BOS)?,
            eos: id(gguf, EOS)?,
            eot: id(gguf, EOT)?,
            unk: id(gguf, UNK)?,
            pad: id(gguf, PAD)?,
            add_bos: gguf.bool(ADD_BOS)?.unwrap_or(true),
            add_space_prefix: gguf.bool(ADD_SPACE)?.unwrap_or(false),
            add_eos: gguf.bool(ADD_EOS)?.unwrap_or(false),
            left_out: Vec::new(),
        };
        vocab.bos = vocab.bos.or_else(|| vocab.find("<bos>"));
        vocab.eos = vocab.eos.or_else(|| vocab.find("<eos>"));
        vocab.eot = vocab.eot.or_else(|| vocab.find("<end_of_turn>"));
        // llama.cpp's converter marks `<unk>` as a control piece; a checkpoint has it as unknown.
        let unk = vocab.unk.and_then(|id| Some((id, vocab.pieces.get(id)?.kind)));
        if let Some((id, PieceKind::Control)) = unk {
            vocab.pieces.set_kind(id, PieceKind::Unknown);
        }
        vocab.checked().map_err(error)
    }
}

impl Header {
    /// Sets the metadata keys of a vocabulary, `tokenizer.ggml.*`, as llama.cpp's converter does:
    /// user-defined pieces are written with spaces instead of `▁`, because llama.cpp matches them
    /// in raw text.
    pub fn set_vocab(&mut self, vocab: &Vocab) {
        let pieces = &vocab.pieces;
        let text = |p: Piece| match p.kind {
            PieceKind::UserDefined => p.text.replace('▁', " "),
            _ => p.text.into_owned(),
        };
        self.set(MODEL, "llama");
        self.set(PRE, "default");
        self.set(TOKENS, pieces.iter().map(text).collect::<Vec<String>>());
        self.set(SCORES, pieces.iter().map(|p| p.score).collect::<Vec<f32>>());
        self.set(KINDS, pieces.iter().map(|p| p.kind as i32).collect::<Vec<i32>>());
        let ids = [
            (BOS, vocab.bos),
            (EOS, vocab.eos),
            (EOT, vocab.eot),
            (UNK, vocab.unk),
            (PAD, vocab.pad),
        ];
        for (key, id) in ids {
            if let Some(id) = id {
                self.set(key, id);
            }
        }
        self.set(ADD_BOS, vocab.add_bos);
        self.set(ADD_EOS, false);
        self.set(ADD_SPACE, vocab.add_space_prefix);
    }
}

/// A token id. Some files have -1 for a token that does not exist.
fn id(gguf: &Gguf, key: &str) -> Result<Option<u32>, GgufError> {
    match gguf.get(key).and_then(|value| value.as_int::<i64>()) {
        Some(-1) => Ok(None),
        _ => gguf.u32(key),
    }
}

/// The pieces; their texts stay in the map.
fn pieces(gguf: &Gguf) -> Result<Pieces, GgufError> {
    let tokens = array(gguf, TOKENS, "an array of str", &[ValueType::Str])?;
    let scores = array(gguf, SCORES, "an array of f32", &[ValueType::F32])?;
    let kinds = array(gguf, KINDS, "an array of i32", &[ValueType::I32, ValueType::U32])?;
    let error = |cause| GgufError::Vocab { path: gguf.path().to_owned(), cause };
    for (what, list) in [(SCORES, scores), (KINDS, kinds)] {
        if list.len() != tokens.len() {
            let (found, pieces) = (list.len(), tokens.len());
            return Err(error(VocabError::Length { what, found, pieces }));
        }
    }
    let map = gguf.metadata_map();
    // The strings lie one after the other, each preceded by its length.
    let start = map.place(tokens.bytes()).unwrap_or_default().start;
    let mut pieces = Pieces::in_map(map.clone(), start, STRING_LEN, tokens.len());
    let mut end = start;
    let texts = tokens.values().filter_map(|v| v.as_str());
    let scores = scores.values().filter_map(|v| v.as_f32());
    // A negative number is not a kind, and neither is the number that replaces it.
    let kinds = kinds.values().map(|v| v.as_int().unwrap_or(u32::MAX));
    for (id, ((text, score), kind)) in texts.zip(scores).zip(kinds).enumerate() {
        let kind =
            PieceKind::from_number(kind).ok_or_else(|| error(VocabError::Kind { id, kind }))?;
        let user_defined = kind == PieceKind::UserDefined;
        let control = user_defined && is_control_text(text);
        end += STRING_LEN + text.len();
        pieces.push(end, score, if control { PieceKind::Control } else { kind });
        if user_defined && !control && text.contains(' ') {
            pieces.respell(id as u32, text.replace(' ', "▁"));
        }
    }
    Ok(pieces)
}

/// The array under `key`, whose elements must have one of `types`.
fn array<'a>(
    gguf: &'a Gguf,
    key: &'static str,
    expected: &'static str,
    types: &[ValueType],
) -> Result<Array<'a>, GgufError> {
    let array = gguf.array(key)?.ok_or_else(|| missing(gguf, key))?;
    match types.contains(&array.element_type()) {
        true => Ok(array),
        false => Err(GgufError::ValueType {
            path: gguf.path().to_owned(),
            key: key.to_owned(),
            found: format!("an array of {}", array.element_type()),
            expected,
        }),
    }
}

fn missing(gguf: &Gguf, key: &'static str) -> GgufError {
    GgufError::MissingKey { path: gguf.path().to_owned(), key }
}
