//! Totals by tensor type, and the report of a conversion.

use lapidary_formats::quant::QuantType;
use lapidary_formats::vocab::Vocab;

use super::metadata::unknown_to_llama_cpp;
use crate::model::Source;

/// The tensors of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeTotal {
    /// Their type.
    pub ty: QuantType,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in them.
    pub values: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Totals over the tensors of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By type, the type with most bytes first.
    pub types: Vec<TypeTotal>,
}

impl Totals {
    /// Totals over tensors that are given as type, number of values and bytes.
    pub fn new(tensors: impl IntoIterator<Item = (QuantType, u64, u64)>) -> Self {
        let mut types: Vec<TypeTotal> = Vec::new();
        for (ty, values, bytes) in tensors {
            let total = match types.iter_mut().find(|total| total.ty == ty) {
                Some(total) => total,
                None => {
                    types.push(TypeTotal { ty, tensors: 0, values: 0, bytes: 0 });
                    types.last_mut().expect("one was pushed")
                }
            };
            total.tensors += 1;
            total.values += values;
            total.bytes += bytes;
        }
        types.sort_by_key(|total| (std::cmp::Reverse(total.bytes), total.ty));
        Self { types }
    }

    /// Number of tensors.
    pub fn tensors(&self) -> usize {
        self.types.iter().map(|total| total.tensors).sum()
    }

    /// Values in all tensors.
    pub fn values(&self) -> u64 {
        self.types.iter().map(|total| total.values).sum()
    }

    /// Bytes of all tensors, without padding.
    pub fn bytes(&self) -> u64 {
        self.types.iter().map(|total| total.bytes).sum()
    }

    /// Bits per weight over all tensors, norms included.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() as f64 * 8.0 / self.values() as f64
    }
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Totals of the tensors that were written.
    pub totals: Totals,
    /// Size of the new file in bytes.
    pub file_bytes: u64,
    /// Bytes of tensors that were read.
    pub bytes_read: u64,
    /// Tensors that an earlier conversion had already finished.
    pub resumed: usize,
    /// Tensors that were rounded by importance, because second-order rounding was no better on the text
    /// that was held out.
    pub by_importance: Vec<String>,
    /// Tensors that were quantized in the source and are now quantized to another type. The errors
    /// of both add up, so converting the original checkpoint would give a better file.
    pub requantized: usize,
    /// Whether the model has an output matrix of its own.
    pub untied: bool,
    /// How llama.cpp differs with this file, if it does: a verb and the rest of the sentence.
    pub llama_cpp: Option<String>,
    /// Seconds until the file was safely on disk.
    pub seconds: f64,
}

/// How llama.cpp differs with a file made from `source`, for [`Report::llama_cpp`].
pub(super) fn llama_cpp(source: &Source, vocab: &Vocab) -> Option<String> {
    let (config, name) = (source.config(), source.config().architecture.name());
    if !config.architecture.is_in_llama_cpp() {
        return Some(format!("does not support {name}: the file runs only in Lapidary"));
    }
    if source.is_untied() && !config.architecture.llama_cpp_takes_output() {
        return Some(format!(
            "does not load {name} with an output matrix of its own (output.weight): the file runs only in \
             Lapidary"
        ));
    }
    let (scale, inferred) = (config.attn_scale, config.inferred_attn_scale());
    // The tolerance allows for the rounding of 1/√x.
    if (scale / inferred - 1.0).abs() > 1e-6 {
        return Some(format!(
            "uses {inferred} as the attention scale of {name} in these sizes, but this model has \
             {scale}: its answers will differ"
        ));
    }
    let ends = unknown_to_llama_cpp(vocab, &source.stop_ids(vocab));
    (!ends.is_empty()).then(|| format!("does not end texts at these tokens of the model: {ends:?}"))
}

impl Report {
    /// Megabytes (10⁶ bytes) of source tensors per second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes_read as f64 / 1e6 / self.seconds
    }
}
