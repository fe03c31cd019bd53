//! What commands may not overwrite, and writes that fail.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::fixtures::{held_out, micro, tiny};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program in this directory.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command.args(args).current_dir(self.0.path()).output().unwrap()
    }

    /// Expects one line with all of `parts`.
    #[track_caller]
    fn fails(&self, args: &[&str], parts: &[&str]) {
        let line = fault(&self.run(args));
        assert!(parts.iter().all(|part| line.contains(part)), "{line} lacks some of {parts:?}");
    }
}

#[track_caller]
fn fault(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_hard_link_to_the_source_is_not_written_to() {
    let place = Place::new();
    let (tiny, held_out) = (tiny(), held_out());
    let convert = ["convert", text(&tiny), "-o", "src.gguf", "-q", "Q8_0"];
    assert!(place.run(&convert).status.success());
    let before = fs::read(place.path("src.gguf")).unwrap();
    for (name, link) in [("new.gguf", "new.gguf.part"), ("new.dat", "new.dat.part")] {
        fs::hard_link(place.path("src.gguf"), place.path(link)).unwrap();
        let convert = ["convert", "src.gguf", "-o", name];
        let imatrix = ["imatrix", "src.gguf", "-f", text(&held_out), "-o", name, "--chunks", "1"];
        for args in [&convert[..], &imatrix[..]] {
            for more in [&[][..], &["--force"]] {
                let parts = [link, "belongs to the model that is being read"];
                place.fails(&[args, more].concat(), &parts);
                assert!(fs::read(place.path("src.gguf")).unwrap() == before);
            }
        }
        // A file that has nothing to do with the command.
        let other = micro();
        place.fails(&["convert", text(&other), "-o", name, "--force"], &[link, "hard links"]);
        assert!(fs::read(place.path("src.gguf")).unwrap() == before);
    }
}

#[test]
fn a_text_that_is_read_is_not_written_to() {
    let place = Place::new();
    let tiny = tiny();
    let copy = |name: &str| fs::copy(held_out(), place.path(name)).unwrap();
    copy("text");
    copy("other.part");
    for (input, output) in [("text", "text"), ("other.part", "other")] {
        let model = text(&tiny);
        for args in [
            ["imatrix", model, "-f", input, "-o", output, "--force"],
            ["convert", model, "--calibrate", input, "-o", output, "--force"],
            ["convert", model, "--check", input, "-o", output, "--force"],
            ["convert", model, "--imatrix", input, "-o", output, "--force"],
        ] {
            place.fails(&args, &[input, "is being read"]);
            assert!(fs::read(place.path(input)).unwrap() == fs::read(held_out()).unwrap());
        }
    }
}

/// An importance matrix takes the place of no unfinished conversion, nor of anything else.
#[test]
fn the_unfinished_file_of_a_matrix_is_empty() {
    let place = Place::new();
    let (tiny, held_out) = (tiny(), held_out());
    let args = ["imatrix", text(&tiny), "-f", text(&held_out), "-o", "m", "--chunks", "1"];
    fs::write(place.path("m.part"), "GGUF of somebody").unwrap();
    place.fails(&args, &["m.part: is in the way", "--force replaces it"]);
    assert_eq!(fs::read(place.path("m.part")).unwrap(), b"GGUF of somebody");
    assert!(place.run(&[&args[..], &["--force"]].concat()).status.success());
    fs::remove_file(place.path("m")).unwrap();
    fs::write(place.path("m.part"), "").unwrap();
    assert!(place.run(&args).status.success());
    assert!(!place.path("m.part").exists());
}

#[test]
fn standard_output_and_links_to_nothing_are_refused_at_once() {
    let place = Place::new();
    let (tiny, held_out) = (tiny(), held_out());
    std::os::unix::fs::symlink("nothing", place.path("link")).unwrap();
    for (output, part) in [("-", "standard output"), ("link", "link: is a symbolic link")] {
        // The text would take the whole of it an hour, if it came first.
        let calibrated = ["convert", text(&tiny), "-o", output, "--calibrate", "no such text"];
        place.fails(&calibrated, &[part]);
        place.fails(&["imatrix", text(&tiny), "-f", text(&held_out), "-o", output], &[part]);
    }
    assert!(place.run(&["convert", text(&tiny), "-o", "./-", "-q", "Q2_K"]).status.success());
    assert!(place.path("-").exists());
}

/// Runs the program where no file may be larger than a few kilobytes.
fn limited(place: &Place, args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -f 20; exec "$0" "$@""#, env!("CARGO_BIN_EXE_lapidary")]);
    command.args(args).current_dir(place.0.path()).output().unwrap()
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let place = Place::new();
    let (tiny, held_out) = (tiny(), held_out());
    let prompt = "And it came to pass, when the king heard the words of the book of the law";
    for (args, file) in [
        (&["convert", text(&tiny), "-o", "out"][..], "out"),
        (&["imatrix", text(&tiny), "-f", text(&held_out), "-o", "out", "--chunks", "1"], "out"),
        (&["run", text(&tiny), "-p", prompt, "-n", "9", "--prompt-cache", "out"], "out"),
        (&["demo", "--dir", "out"], "out"),
    ] {
        let output = limited(&place, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        let line = stderr.lines().last().unwrap();
        let parts = [file, "too large", "ulimit -f"];
        assert!(parts.iter().all(|part| line.contains(part)), "{args:?}: {stderr}");
        assert!(!place.path("out").is_file(), "{args:?}");
    }
}
