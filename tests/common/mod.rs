//! What several tests need: where the fixtures are, and how to compare.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};

/// A path below `tests/`.
pub fn tests_dir(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The small trained checkpoint.
pub fn tiny() -> PathBuf {
    tests_dir("fixtures/tiny-gemma2")
}

/// The random checkpoint with odd sizes.
pub fn micro() -> PathBuf {
    tests_dir("fixtures/micro-gemma2")
}

/// The text that the trained checkpoint has not seen.
pub fn held_out() -> PathBuf {
    tests_dir("fixtures/held-out/kjv-held-out.txt")
}

/// A golden that transformers made, as JSON.
pub fn golden(name: &str) -> serde_json::Value {
    let path = tests_dir("goldens/transformers").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Token ids out of a golden.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Little-endian f32 values of a golden.
pub fn golden_f32(name: &str) -> Vec<f32> {
    let path = tests_dir("goldens/transformers").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Mean squared error over the mean square of what is expected.
pub fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 =
        found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    error / expected.iter().map(|x| square(f64::from(*x))).sum::<f64>()
}
