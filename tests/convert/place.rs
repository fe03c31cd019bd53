//! A directory to run commands in.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::fixtures::held_out;

/// A directory with the model's name and texts.
pub struct Place {
    pub dir: TempDir,
    pub model: PathBuf,
}

impl Place {
    /// An empty one, for commands on `model`.
    pub fn new(model: PathBuf) -> Self {
        Self { dir: TempDir::new().unwrap(), model }
    }

    /// What is called `name` there.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A part of the held-out text.
    pub fn text(&self, name: &str, part: Range<usize>) -> String {
        fs::write(self.path(name), &fs::read(held_out()).unwrap()[part]).unwrap();
        self.path(name)
    }

    /// `lapidary COMMAND MODEL ARGS`.
    pub fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        process.arg(command).arg(&self.model).args(args);
        process
    }

    /// Runs a command that succeeds, and gives what it prints.
    #[track_caller]
    pub fn run(&self, command: &str, args: &[&str]) -> String {
        let output = self.command(command, args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails with this code, and gives what it says.
    #[track_caller]
    pub fn fails(&self, code: i32, command: &str, args: &[&str]) -> String {
        let output = self.command(command, args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        stderr
    }

    /// The contents of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}
