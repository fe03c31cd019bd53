//! `tokenizer.json`: the BPE model of the `tokenizers` library, turned into scored pieces.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::base::{filler, AddedToken, Base, SpecialIds};
use super::{parse_json, read, CheckpointError};
use crate::vocab::{Piece, PieceKind, VocabError};

#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    /// Absent in the oldest files, which are BPE if they have merges.
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_token: Option<String>,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// `"a b"`, or `["a", "b"]` since tokenizers 0.20.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// Reads `tokenizer.json`; ids from `vocab_size` on are refused.
pub(super) fn read_json(
    path: &Path,
    vocab_size: usize,
) -> Result<(Base, Vec<AddedToken>), CheckpointError> {
    let file = read(path)?;
    let Tokenizer { added_tokens, model } = parse_json(&file)?;
    let error = |cause| CheckpointError::Vocab { path: path.to_owned(), cause };
    let base = convert(&model, vocab_size).map_err(error)?;
    Ok((base, added_tokens))
}

fn convert(model: &Model, vocab_size: usize) -> Result<Base, VocabError> {
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(VocabError::Model(model.kind.clone().unwrap_or_default()));
    }
    let scores = scores(model);
    let last = model.vocab.values().max().map_or(0, |id| *id as usize);
    if last >= vocab_size {
        let what = "the tokenizer's last piece".to_owned();
        return Err(VocabError::Id { what, id: last as u64, len: vocab_size });
    }
    let mut pieces: Vec<Option<Piece<'static>>> = vec![None; last + 1];
    let no_tab_byte = !model.vocab.contains_key("<0x09>");
    for (text, id) in &model.vocab {
        let kind = match text.as_str() {
            text if Some(text) == model.unk_token.as_deref() => PieceKind::Unknown,
            // Gemma's JSON spells this one byte as itself; SentencePiece's file does not.
            "\t" if no_tab_byte => PieceKind::Byte,
            text if is_byte(text) => PieceKind::Byte,
            _ => PieceKind::Normal,
        };
        let text = if kind == PieceKind::Byte && text == "\t" { "<0x09>" } else { text };
        // No merge makes the pieces without a score; they come after all that are made.
        let score = scores.get(id).copied().unwrap_or(-(model.merges.len() as f32));
        let piece = Piece { text: text.to_owned().into(), score, kind };
        if pieces[*id as usize].replace(piece).is_some() {
            return Err(VocabError::DuplicateId(*id));
        }
    }
    let fill = |(id, piece): (usize, Option<Piece<'static>>)| piece.unwrap_or_else(|| filler(id));
    let pieces = pieces.into_iter().enumerate().map(fill).collect();
    let unk = model.unk_token.as_deref().and_then(|text| model.vocab.get(text)).copied();
    Ok(Base { pieces, special: SpecialIds { unk, ..SpecialIds::default() } })
}

/// By id: minus the index of the first merge that makes the piece. Merges are listed in the order
/// of SentencePiece's scores, of which only the order matters.
fn scores(model: &Model) -> HashMap<u32, f32> {
    let mut scores = HashMap::new();
    let mut text = String::new();
    for (index, merge) in model.merges.iter().enumerate() {
        text.clear();
        match merge {
            // Spaces are `▁` in pieces, so that the only one is the separator.
            Merge::Joined(pair) => text.extend(pair.chars().filter(|c| *c != ' ')),
            Merge::Pair(left, right) => text.extend([left.as_str(), right.as_str()]),
        }
        if let Some(id) = model.vocab.get(text.as_str()) {
            scores.entry(*id).or_insert(-(index as f32));
        }
    }
    scores
}

/// Whether `text` is `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}
