//! The tokens that were added to a trained tokenizer. Up to three files of a checkpoint list them:
//! `tokenizer.json`, `tokenizer_config.json` and `added_tokens.json`. Which of them are complete
//! depends on the version of transformers that wrote them, so all are read, and they must agree.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::CheckpointError;

/// Most pairs of tokens that are compared. It allows for a thousand normalized tokens beside Gemma 3's
/// six thousand others, and takes a second or two.
const MAX_COMPARISONS: usize = 1 << 24;

/// A token that was added to a trained tokenizer, or whose handling was changed.
#[derive(Clone, Deserialize)]
pub(super) struct AddedToken {
    /// Present in `tokenizer.json`; in `tokenizer_config.json` it is the key of the map instead.
    #[serde(default)]
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    /// Whether a match in text takes the spaces before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether a match in text takes the spaces after it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is matched only between characters that are not part of a word.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it is matched after spaces have become `▁`, in what the others have left of a text.
    #[serde(default)]
    pub normalized: bool,
}

impl AddedToken {
    /// A token of which no more than this is known.
    pub fn new(id: u32, content: String) -> Self {
        let [special, lstrip, rstrip, single_word, normalized] = [false; 5];
        Self { id, content, special, lstrip, rstrip, single_word, normalized }
    }
}

/// The added tokens of all lists, by id, each with the file that listed it first.
#[derive(Default)]
pub(super) struct AddedTokens {
    by_id: BTreeMap<u32, (AddedToken, PathBuf)>,
    ids: HashMap<String, u32>,
}

impl AddedTokens {
    /// Adds what the file `path` lists. Of a token that is known already, a later file decides whether
    /// it is special, as in transformers.
    ///
    /// # Errors
    /// If a file before it gives a token another text or another id.
    pub fn add(
        &mut self,
        path: &Path,
        tokens: impl IntoIterator<Item = AddedToken>,
    ) -> Result<(), CheckpointError> {
        for token in tokens {
            let (id, content) = (token.id, spelled(&token.content));
            if let Some(other) = self.ids.insert(content.clone(), id).filter(|other| *other != id) {
                let (_, other_path) = &self.by_id[&other];
                let what = format!("token {id} is `{content}`");
                let other_what = format!("it is token {other}");
                return Err(contradiction(path, what, other_path, other_what));
            }
            match self.by_id.entry(id) {
                Entry::Vacant(entry) => {
                    entry.insert((token, path.to_owned()));
                }
                Entry::Occupied(mut entry) => {
                    let (first, other_path) = entry.get_mut();
                    if spelled(&first.content) != content {
                        let what = format!("token {id} is `{content}`");
                        let other_what = format!("it is `{}`", first.content);
                        return Err(contradiction(path, what, other_path, other_what));
                    }
                    first.special = token.special;
                    first.normalized |= token.normalized;
                    // Whichever file asks for these, they are refused.
                    first.lstrip |= token.lstrip;
                    first.rstrip |= token.rstrip;
                    first.single_word |= token.single_word;
                }
            }
        }
        Ok(())
    }

    /// Adds what a file lists by text only. It says nothing of tokens that are known already.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_texts(
        &mut self,
        path: &Path,
        texts: impl IntoIterator<Item = (String, u32)>,
    ) -> Result<(), CheckpointError> {
        let token = |(content, id)| match self.by_id.get(&id) {
            Some((known, _)) => AddedToken { content, ..known.clone() },
            None => AddedToken::new(id, content),
        };
        let tokens: Vec<AddedToken> = texts.into_iter().map(token).collect();
        self.add(path, tokens)
    }

    /// Refuses tokens below `vocab_size` that are matched in another way than a GGUF file can say.
    ///
    /// # Errors
    /// For the first such token.
    pub fn check_matching(&self, vocab_size: usize) -> Result<(), CheckpointError> {
        let others: Vec<String> =
            self.iter().filter(|t| !t.normalized).map(|t| spelled(&t.content)).collect();
        let matched = || self.by_id.values().filter(|(t, _)| (t.id as usize) < vocab_size);
        let normalized = matched().filter(|(token, _)| token.normalized).count();
        let is_too_many = normalized.saturating_mul(others.len()) > MAX_COMPARISONS;
        for (token, path) in matched() {
            let flags = [
                ("lstrip", token.lstrip),
                ("rstrip", token.rstrip),
                ("single_word", token.single_word),
            ];
            let flag = flags.into_iter().find(|(_, is_set)| *is_set).map(|(flag, _)| flag);
            let too_many = "normalized: true, like too many others to compare them";
            let too_many = (is_too_many && token.normalized).then_some(too_many);
            if let Some(flag) = flag.or(too_many).or_else(|| matched_otherwise(token, &others)) {
                let (path, token) = (path.clone(), token.content.clone());
                return Err(CheckpointError::TokenFlag { path, token, flag });
            }
        }
        Ok(())
    }

    /// Whether one has this id.
    pub fn contains(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.by_id.values().map(|(token, _)| token)
    }
}

/// Whether `token` would be found in other places than transformers finds it, because here one pass
/// over a text finds all tokens, spelled with `▁`. `others` are the spellings of those that are not
/// normalized.
fn matched_otherwise(token: &AddedToken, others: &[String]) -> Option<&'static str> {
    let text = spelled(&token.content);
    if !token.normalized {
        // Without `normalized`, a `▁` is no space. (Runs of `▁` alone are ordinary pieces, too.)
        let has_mark = token.content.contains('▁') && token.content.chars().any(|c| c != '▁');
        return has_mark.then_some("normalized: false, but a ▁");
    }
    let overlaps = others.iter().any(|other| overlap(&text, other));
    overlaps.then_some("normalized: true, and overlaps with tokens that have not")
}

/// Whether a text can have both so that they share characters.
fn overlap(a: &str, b: &str) -> bool {
    let meet = |a: &str, b: &str| a.char_indices().any(|(at, _)| at > 0 && b.starts_with(&a[at..]));
    a.contains(b) || b.contains(a) || meet(a, b) || meet(b, a)
}

/// How a piece spells `text`.
fn spelled(text: &str) -> String {
    text.replace(' ', "▁")
}

/// The error for a file that says `what` where another says `other_what`.
pub(super) fn contradiction(
    path: &Path,
    what: String,
    other: &Path,
    other_what: String,
) -> CheckpointError {
    let (path, other) = (path.to_owned(), other.file_name().unwrap_or_default().into());
    CheckpointError::Contradiction { path, what, other, other_what }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many pairs as a hostile list of a million tokens has would take hours.
    #[test]
    fn lists_with_too_many_pairs_are_refused() {
        let mut tokens = AddedTokens::default();
        let token = |id: u32| AddedToken {
            normalized: id.is_multiple_of(2),
            ..AddedToken::new(id, format!("<{id}>"))
        };
        tokens.add(Path::new("tokenizer.json"), (0..10_000).map(token)).unwrap();
        tokens.check_matching(10).unwrap();
        let error = tokens.check_matching(10_000).unwrap_err().to_string();
        assert!(error.contains("token `<0>` has `normalized: true, like too many"), "{error}");
    }
}
