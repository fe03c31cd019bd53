//! Which tokens are special: `tokenizer_config.json`, and `special_tokens_map.json`, which versions
//! of transformers before 5 write as well.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::added::{contradiction, AddedToken};
use super::base::SpecialIds;
use super::{parse_json, read_if_there, CheckpointError, MAX_SETTINGS};
use crate::vocab::{Vocab, VocabError};

const MAP: &str = "special_tokens_map.json";

/// The special tokens that a file names.
#[derive(Default, Deserialize)]
pub(super) struct SpecialTokens {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    unk_token: Option<Named>,
    pad_token: Option<Named>,
    sep_token: Option<Named>,
    cls_token: Option<Named>,
    mask_token: Option<Named>,
    additional_special_tokens: Option<NamedList>,
    /// What transformers 5 calls them.
    extra_special_tokens: Option<NamedList>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Added(AddedToken),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedList {
    List(Vec<Named>),
    ByUse(BTreeMap<String, Named>),
}

impl Named {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Added(token) => &token.content,
        }
    }
}

impl NamedList {
    fn into_vec(self) -> Vec<Named> {
        match self {
            Self::List(list) => list,
            Self::ByUse(map) => map.into_values().collect(),
        }
    }
}

impl SpecialTokens {
    /// These, which the file `path` names, and those that `special_tokens_map.json` beside it names. If
    /// `path` has a list of added tokens, `has_list`, that says which others are special, as in
    /// transformers.
    ///
    /// # Errors
    /// If the map cannot be read, or names another beginning or end of a text.
    pub fn with_map(mut self, path: &Path, has_list: bool) -> Result<Self, CheckpointError> {
        let map_path = path.with_file_name(MAP);
        let Some(file) = read_if_there(&map_path)? else { return Ok(self) };
        let map: Self = parse_json(&file, MAX_SETTINGS)?;
        let pairs = [
            ("bos_token", &self.bos_token, &map.bos_token),
            ("eos_token", &self.eos_token, &map.eos_token),
        ];
        for (key, ours, theirs) in pairs {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                if ours.text() != theirs.text() {
                    let what = format!("{key} is `{}`", theirs.text());
                    let other = format!("it is `{}`", ours.text());
                    return Err(contradiction(&map_path, what, path, other));
                }
            }
        }
        self.bos_token = self.bos_token.or(map.bos_token);
        self.eos_token = self.eos_token.or(map.eos_token);
        // Texts neither begin nor end with these two, so that it matters little which file is right.
        // transformers takes the first.
        self.unk_token = self.unk_token.or(map.unk_token);
        self.pad_token = self.pad_token.or(map.pad_token);
        let lists = [
            self.additional_special_tokens.take(),
            map.additional_special_tokens.filter(|_| !has_list),
            map.extra_special_tokens.filter(|_| !has_list),
        ];
        let all: Vec<Named> = lists.into_iter().flatten().flat_map(NamedList::into_vec).collect();
        self.additional_special_tokens = Some(NamedList::List(all));
        Ok(self)
    }

    /// Texts of special tokens besides those with a use of their own.
    pub fn additional(&self) -> impl Iterator<Item = &str> {
        let others = [&self.sep_token, &self.cls_token, &self.mask_token].into_iter().flatten();
        let lists = [&self.additional_special_tokens, &self.extra_special_tokens];
        let lists =
            lists.into_iter().flatten().flat_map(|list| -> Box<dyn Iterator<Item = &str>> {
                match list {
                    NamedList::List(list) => Box::new(list.iter().map(Named::text)),
                    NamedList::ByUse(map) => Box::new(map.values().map(Named::text)),
                }
            });
        others.map(Named::text).chain(lists)
    }

    /// Sets the ids of the special tokens: of the pieces that are named; otherwise those in the
    /// tokenizer's own file, `own`; otherwise of the pieces with Gemma's names for them. A named token
    /// that has no row in the embedding is left out.
    ///
    /// # Errors
    /// If texts are to begin with a token without a row, or to end with one that is in no list.
    pub fn set_ids(&self, vocab: &mut Vocab, own: &SpecialIds) -> Result<(), VocabError> {
        let usual = |own: Option<u32>, gemma| own.or_else(|| vocab.find(gemma));
        let id = |named: &Option<Named>, own, gemma| match named.as_ref().map(Named::text) {
            None => Ok(usual(own, gemma)),
            Some(text) => vocab.find(text).map(Some).ok_or_else(|| text.to_owned()),
        };
        let missing = |what, text| VocabError::NoSuchPiece { what, text };
        let bos =
            id(&self.bos_token, own.bos, "<bos>").map_err(|text| missing("bos_token", text))?;
        let eos = match id(&self.eos_token, own.eos, "<eos>") {
            Err(text) if !vocab.left_out.contains(&text) => return Err(missing("eos_token", text)),
            eos => eos.unwrap_or_else(|_| usual(own.eos, "<eos>")),
        };
        let unk = id(&self.unk_token, own.unk, "<unk>");
        let pad = id(&self.pad_token, own.pad, "<pad>");
        let left_out = [&unk, &pad].into_iter().filter_map(|id| id.as_ref().err().cloned());
        let left_out: Vec<String> = left_out.collect();
        vocab.left_out.extend(left_out);
        (vocab.bos, vocab.eos) = (bos, eos);
        (vocab.unk, vocab.pad) = (unk.unwrap_or_default(), pad.unwrap_or_default());
        Ok(())
    }
}
