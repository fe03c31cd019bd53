//! The metadata of a new file: the keys that llama.cpp's converter writes, and our own.

use lapidary_formats::gguf::{Gguf, Header};
use lapidary_formats::quant::Effort;
use lapidary_formats::vocab::Vocab;

use super::Plan;
use crate::chat::GEMMA2_TEMPLATE;
use crate::model::{Config, RowSource, SourceError};

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
/// How thoroughly scales were searched for, unless it is the default.
const EFFORT: &str = "lapidary.effort";

/// The header of a new file: all metadata, and the tensors of `source` in its order with the types
/// of `plan`. It includes where the file comes from and how it was made, and has room for the
/// tensors' checksums.
///
/// # Errors
/// If the source's vocabulary, chat template or another of its files cannot be read.
pub(super) fn header(rows: &dyn RowSource, plan: &Plan) -> Result<Header, SourceError> {
    let source = rows.model();
    // Read for GGUF sources, too: the new file must have a vocabulary that fits its embedding.
    let vocab = source.vocab()?;
    let mut header = match source.gguf() {
        Some(gguf) => copied(gguf, plan.file_type),
        None => {
            let (template, stop_ids) = (source.chat_template()?, source.stop_ids(&vocab));
            model_header(source.config(), plan.file_type, &vocab, template, &stop_ids)
        }
    };
    for (spec, ty) in source.tensors().iter().zip(&plan.types) {
        header.add_tensor(&spec.name, *ty, &spec.shape)?;
    }
    header.set(VERSION, env!("CARGO_PKG_VERSION"));
    header.set(RECIPE, plan.name.as_str());
    header.set(FINGERPRINT, rows.fingerprint()?);
    match plan.effort {
        Effort::Fast => header.set(EFFORT, "fast"),
        Effort::Default => {}
        Effort::Best => header.set(EFFORT, "best"),
    }
    if let Some(weighting) = &plan.weighting {
        header.set(IMATRIX, format!("{:016x}", weighting.checksum()));
    }
    header.reserve_checksums();
    Ok(header)
}

/// The metadata of another GGUF file, except what describes how its tensors are stored.
fn copied(gguf: &Gguf, file_type: u32) -> Header {
    let mut header = Header::new();
    let kept = gguf.metadata().filter(|(key, _)| !describes_storage(key));
    kept.for_each(|(key, value)| header.set(key, value));
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

/// GGUF has three keys for ids that end a text: for the end of a sequence, of a turn and of a
/// message. Ids that the vocabulary does not name (`generation_config.json` may declare more) are
/// stored under the keys that are left.
fn set_stop_ids(header: &mut Header, vocab: &Vocab, stop_ids: &[u32]) {
    let free = [
        ("tokenizer.ggml.eot_token_id", vocab.eot.is_none()),
        ("tokenizer.ggml.eom_token_id", true),
    ];
    let free = free.into_iter().filter(|(_, is_free)| *is_free);
    let unnamed = stop_ids.iter().filter(|id| vocab.eos != Some(**id) && vocab.eot != Some(**id));
    for ((key, _), id) in free.zip(unnamed) {
        header.set(key, *id);
    }
}

/// Gemma 2's own template, for a model that has its turn markers but no template.
fn official_template(vocab: &Vocab) -> Option<String> {
    let has = |text| vocab.find(text).is_some();
    (has("<start_of_turn>") && has("<end_of_turn>")).then(|| GEMMA2_TEMPLATE.to_owned())
}
