//! The metadata of a new file: the keys that llama.cpp's converter writes, and our own.

use lapidary_formats::gguf::{Gguf, Header, Value};
use lapidary_formats::quant::Effort;
use lapidary_formats::vocab::Vocab;

use super::Plan;
use crate::chat::GEMMA2_TEMPLATE;
use crate::model::{Config, RowSource, SourceError, STOP_IDS_KEY};

/// Version of the quantized block layouts (ggml's `GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// Our own keys, which tell where a file comes from. This one is the version of the program.
pub(super) const VERSION: &str = "lapidary.version";
/// The recipe.
pub(super) const RECIPE: &str = "lapidary.recipe";
/// The fingerprint of the model from which the file was made.
pub(super) const FINGERPRINT: &str = "lapidary.source.fingerprint";

/// Checksum of the importance matrix with which scales were chosen.
const IMATRIX: &str = "lapidary.imatrix";
/// Checksum of the text on which the statistics for second-order rounding were collected.
const HESSIAN: &str = "lapidary.hessian";
/// How thoroughly scales were searched for, unless it is the default.
const EFFORT: &str = "lapidary.effort";

/// The header of a new file: all metadata, and the tensors of the source in its order with the types
/// of `plan`. `vocab` is the source's vocabulary; a GGUF source's, too, must fit its embedding. `fingerprint` is the source's. It includes where the file comes from and how it was made, and has room for the
/// tensors' checksums.
///
/// # Errors
/// If the source's chat template cannot be read.
pub(super) fn header(
    rows: &dyn RowSource,
    plan: &Plan,
    vocab: &Vocab,
    fingerprint: String,
) -> Result<Header, SourceError> {
    let source = rows.model();
    let mut header = match source.gguf() {
        Some(gguf) => copied(gguf, plan.file_type, vocab.pieces.len()),
        None => {
            let (template, stop_ids) = (source.chat_template()?, source.stop_ids(vocab));
            model_header(source.config(), plan.file_type, vocab, template, &stop_ids)
        }
    };
    for (spec, ty) in source.tensors().iter().zip(&plan.types) {
        header.add_tensor(&spec.name, *ty, &spec.shape)?;
    }
    header.set(VERSION, env!("CARGO_PKG_VERSION"));
    header.set(RECIPE, plan.name.as_str());
    header.set(FINGERPRINT, fingerprint);
    match plan.effort {
        Effort::Fast => header.set(EFFORT, "fast"),
        Effort::Default => {}
        Effort::Best => header.set(EFFORT, "best"),
        Effort::Max => header.set(EFFORT, "max"),
    }
    if let Some(weighting) = &plan.weighting {
        header.set(IMATRIX, format!("{:016x}", weighting.checksum()));
    }
    if let Some(second_order) = &plan.second_order {
        header.set(HESSIAN, second_order.id());
    }
    header.reserve_checksums();
    Ok(header)
}

/// The metadata of another GGUF file, except what describes how its tensors are stored, and special
/// tokens without one of the `pieces` pieces.
fn copied(gguf: &Gguf, file_type: u32, pieces: usize) -> Header {
    let mut header = Header::new();
    let is_there = |key: &str, value: &Value| {
        !key.ends_with("_token_id") || value.as_int::<usize>().is_some_and(|id| id < pieces)
    };
    let kept = gguf.metadata().filter(|(key, _)| !describes_storage(key));
    for (key, value) in kept.filter(|(key, value)| is_there(key, value)) {
        match value.as_array().filter(|_| key == STOP_IDS_KEY) {
            Some(list) => {
                let ids = list.values().filter_map(|id| id.as_int::<i32>());
                let ids = ids.filter(|id| usize::try_from(*id).is_ok_and(|id| id < pieces));
                header.set(key, ids.collect::<Vec<i32>>());
            }
            None => header.set(key, value),
        }
    }
    set_storage(&mut header, file_type);
    header
}

/// Whether a key describes how a file's tensors are quantized, aligned or split, and not the model.
fn describes_storage(key: &str) -> bool {
    let prefixes = ["split.", "quantize.imatrix.", "lapidary."];
    key == "general.alignment" || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

fn set_storage(header: &mut Header, file_type: u32) {
    header.set("general.file_type", file_type);
    header.set("general.quantization_version", QUANTIZATION_VERSION);
}

/// A header without tensors that describes a model: its sizes and constants, its vocabulary, its
/// chat template (Gemma 2's own if none is given and the vocabulary has the turn markers), and the
/// ids that end a text. `file_type` is the value of `general.file_type`.
///
/// # Panics
/// If a size does not fit in a `u32`.
pub fn model_header(
    c: &Config,
    file_type: u32,
    vocab: &Vocab,
    template: Option<String>,
    stop_ids: &[u32],
) -> Header {
    let mut header = Header::new();
    header.set("general.architecture", c.architecture.gguf_name());
    header.set("general.type", "model");
    header.set("general.name", c.name.as_str());
    set_storage(&mut header, file_type);
    c.set_metadata(&mut header);
    header.set_vocab(vocab);
    set_stop_ids(&mut header, vocab, stop_ids);
    if let Some(template) = template.or_else(|| official_template(vocab)) {
        header.set("tokenizer.chat_template", template);
    }
    header
}

/// llama.cpp reads three keys for ids that end a text: for the end of a sequence, of a turn and of a
/// message. It also ends a text at pieces with certain names. Other ids (`generation_config.json` may
/// declare any number) are stored under those keys that are left. All of them are stored as a list,
/// which Ollama reads.
fn set_stop_ids(header: &mut Header, vocab: &Vocab, stop_ids: &[u32]) {
    let has_key = |id: &u32| vocab.eos == Some(*id) || vocab.eot == Some(*id);
    if !stop_ids.iter().all(has_key) {
        let ids: Vec<i32> = stop_ids.iter().map(|id| *id as i32).collect();
        header.set(STOP_IDS_KEY, ids);
    }
    for (key, id) in free_keys(vocab).zip(unnamed(vocab, stop_ids)) {
        header.set(key, id);
    }
}

/// The keys for an end that `vocab` leaves free.
fn free_keys(vocab: &Vocab) -> impl Iterator<Item = &'static str> {
    let keys = [
        ("tokenizer.ggml.eot_token_id", vocab.eot.is_none()),
        ("tokenizer.ggml.eom_token_id", true),
    ];
    keys.into_iter().filter(|(_, is_free)| *is_free).map(|(key, _)| key)
}

/// The ends that llama.cpp finds neither by name nor under the keys for `vocab`'s own.
fn unnamed<'a>(vocab: &Vocab, stop_ids: &'a [u32]) -> impl Iterator<Item = u32> + use<'a> {
    let named: Vec<u32> = vocab.eos.into_iter().chain(vocab.eot).chain(vocab.ends()).collect();
    stop_ids.iter().copied().filter(move |id| !named.contains(id))
}

/// The ends for which llama.cpp has no key.
pub(super) fn unknown_to_llama_cpp(vocab: &Vocab, stop_ids: &[u32]) -> Vec<u32> {
    unnamed(vocab, stop_ids).skip(free_keys(vocab).count()).collect()
}

/// Gemma 2's own template, for a model that has its turn markers but no template.
fn official_template(vocab: &Vocab) -> Option<String> {
    let has = |text| vocab.find(text).is_some();
    (has("<start_of_turn>") && has("<end_of_turn>")).then(|| GEMMA2_TEMPLATE.to_owned())
}
