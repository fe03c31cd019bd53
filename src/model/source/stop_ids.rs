//! The ids that end a text, as the files of a model declare them.

use lapidary_formats::gguf::{Gguf, GgufError};

use super::{Config, File, Note, SourceError};

/// The key of GGUF files for a list of the tokens that end a text. Ollama writes and reads it.
pub const STOP_IDS_KEY: &str = "tokenizer.ggml.eos_token_ids";

/// The ids that end a text, except those that the vocabulary names itself. No model can write a token
/// without a row in the embedding.
pub(super) fn declared_stop_ids(
    file: &File,
    config: &Config,
    notes: &mut Vec<Note>,
) -> Result<Vec<u32>, SourceError> {
    let declared: Vec<i64> = match file {
        File::Gguf(g) => gguf_stop_ids(g)?,
        File::Checkpoint(c, _) => c.stop_ids().ids.clone(),
    };
    let is_there = |id: &i64| usize::try_from(*id).is_ok_and(|id| id < config.n_vocab);
    let (ids, beyond): (Vec<i64>, Vec<i64>) = declared.into_iter().partition(is_there);
    let padding = match file {
        File::Gguf(_) => Vec::new(),
        File::Checkpoint(c, _) => c.stop_ids().padding.clone(),
    };
    let padding = padding.iter().filter(|id| !is_there(id)).map(|id| format!("pad_token_id {id}"));
    let mut names: Vec<String> = beyond.iter().map(|id| format!("eos_token_id {id}")).collect();
    names.extend(padding);
    names.dedup();
    if !names.is_empty() {
        notes.push(Note::WithoutRow(names));
    }
    Ok(ids.into_iter().map(|id| id as u32).collect())
}

/// The ids that end a text in a GGUF file under other keys than the end of a sequence and of a turn:
/// Ollama's list, the end of a message, and the three of code models that llama.cpp counts as ends,
/// too.
fn gguf_stop_ids(g: &Gguf) -> Result<Vec<i64>, SourceError> {
    let mut ids = Vec::new();
    if let Some(list) = g.array(STOP_IDS_KEY)? {
        let listed: Option<Vec<i64>> = list.values().map(|id| id.as_int()).collect();
        ids = listed.ok_or_else(|| GgufError::ValueType {
            path: g.path().to_owned(),
            key: STOP_IDS_KEY.to_owned(),
            found: format!("an array of {}", list.element_type()),
            expected: "an array of integers",
        })?;
    }
    for name in ["eom", "fim_pad", "fim_rep", "fim_sep"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match g.get(&key).and_then(|id| id.as_int::<i64>()) {
            Some(-1) => {}
            Some(id) => ids.push(id),
            // Absent, or of another type, which is an error.
            None => ids.extend(g.u32(&key)?.map(i64::from)),
        }
    }
    Ok(ids)
}
