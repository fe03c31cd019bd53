//! `tokenizer.json`: turns the BPE model of the `tokenizers` library into scored pieces.

use std::collections::HashMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{json, Value};

use super::added::{contradiction, AddedToken, AddedTokens};
use super::base::{filler, Base, SpecialIds};
use super::merges::Merges;
use super::unique::unique;
use super::{parse_json, read, CheckpointError, MAX_TABLES};
use crate::vocab::{Piece, PieceKind, VocabError};

/// `M` is what is read of the list of merges, the largest part of the file.
#[derive(Deserialize)]
struct Tokenizer<'a, M> {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    pre_tokenizer: Option<Value>,
    #[serde(bound(deserialize = "M: Default + Deserialize<'de>"))]
    model: Model<M>,
}

#[derive(Deserialize)]
struct Model<M> {
    /// Absent in the oldest files, which are BPE if they have merges.
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_token: Option<String>,
    #[serde(deserialize_with = "unique")]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: M,
    dropout: Option<f64>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// Reads `tokenizer.json`. Refuses ids that are not below `vocab_size`.
pub(super) fn read_json(
    path: &Path,
    vocab_size: usize,
) -> Result<(Base, Vec<AddedToken>), CheckpointError> {
    let file = read(path)?;
    let tokenizer: Tokenizer<Merges> = parse_json(&file, MAX_TABLES)?;
    tokenizer.check_rules(path)?;
    let error = |cause| CheckpointError::Vocab { path: path.to_owned(), cause };
    let base = convert(&tokenizer.model, vocab_size).map_err(error)?;
    Ok((base, tokenizer.added_tokens))
}

/// What a `tokenizer.json` beside a `tokenizer.model` says.
pub(super) struct Companion {
    vocab: HashMap<String, u32>,
}

impl Companion {
    /// Reads it. Also returns its added tokens.
    pub fn read(path: &Path) -> Result<(Self, Vec<AddedToken>), CheckpointError> {
        let file = read(path)?;
        let tokenizer: Tokenizer<IgnoredAny> = parse_json(&file, MAX_TABLES)?;
        tokenizer.check_rules(path)?;
        Ok((Self { vocab: tokenizer.model.vocab }, tokenizer.added_tokens))
    }

    /// Checks that the file has the pieces of the other one, `model`, except for those that the
    /// lists of added tokens decide about.
    ///
    /// # Errors
    /// For the first piece that differs.
    pub fn check(
        &self,
        (path, model): (&Path, &Path),
        base: &Base,
        added: &AddedTokens,
    ) -> Result<(), CheckpointError> {
        let mut texts: Vec<Option<&str>> = vec![None; base.pieces.len()];
        let mut ids: Vec<(u32, &str)> =
            self.vocab.iter().map(|(text, id)| (*id, &**text)).collect();
        ids.sort_unstable();
        for (id, text) in ids.into_iter().filter(|(id, _)| !added.contains(*id)) {
            match texts.get_mut(id as usize) {
                Some(place) => *place = Some(if text == "\t" { "<0x09>" } else { text }),
                None => {
                    let what = format!("piece {id} is `{text}`");
                    let other = format!("there are only {} pieces", base.pieces.len());
                    return Err(contradiction(path, what, model, other));
                }
            }
        }
        let pieces = base.pieces.iter().zip(texts).enumerate();
        for (id, (piece, text)) in pieces.filter(|(id, _)| !added.contains(*id as u32)) {
            let same = |text: &str| text == piece.text || (text == "<0x09>" && piece.text == "\t");
            if !text.is_some_and(same) {
                let what = match text {
                    Some(text) => format!("piece {id} is `{text}`"),
                    None => format!("there is no piece {id}"),
                };
                return Err(contradiction(path, what, model, format!("it is `{}`", piece.text)));
            }
        }
        Ok(())
    }
}

impl<M> Tokenizer<'_, M> {
    /// Refuses rules by which a text would be split in another way than by Gemma's tokenizers:
    /// spaces become `▁`, nothing else is changed or split, and merges are applied to all of a text.
    fn check_rules(&self, path: &Path) -> Result<(), CheckpointError> {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let normalizer = self.normalizer.map(|raw| raw.get().parse().unwrap_or(Value::Null));
        let is_usual = |value: &Value| {
            *value == replace || *value == json!({"type": "Sequence", "normalizers": [replace]})
        };
        let mut unusual = Vec::new();
        // The key is absent only in files that were made by hand.
        if let Some(value) = normalizer.filter(|value| !is_usual(value)) {
            unusual.push(("normalizer", value));
        }
        // There are no spaces left to split at.
        let at_spaces = |value: &Value| {
            value["type"] == "Split"
                && value["pattern"] == json!({"String": " "})
                && value["invert"] != true
        };
        if let Some(value) = self.pre_tokenizer.as_ref().filter(|value| !at_spaces(value)) {
            unusual.push(("pre_tokenizer", value.clone()));
        }
        let m = &self.model;
        unusual.extend(m.dropout.filter(|p| *p != 0.0).map(|p| ("model.dropout", json!(p))));
        unusual
            .extend(m.byte_fallback.filter(|on| !on).map(|on| ("model.byte_fallback", json!(on))));
        unusual
            .extend(m.ignore_merges.filter(|on| *on).map(|on| ("model.ignore_merges", json!(on))));
        let affixes = [
            ("model.continuing_subword_prefix", &m.continuing_subword_prefix),
            ("model.end_of_word_suffix", &m.end_of_word_suffix),
        ];
        for (key, affix) in affixes {
            unusual.extend(affix.as_ref().filter(|a| !a.is_empty()).map(|a| (key, json!(a))));
        }
        match unusual.into_iter().next() {
            None => Ok(()),
            Some((key, value)) => {
                let (path, value) = (path.to_owned(), value.to_string());
                Err(CheckpointError::TokenizerRule { path, key, value })
            }
        }
    }
}

fn convert(model: &Model<Merges>, vocab_size: usize) -> Result<Base, VocabError> {
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
fn scores(model: &Model<Merges>) -> HashMap<u32, f32> {
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
