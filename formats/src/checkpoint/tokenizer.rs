//! The vocabulary of a checkpoint, from whichever tokenizer files it has, and its chat template.
//!
//! `tokenizer.model` and `tokenizer.json` both give a [`Base`]. The lists of added tokens beside
//! them are then applied to it by one set of rules, so that pieces have the same kinds whichever
//! file they came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::base::{filler, AddedToken, Base};
use super::unique::unique;
use super::{
    parse_json, read_if_there, sentencepiece, tokenizer_json, CheckpointError, MAX_SETTINGS,
};
use crate::vocab::{is_control_text, Piece, PieceKind, Vocab, VocabError};

/// `tokenizer_config.json`.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(default, deserialize_with = "unique")]
    added_tokens_decoder: BTreeMap<u32, AddedToken>,
    add_bos_token: Option<bool>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    chat_template: Option<ChatTemplate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added(AddedToken),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    fn read(dir: &Path) -> Result<Self, CheckpointError> {
        match read_if_there(&dir.join("tokenizer_config.json"))? {
            Some(file) => parse_json(&file, MAX_SETTINGS),
            None => Ok(Self::default()),
        }
    }
}

/// The chat template in `tokenizer_config.json`.
pub(super) fn chat_template(dir: &Path) -> Result<Option<String>, CheckpointError> {
    Ok(match TokenizerConfig::read(dir)?.chat_template {
        None => None,
        Some(ChatTemplate::One(template)) => Some(template),
        Some(ChatTemplate::Named(all)) => {
            all.into_iter().find(|t| t.name == "default").map(|t| t.template)
        }
    })
}

/// Reads the vocabulary of the checkpoint `dir`. It has exactly `vocab_size` pieces.
pub(super) fn vocab(dir: &Path, vocab_size: usize) -> Result<Vocab, CheckpointError> {
    let config = TokenizerConfig::read(dir)?;
    let (path, base, added) = base_and_added(dir, &config, vocab_size)?;
    let error = |cause| CheckpointError::Vocab { path, cause };
    assemble(base, &added, &config, vocab_size).map_err(error)
}

/// The added tokens of the checkpoint `dir` that have no place in a vocabulary of `vocab_size` pieces.
pub(super) fn added_without_row(
    dir: &Path,
    vocab_size: usize,
) -> Result<Vec<String>, CheckpointError> {
    let (_, _, added) = base_and_added(dir, &TokenizerConfig::read(dir)?, vocab_size)?;
    let beyond = added.into_iter().filter(|token| token.id as usize >= vocab_size);
    let mut names: Vec<String> = beyond.map(|token| token.content).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Reads the tokenizer's own file, its path, and every list of added tokens in the order of precedence,
/// the last of which decides.
fn base_and_added(
    dir: &Path,
    config: &TokenizerConfig,
    vocab_size: usize,
) -> Result<(PathBuf, Base, Vec<AddedToken>), CheckpointError> {
    let (path, base, mut added) = base(dir, vocab_size)?;
    added.extend(added_tokens_json(dir)?);
    let decoder = config.added_tokens_decoder.iter();
    added.extend(decoder.map(|(id, token)| AddedToken {
        id: *id,
        content: token.content.clone(),
        special: token.special,
    }));
    Ok((path, base, added))
}

/// Reads the tokenizer's own file. Also returns its path and the added tokens in it.
fn base(
    dir: &Path,
    vocab_size: usize,
) -> Result<(PathBuf, Base, Vec<AddedToken>), CheckpointError> {
    let (model, json) = (dir.join("tokenizer.model"), dir.join("tokenizer.json"));
    if model.exists() {
        let base = sentencepiece::read_model(&model, vocab_size)?;
        Ok((model, base, Vec::new()))
    } else if json.exists() {
        let (base, added) = tokenizer_json::read_json(&json, vocab_size)?;
        Ok((json, base, added))
    } else {
        Err(CheckpointError::NoTokenizer { dir: dir.to_owned() })
    }
}

/// `added_tokens.json`, which slow tokenizers wrote before there was `added_tokens_decoder`: a map
/// from text to id.
fn added_tokens_json(dir: &Path) -> Result<Vec<AddedToken>, CheckpointError> {
    let Some(file) = read_if_there(&dir.join("added_tokens.json"))? else {
        return Ok(Vec::new());
    };
    let tokens: BTreeMap<String, u32> = parse_json(&file, MAX_SETTINGS)?;
    let token = |(content, id)| AddedToken { id, content, special: false };
    Ok(tokens.into_iter().map(token).collect())
}

/// Makes the vocabulary from a tokenizer's own file and the tokens added to it.
fn assemble(
    base: Base,
    added: &[AddedToken],
    config: &TokenizerConfig,
    vocab_size: usize,
) -> Result<Vocab, VocabError> {
    let Base { mut pieces, special } = base;
    if pieces.len() > vocab_size {
        return Err(VocabError::too_many_pieces(pieces.len(), vocab_size));
    }
    pieces.extend((pieces.len()..vocab_size).map(filler));
    for token in added {
        // A token without a row in the embedding can be neither read nor written. Gemma 3's tokenizer
        // has `<image_soft_token>` beside models that read no images.
        if let Some(piece) = pieces.get_mut(token.id as usize) {
            apply(piece, token);
        }
    }
    pieces.iter_mut().for_each(normalize);
    let mut vocab = Vocab {
        pieces: pieces.into_iter().collect(),
        bos: None,
        eos: None,
        eot: None,
        unk: None,
        pad: None,
        add_bos: config.add_bos_token.unwrap_or(true),
        // Gemma never has it, and transformers ignores this setting of tokenizer.model.
        add_space_prefix: false,
    };
    vocab.bos = special_id(&vocab, "bos_token", &config.bos_token, special.bos, "<bos>")?;
    vocab.eos = special_id(&vocab, "eos_token", &config.eos_token, special.eos, "<eos>")?;
    vocab.unk = special_id(&vocab, "unk_token", &config.unk_token, special.unk, "<unk>")?;
    vocab.pad = special_id(&vocab, "pad_token", &config.pad_token, special.pad, "<pad>")?;
    vocab.eot = vocab.find("<end_of_turn>");
    vocab.checked()
}

/// Replaces the piece with the added token's id by the added token.
fn apply(piece: &mut Piece, token: &AddedToken) {
    use PieceKind::*;
    let fixed = matches!(piece.kind, Unknown | Control | Byte);
    if fixed && piece.text == token.content {
        return;
    }
    // Some files mark all added tokens as special, including runs of newlines and spaces. As
    // control pieces those could be neither matched in text nor printed.
    let blank = token.content.chars().all(|c| c.is_whitespace() || c == '▁');
    let control = is_control_text(&token.content) || (token.special && !blank);
    piece.text = token.content.clone().into();
    piece.kind = if control { Control } else { UserDefined };
}

/// Applies the rules for kinds and scores that hold whichever file a piece came from.
fn normalize(piece: &mut Piece) {
    use PieceKind::*;
    if piece.kind == UserDefined {
        match is_control_text(&piece.text) {
            true => piece.kind = Control,
            false => piece.text = piece.text.replace(' ', "▁").into(),
        }
    }
    // Scores order the merges, which produce only normal pieces. Files disagree on the other scores;
    // these are the values of llama.cpp's converter.
    match piece.kind {
        Control | UserDefined | Unknown => piece.score = -1000.0,
        Byte => piece.score = 0.0,
        Normal | Unused => {}
    }
}

/// The id of a special token: of the piece that `tokenizer_config.json` names; otherwise the id in
/// the tokenizer's own file; otherwise of the piece with Gemma's name for it.
fn special_id(
    vocab: &Vocab,
    what: &'static str,
    named: &Option<SpecialToken>,
    own: Option<u32>,
    gemma: &str,
) -> Result<Option<u32>, VocabError> {
    let text = match named {
        None => return Ok(own.or_else(|| vocab.find(gemma))),
        Some(SpecialToken::Text(text)) => text,
        Some(SpecialToken::Added(token)) => &token.content,
    };
    match vocab.find(text) {
        Some(id) => Ok(Some(id)),
        None => Err(VocabError::NoSuchPiece { what, text: text.clone() }),
    }
}
