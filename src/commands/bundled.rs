//! A small trained model and a text that it was not trained on, built into the program, so that
//! `lapidary demo` needs no download.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A file of the checkpoint: its name and its bytes.
macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../tests/fixtures/tiny-gemma2/", $name)).as_slice())
    };
}

/// A Gemma 2 of 3.7 million parameters, trained on the King James Bible.
const CHECKPOINT: [(&str, &[u8]); 6] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("model.safetensors"),
    file!("tokenizer.json"),
    file!("tokenizer.model"),
    file!("tokenizer_config.json"),
];

/// Chapters that were held out of its training.
pub const HELD_OUT: &str = include_str!("../../tests/fixtures/held-out/kjv-held-out.txt");

/// Writes the checkpoint into the new directory `dir`. Nothing that exists is overwritten.
pub fn write_checkpoint(dir: &Path) -> io::Result<()> {
    std::fs::create_dir(dir)?;
    CHECKPOINT
        .iter()
        .try_for_each(|(name, bytes)| File::create_new(dir.join(name))?.write_all(bytes))
}
