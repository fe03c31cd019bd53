//! Rust files as tokens: enough of the language to find the paths that a module names. Comments and
//! literals are left out.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file under `dir` that ends in `.rs`.
pub fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// The words (identifiers, keywords, numbers), `::`, and all other marks one by one.
pub fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = not_code(rest);
        if skipped > 0 {
            rest = &rest[skipped..];
            continue;
        }
        let word = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let len = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..len]);
        }
        rest = &rest[len..];
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Bytes of the comment or literal that `text` begins with, 0 if with neither.
fn not_code(text: &str) -> usize {
    let until = |end: &str, from: usize| {
        text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        return until("\n", 0);
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    // Raw strings, with a `b` before the `r` or without.
    let raw = text.strip_prefix('b').unwrap_or(text).strip_prefix('r');
    if let Some(raw) = raw {
        let hashes = raw.bytes().take_while(|b| *b == b'#').count();
        if raw[hashes..].starts_with('"') {
            let open = text.len() - raw.len() + hashes + 1;
            return until(&format!("\"{}", "#".repeat(hashes)), open);
        }
    }
    match text.as_bytes() {
        [b'"', ..] => quoted(text, '"'),
        [b'b', b'"', ..] => 1 + quoted(&text[1..], '"'),
        [b'b', b'\'', ..] => 1 + quoted(&text[1..], '\''),
        [b'\'', b'\\', ..] => quoted(text, '\''),
        // A character, and not a lifetime, which no quote ends.
        [b'\'', ..] => {
            let char = text.char_indices().nth(2).filter(|(_, c)| *c == '\'');
            char.map_or(0, |(at, _)| at + 1)
        }
        _ => 0,
    }
}

/// Bytes of the literal that begins and ends with `mark`, and in which `\` escapes.
fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let end = *c == mark && !escaped;
        escaped = *c == '\\' && !escaped;
        end
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Bytes of a comment in `/* */`, which may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(mark) = text[at..].find(['/', '*']).map(|next| at + next) {
        let step = match &text.as_bytes()[mark..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => 0,
        };
        depth += step;
        at = mark + if step == 0 { 1 } else { 2 };
        if depth == 0 {
            return at;
        }
    }
    text.len()
}
