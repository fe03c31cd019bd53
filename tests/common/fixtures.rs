//! Where the fixtures are.

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
