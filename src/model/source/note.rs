//! What a person should know of a model's files before using it.

use std::fmt;

use lapidary_formats::printable::Printable;

/// Something in a model's files that is left out or taken in another way than they say, although the
/// model can be used. Shown after the path of the model and a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// So many tensors belong to parts of a model that see.
    Vision(usize),
    /// There is an output matrix although the configuration says that the embedding is it.
    OutputMatrix,
    /// The configuration says that there is an output matrix, and there is none.
    NoOutputMatrix,
    /// Shards without an index.
    NoIndex,
    /// `quantization_config` is set, and the weights are not quantized.
    QuantizationConfig,
    /// Keys of `config.json` that mean nothing to this program.
    UnknownKeys(Vec<String>),
    /// Texts are to end with a token of their own.
    AddEos,
    /// Tokens that end a text, or other ids and tokens, without a row in the embedding.
    WithoutRow(Vec<String>),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| Printable::new(&names.join(" ")).at_most(200).to_string();
        match self {
            Self::Vision(n) => write!(f, "{n} vision tensors are left out: only text is supported"),
            Self::OutputMatrix => f.write_str(
                "lm_head.weight is left out: it differs from the embedding, but config.json says that \
                 the two are one (tie_word_embeddings)",
            ),
            Self::NoOutputMatrix => f.write_str(
                "the embedding is used as the output matrix: config.json asks for lm_head.weight \
                 (tie_word_embeddings), but there is none",
            ),
            Self::NoIndex => f.write_str(
                "model.safetensors.index.json is missing: the weights are those that the names of the \
                 files say",
            ),
            Self::QuantizationConfig => f.write_str(
                "quantization_config in config.json is ignored: the weights are not quantized",
            ),
            Self::UnknownKeys(keys) => {
                write!(f, "keys of config.json that are not known are ignored: {}", list(keys))
            }
            Self::AddEos => f.write_str(
                "add_eos_token is ignored: a prompt that is followed by an end has no answer",
            ),
            Self::WithoutRow(names) => write!(
                f,
                "tokens without an id, or without a row in the embedding, are left out: {}",
                list(names)
            ),
        }
    }
}
