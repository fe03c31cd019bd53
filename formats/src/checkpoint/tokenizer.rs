//! The vocabulary of a checkpoint, from whichever tokenizer files it has, and its chat template.
//!
//! `tokenizer.model` and `tokenizer.json` both give a [`Base`]. The lists of added tokens beside
//! them are then applied to it by one set of rules, so that pieces have the same kinds whichever
//! file they came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::added::{AddedToken, AddedTokens};
use super::base::{filler, Base};
use super::special_tokens::SpecialTokens;
use super::unique::unique;
use super::{
    parse_json, read_if_there, sentencepiece, tokenizer_json, CheckpointError, MAX_SETTINGS,
};
use crate::vocab::{is_control_text, Piece, PieceKind, Vocab, VocabError};

const CONFIG: &str = "tokenizer_config.json";

/// `tokenizer_config.json`.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(default, deserialize_with = "unique")]
    added_tokens_decoder: BTreeMap<u32, AddedToken>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    #[serde(flatten)]
    special: SpecialTokens,
    chat_template: Option<ChatTemplate>,
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
        match read_if_there(&dir.join(CONFIG))? {
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

/// The chat template in `chat_template.json`.
pub(super) fn processor_template(dir: &Path) -> Result<Option<String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Processor {
        chat_template: Option<String>,
    }
    let Some(file) = read_if_there(&dir.join("chat_template.json"))? else { return Ok(None) };
    Ok(parse_json::<Processor>(&file, MAX_SETTINGS)?.chat_template)
}

/// Reads the vocabulary of the checkpoint `dir`. It has exactly `vocab_size` pieces.
pub(super) fn vocab(dir: &Path, vocab_size: usize) -> Result<Vocab, CheckpointError> {
    let mut config = TokenizerConfig::read(dir)?;
    let has_list = !config.added_tokens_decoder.is_empty();
    config.special = config.special.with_map(&dir.join(CONFIG), has_list)?;
    let Lists { path, base, added } = Lists::read(dir, &config, vocab_size)?;
    added.check_matching(vocab_size)?;
    let error = |cause| CheckpointError::Vocab { path, cause };
    assemble(base, &added, &config, vocab_size).map_err(error)
}

/// The pieces of the tokenizer's own file, and what was added to them.
struct Lists {
    /// The tokenizer's own file.
    path: PathBuf,
    base: Base,
    added: AddedTokens,
}

impl Lists {
    /// Reads all files of a tokenizer, of which transformers writes some or all.
    fn read(
        dir: &Path,
        config: &TokenizerConfig,
        vocab_size: usize,
    ) -> Result<Self, CheckpointError> {
        let (model, json) = (dir.join("tokenizer.model"), dir.join("tokenizer.json"));
        let mut added = AddedTokens::default();
        let (path, base, companion) = if model.exists() {
            let base = sentencepiece::read_model(&model, vocab_size)?;
            let mut companion = None;
            if json.exists() {
                let (pieces, tokens) = tokenizer_json::Companion::read(&json)?;
                added.add(&json, tokens)?;
                companion = Some(pieces);
            }
            (model, base, companion)
        } else if json.exists() {
            let (base, tokens) = tokenizer_json::read_json(&json, vocab_size)?;
            added.add(&json, tokens)?;
            (json.clone(), base, None)
        } else {
            return Err(CheckpointError::NoTokenizer { dir: dir.to_owned() });
        };
        let decoder = config.added_tokens_decoder.iter();
        let decoder = decoder.map(|(id, token)| AddedToken { id: *id, ..token.clone() });
        added.add(&dir.join(CONFIG), decoder)?;
        added_tokens_json(dir, &mut added)?;
        if let Some(companion) = companion {
            companion.check((&json, &path), &base, &added)?;
        }
        Ok(Self { path, base, added })
    }
}

/// Adds those of `added_tokens.json`, which slow tokenizers wrote before there was
/// `added_tokens_decoder`: a map from text to id.
fn added_tokens_json(dir: &Path, added: &mut AddedTokens) -> Result<(), CheckpointError> {
    let path = dir.join("added_tokens.json");
    let Some(file) = read_if_there(&path)? else { return Ok(()) };
    let tokens: BTreeMap<String, u32> = parse_json(&file, MAX_SETTINGS)?;
    added.add_texts(&path, tokens)
}

/// Makes the vocabulary from a tokenizer's own file and the tokens added to it.
fn assemble(
    base: Base,
    added: &AddedTokens,
    config: &TokenizerConfig,
    vocab_size: usize,
) -> Result<Vocab, VocabError> {
    let Base { mut pieces, special: own } = base;
    if pieces.len() > vocab_size {
        return Err(VocabError::too_many_pieces(pieces.len(), vocab_size));
    }
    pieces.extend((pieces.len()..vocab_size).map(filler));
    let mut left_out = Vec::new();
    for token in added.iter() {
        match pieces.get_mut(token.id as usize) {
            Some(piece) => apply(piece, token),
            // A token without a row in the embedding can be neither read nor written. Gemma 3's
            // tokenizer has `<image_soft_token>` beside models that read no images.
            None => left_out.push(token.content.clone()),
        }
    }
    for text in config.special.additional() {
        match pieces.iter().position(|piece| piece.text == text) {
            Some(id) => {
                let token = AddedToken::new(id as u32, text.to_owned());
                apply(&mut pieces[id], &AddedToken { special: true, ..token });
            }
            None => left_out.push(text.to_owned()),
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
        add_eos: config.add_eos_token.unwrap_or(false),
        left_out,
    };
    config.special.set_ids(&mut vocab, &own)?;
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
