//! A model's file, and what is said of it.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use lapidary::model::Source;
use tempfile::TempDir;

/// A file of its own.
pub struct File(TempDir);

impl File {
    pub fn new(bytes: &[u8]) -> Self {
        let file = Self(TempDir::new().unwrap());
        fs::write(file.path(), bytes).unwrap();
        file
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("model.gguf")
    }

    /// An error without the file's name, which it has to begin with.
    pub fn cause(&self, error: impl ToString) -> String {
        let message = error.to_string();
        let name = format!("{}: ", self.path().display());
        assert_eq!(message.matches(&name).count(), 1, "{message}");
        message.strip_prefix(&name).unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    /// Why it is not opened.
    pub fn refused(&self) -> String {
        self.cause(Source::open(&self.path()).unwrap_err())
    }

    /// Runs a command on it, with a text to read.
    pub fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut lapidary = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        lapidary.arg(command).arg(self.path()).args(more).output().unwrap()
    }
}
