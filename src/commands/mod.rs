//! One module per command, and what several of them share.

pub mod convert;
pub mod demo;
pub mod inspect;
pub mod perplexity;
pub mod run;

mod bundled;
mod conversation;
mod generate;
pub mod interrupt;
mod prompt;
mod stats;

use std::num::NonZeroUsize;

use lapidary::kernels::KvType;

/// Parses `--kv`.
fn kv_type(name: &str) -> Result<KvType, String> {
    match name {
        "f16" => Ok(KvType::F16),
        "f32" => Ok(KvType::F32),
        _ => Err("it is f16 or f32".into()),
    }
}

/// More threads than any machine has cores for would take minutes to start, and all of its memory.
const MAX_THREADS: usize = 1024;

/// Parses `--threads`.
fn threads(number: &str) -> Result<NonZeroUsize, String> {
    match number.parse() {
        Ok(threads) if usize::from(threads) <= MAX_THREADS => Ok(threads),
        _ => Err(format!("it is a number from 1 to {MAX_THREADS}")),
    }
}
