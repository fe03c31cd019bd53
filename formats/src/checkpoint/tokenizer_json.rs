//! `tokenizer.json`: turns the BPE model of the `tokenizers` library into scored pieces.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::base::{filler, AddedToken, Base, SpecialIds};
use super::merges::Merges;
use super::unique::unique;
use super::{parse_json, read, CheckpointError, MAX_TABLES};
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
    #[serde(deserialize_with = "unique")]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Merges,
}

/// Reads `tokenizer.json`. Refuses ids that are not below `vocab_size`.
pub(super) fn read_json(
    path: &Path,
    vocab_size: usize,
) -> Result<(Base, Vec<AddedToken>), CheckpointError> {
    let file = read(path)?;
    let Tokenizer { added_tokens, model } = parse_json(&file, MAX_TABLES)?;
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
        return Err(VocabError::too_many_pieces(last + 1, vocab_size));
    }
    let mut pieces: Vec<Option<Piece<'static>>> = vec![None; last + 1];
    let no_tab_byte = !model.vocab.contains_key("<0x09>");
    for (text, id) in &model.vocab {
        let kind = match text.as_str() {
            text if Some(text) == model.unk_token.as_deref() => PieceKind::Unknown,
            // Gemma's JSON spells this one byte as itself; SentencePiece's file spells it `<0x09>`.
            "\t" if no_tab_byte => PieceKind::Byte,
            text if is_byte(text) => PieceKind::Byte,
            _ => PieceKind::Normal,
        };
        let text = if kind == PieceKind::Byte && text == "\t" { "<0x09>" } else { text };
        // Pieces that no merge produces have the lowest score.
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

/// The scores by id: minus the index of the first merge that produces the piece. Merges are listed
/// in the order of SentencePiece's scores, and only that order matters.
fn scores(model: &Model) -> HashMap<u32, f32> {
    let mut scores = HashMap::new();
    for (index, piece) in model.merges.pieces().enumerate() {
        if let Some(id) = model.vocab.get(piece) {
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
