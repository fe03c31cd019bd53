//! The logits of transformers, how far from them ours may be, and how ours are computed for comparison.

use std::fs;
use std::path::Path;

use lapidary::kernels::KvType;
use lapidary::model::{Model, Rows, State, StateOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::directory::copy_of;
use crate::fixtures::tests_dir;

/// NMSE of logits against transformers', with a cache of f32. f32 against f32 with sums in another
/// order: errors are some 1e-7 of a value per sum, 1e-13 squared, and up to 2e-12 for one position
/// of 8192. A wrong scale, window or norm is 1e-4 and more.
pub const F32_NMSE: f64 = 1e-10;

/// Types of the cache; the NMSE that each is allowed over all positions of a golden, and at one
/// position of `long.json`. Rounding values to f16 is 1e-4 of each, 1e-8 squared. Rounding keys is
/// more, for the micro model's scores reach 50 and a weight changes by as much as its score: in all
/// 9e-8, and at most 4e-7 at one position of `long.json`, as in transformers when it rounds them. With
/// blocks of Q8_0 transformers has 5e-5 over micro and 7e-5 over `long.json`, 2e-4 at one position.
pub const CACHES: [(KvType, f64, f64); 3] =
    [(KvType::F32, F32_NMSE, F32_NMSE), (KvType::F16, 1e-6, 1e-6), (KvType::Q8_0, 1e-4, 1e-3)];

/// Little-endian f32 values of a golden.
pub fn golden_f32(name: &str) -> Vec<f32> {
    let path = tests_dir("goldens/transformers").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A copy of the checkpoint `fixture` with other values of some keys of its `config.json`.
pub fn changed_checkpoint(fixture: &Path, changes: &Value) -> TempDir {
    let dir = copy_of(fixture);
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
    dir
}

/// Logits at some `positions` of a text, `[positions, n_vocab]`, evaluated in these `pieces`.
pub fn logits_at<'t>(
    model: &Model<'_>,
    pieces: impl Iterator<Item = &'t [u32]> + Clone,
    positions: &[u32],
    kv: KvType,
) -> Vec<f32> {
    let n_ctx = pieces.clone().map(<[u32]>::len).sum();
    let mut state = State::new(model.config(), StateOptions::new(n_ctx, kv));
    let mut wanted = Vec::new();
    for tokens in pieces {
        let first = state.len();
        let sink = |row: usize, logits: &mut [f32]| {
            if positions.contains(&((first + row) as u32)) {
                wanted.extend_from_slice(logits);
            }
        };
        model.forward(&mut state, tokens, Rows::All, sink).unwrap();
    }
    wanted
}

/// The `n` greedy tokens after a prompt, with a cache in f32.
pub fn greedy(model: &Model<'_>, prompt: &[u32], n: usize) -> Vec<u32> {
    let options = StateOptions::new(prompt.len() + n, KvType::F32);
    let (mut state, mut tokens) = (State::new(model.config(), options), prompt.to_vec());
    let next = |_| {
        let logits = model.forward_last(&mut state, &tokens).unwrap();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        tokens = vec![best as u32];
        best as u32
    };
    (0..n).map(next).collect()
}
