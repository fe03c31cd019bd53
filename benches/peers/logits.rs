//! Writes the logits for a list of tokens, to compare them with other programs:
//!
//!     cargo run --release --example logits -- tests/goldens/transformers/tiny.json OUT_DIR FILE...
//!
//! `tiny.json` has the tokens under `ids`. For each FILE.gguf (or checkpoint directory), writes
//! `[tokens, n_vocab]` little-endian f32 to OUT_DIR/FILE.logits.f32, which
//! `llama_cpp_interchange.py --own OUT_DIR` reads. The KV cache is f32.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lapidary::kernels::KvType;
use lapidary::model::{Model, Rows, Source, State, StateOptions};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (tokens, out) =
        args.next().zip(args.next()).context("usage: logits TOKENS OUT_DIR FILE...")?;
    let tokens: serde_json::Value = serde_json::from_slice(&std::fs::read(tokens)?)?;
    let ids: Vec<u32> = serde_json::from_value(tokens["ids"].clone())?;
    args.try_for_each(|file| write_logits(&file, &ids, &out))
}

fn write_logits(file: &Path, ids: &[u32], out: &Path) -> anyhow::Result<()> {
    let source = Source::open(file)?;
    let model = Model::load(&source, None)?;
    let mut state = State::new(model.config(), StateOptions::new(ids.len(), KvType::F32));
    let mut bytes = Vec::new();
    model.forward(&mut state, ids, Rows::All, |_, logits| {
        bytes.extend(logits.iter().flat_map(|x| x.to_le_bytes()));
    })?;
    let name = file.file_stem().context("a file without a name")?.to_string_lossy();
    let out = out.join(format!("{name}.logits.f32"));
    std::fs::write(&out, bytes).with_context(|| out.display().to_string())
}
