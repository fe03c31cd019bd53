//! Answers of transformers.

use crate::fixtures::tests_dir;

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
