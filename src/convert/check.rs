//! Measures a finished file, and stores the result in its metadata.

use std::error::Error;
use std::io::BufWriter;
use std::path::Path;

use lapidary_formats::gguf::{Header, Writer};

use super::target::Target;
use super::ConvertError;
use crate::perplexity::Divergence;

/// Measures a file that is complete but does not have its final name yet. The argument is its path.
pub type Check<'a> = &'a mut dyn FnMut(&Path) -> Result<Divergence, Box<dyn Error + Send + Sync>>;

/// The end of a key, and its value.
type Figure = (&'static str, fn(&Divergence) -> f64);

/// How far the file's predictions are from its source's.
const FIGURES: [Figure; 8] = [
    ("kl_divergence.mean", |d| d.kl.mean.value),
    ("kl_divergence.median", |d| d.kl.median),
    ("kl_divergence.percentile_99", |d| d.kl.percentile_99),
    ("kl_divergence.maximum", |d| d.kl.maximum),
    ("same_top", |d| d.same_top.value),
    ("perplexity", |d| d.quantized.value),
    ("perplexity.source", |d| d.reference.value),
    ("tokens", |d| d.tokens as f64),
];

/// The key of the number of tokens, which is 0 until a file has been measured.
pub(super) fn tokens_key() -> String {
    key("tokens")
}

fn key(figure: &str) -> String {
    format!("lapidary.check.{figure}")
}

/// Reserves space for the values in the header.
pub(super) fn reserve(header: &mut Header) {
    for (figure, _) in FIGURES {
        header.set(key(figure), 0.0f64);
    }
}

/// Writes the values into the complete file of `target`, whose tensors have these `checksums`.
pub(super) fn store(
    target: &Target,
    header: &Header,
    checksums: Vec<u64>,
    found: &Divergence,
) -> Result<(), ConvertError> {
    let error = |error| ConvertError::Write { path: target.path().to_owned(), error };
    let file = BufWriter::new(target.file());
    let mut writer = Writer::resume(file, header.clone(), checksums).map_err(error)?;
    for (figure, value) in FIGURES {
        let slot = header.slot(&key(figure)).expect("there is room for every figure");
        writer.replace(&slot, value(found)).map_err(error)?;
    }
    writer.finish().map_err(error)?;
    Ok(())
}
