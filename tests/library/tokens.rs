//! Texts and their tokens.

use std::sync::LazyLock;

use lapidary::model::Source;
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary_formats::checkpoint::Checkpoint;

use crate::fixtures::{held_out, tiny};

/// The tokenizer of the small trained checkpoint.
pub static TINY: LazyLock<Tokenizer> = LazyLock::new(|| {
    let checkpoint = Checkpoint::open(tiny()).unwrap();
    Tokenizer::new(checkpoint.vocab().unwrap()).unwrap()
});

/// The tokens of the held-out text, by a model's own tokenizer.
pub fn held_out_ids(source: &Source) -> Vec<u32> {
    let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
    let text = std::fs::read_to_string(held_out()).unwrap();
    tokenizer.encode_with_bos(&text, Special::Plain)
}
