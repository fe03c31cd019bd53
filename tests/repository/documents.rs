//! What the documents name exists: files, folders and tests.
//!
//! A path is what stands in backticks and has a `/` or ends as a file of this repository does. It begins
//! at the root, or in the folder that the path before it, in the same paragraph or row, names or is in, or
//! beside that folder. A name in capitals, as in `src/kernels/isa/SET.rs`, is a file that is yet to be written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::source::{rust_files, tokens};

const DOCUMENTS: [&str; 2] = ["ARCHITECTURE.md", "CONTRIBUTING.md"];

/// What the names of files end in.
const ENDINGS: [&str; 8] = [".rs", ".md", ".toml", ".sh", ".py", ".js", ".mjs", ".css"];

/// Names that stand for one that the reader chooses.
const PLACEHOLDERS: [&str; 4] = ["TYPE", "SET", "NAME", "DIALECT"];

/// The folders that paths in pictures and commands begin with.
const ROOTS: [&str; 5] = ["src/", "formats/", "tests/", "benches/", ".ci/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The paragraphs and rows of a document, and the lines of its pictures.
fn paragraphs(text: &str) -> (Vec<String>, Vec<&str>) {
    let (mut paragraphs, mut pictures) = (vec![String::new()], Vec::new());
    let mut in_picture = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_picture = !in_picture;
        } else if in_picture {
            pictures.push(line);
        } else {
            if line.is_empty() || line.starts_with(['|', '#', '-']) || starts_with_number(line) {
                paragraphs.push(String::new());
            }
            let paragraph = paragraphs.last_mut().unwrap();
            paragraph.push_str(line);
            paragraph.push(' ');
        }
    }
    (paragraphs, pictures)
}

fn starts_with_number(line: &str) -> bool {
    line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// What stands in backticks, and what stands before each.
fn spans(paragraph: &str) -> impl Iterator<Item = (&str, &str)> {
    let pieces: Vec<_> = paragraph.split('`').collect();
    (1..pieces.len()).step_by(2).map(move |i| (pieces[i - 1], pieces[i]))
}

fn is_path(span: &str) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let inner_slash = span.contains('/') && !span.starts_with('/');
    plain
        && (inner_slash || ENDINGS.iter().any(|end| span.len() > end.len() && span.ends_with(end)))
}

/// The part of a path before the first placeholder.
fn before_placeholder(path: &str) -> PathBuf {
    let stem = |part: &&str| !PLACEHOLDERS.contains(&part.split('.').next().unwrap_or(part));
    path.split('/').take_while(stem).collect()
}

/// Where `path` is: from the root, in `folder` or beside it.
fn find(path: &str, folder: &Path) -> Option<PathBuf> {
    let path = before_placeholder(path);
    let folders = [root(), folder, folder.parent().unwrap_or(root())];
    folders.into_iter().map(|folder| folder.join(&path)).find(|path| path.exists())
}

/// The paths in a paragraph that lead nowhere.
fn missing_paths(paragraph: &str) -> Vec<&str> {
    let mut folder = root().to_owned();
    let mut missing = Vec::new();
    for (_, span) in spans(paragraph) {
        if is_path(span) {
            match find(span, &folder) {
                Some(path) if path.is_dir() => folder = path,
                Some(path) => folder = path.parent().unwrap_or(root()).to_owned(),
                None => missing.push(span),
            }
        } else {
            missing.extend(missing_in_words(span));
        }
    }
    missing
}

/// The paths from the root in a command or a picture, and the test binaries, that do not exist.
fn missing_in_words(text: &str) -> Vec<&str> {
    let words: Vec<_> = text.split_whitespace().collect();
    let path = |word: &&str| ROOTS.iter().any(|root| word.starts_with(root)) && is_path(word);
    let paths = words.iter().copied().filter(path);
    let binary = |name: &str| {
        let forms = |tests| [format!("{tests}/{name}.rs"), format!("{tests}/{name}/main.rs")];
        ["tests", "formats/tests"]
            .into_iter()
            .flat_map(forms)
            .any(|file| root().join(file).exists())
    };
    let binaries = words.windows(2).filter(|pair| pair[0] == "--test").map(|pair| pair[1]);
    let missing_paths = paths.filter(|path| find(path, root()).is_none());
    missing_paths.chain(binaries.filter(|name| !binary(name))).collect()
}

/// The names of all tests of both crates.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for dir in ["src", "formats", "tests"] {
        for file in rust_files(&root().join(dir)) {
            let text = fs::read_to_string(file).unwrap();
            let tokens = tokens(&text);
            let marks =
                tokens.windows(3).enumerate().filter(|(_, mark)| mark == &["[", "test", "]"]);
            for (at, _) in marks {
                let name = tokens[at..].iter().skip_while(|token| **token != "fn").nth(1);
                names.extend(name.map(|name| (*name).to_owned()));
            }
        }
    }
    names
}

#[test]
fn documents_name_what_exists() {
    let tests = tests();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let (paragraphs, pictures) = paragraphs(&text);
        let paths = paragraphs.iter().flat_map(|paragraph| missing_paths(paragraph));
        let paths = paths.chain(pictures.into_iter().flat_map(missing_in_words));
        missing.extend(paths.map(|path| format!("{document}: there is no {path}")));
        // A test is named after the word: the test `documents_name_what_exists`.
        let named = paragraphs.iter().flat_map(|paragraph| spans(paragraph));
        let named = named.filter(|(before, _)| before.ends_with("test ")).map(|(_, name)| name);
        let unknown = named.filter(|name| !is_path(name) && !tests.contains(*name));
        missing.extend(unknown.map(|name| format!("{document}: there is no test {name}")));
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn what_is_missing_is_found() {
    let text =
        "the traits in `src/kernels/isa/simd.rs` and `ops.rs`, not in `opps.rs`; `/health`, \
                `OUT.part`, `src/kernels/isa/SET.rs`, `src/kernel/isa/SET.rs`, `bash .ci/runs`, \
                `cargo test --release --test repository`, `cargo test --test repositories`";
    let missing = ["opps.rs", "src/kernel/isa/SET.rs", ".ci/runs", "repositories"];
    assert_eq!(missing_paths(text), missing);
    assert!(tests().contains("what_is_missing_is_found"));
    assert!(!tests().contains("missing_paths"));
}
