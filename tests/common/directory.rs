//! What is in a directory, and copies of it.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// The names of what is in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A copy of a checkpoint, to be changed.
pub fn copy_of(model: &Path) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in names(model) {
        fs::copy(model.join(&name), dir.path().join(&name)).unwrap();
    }
    dir
}
