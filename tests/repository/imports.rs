//! Imports point one way. [`TABLE`] says what each module may import, and the test compares it with the
//! paths that the sources name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::source::{rust_files, tokens};

/// A module, and the modules that it imports. A module imports only from rows below its own, so that the
/// imports have no circles. What belongs to no row of its own belongs to the row of the module around it;
/// `formats` stands for all of lapidary-formats.
///
/// The table is exact: an import that is missing here fails, and so does one that nobody needs any more.
/// Only modules called `tests` import whatever is below the outermost module that they belong to.
#[rustfmt::skip]
const TABLE: &[(&str, &[&str])] = &[
    // The binary.
    ("main", &["commands", "fault", "formats"]),
    ("commands", &[
        "server", "engine", "generate", "verify", "convert", "hessian", "imatrix", "perplexity", "memory", "bandwidth",
        "machine", "calibration", "chat", "sampling", "tokenizer", "model", "kernels", "formats",
    ]),
    // The library.
    ("server", &[
        "server::llama_cpp", "server::ollama", "server::openai", "server::generation", "server::http", "server::limits",
    ]),
    ("server::llama_cpp", &["server::openai", "server::http", "tokenizer"]),
    ("server::ollama", &[
        "server::openai", "server::generation", "server::http", "engine", "chat", "tokenizer",
    ]),
    ("server::openai", &[
        "server::generation", "server::http", "server::limits", "engine", "chat", "sampling", "tokenizer",
    ]),
    ("server::generation", &["server::http", "server::limits", "engine", "sampling"]),
    ("server::http", &["server::limits", "engine", "chat", "grammar", "sampling", "tokenizer"]),
    ("server::limits", &[]),
    ("engine", &["generate", "sampling", "model", "tokenizer", "kernels"]),
    ("generate", &["sampling", "model", "tokenizer", "kernels", "formats::vocab"]),
    ("verify", &["convert", "hessian", "chat", "model", "tokenizer", "kernels", "formats"]),
    ("convert", &["memory", "hessian", "perplexity", "chat", "model", "tokenizer", "kernels", "formats"]),
    ("memory", &["grammar", "sampling", "model", "tokenizer", "kernels"]),
    ("hessian", &["calibration", "perplexity", "model", "kernels", "formats"]),
    ("imatrix", &["calibration", "perplexity", "model", "kernels", "formats"]),
    ("perplexity", &["model", "kernels", "formats"]),
    ("calibration", &["chat", "model", "formats"]),
    ("chat", &["tokenizer", "formats"]),
    ("grammar", &["sampling", "tokenizer", "formats"]),
    ("sampling", &["sampling::rng"]),
    ("model", &["sampling::rng", "kernels", "formats"]),
    ("sampling::rng", &[]),
    ("tokenizer", &["formats"]),
    ("kernels", &["kernels::unpack", "kernels::isa", "formats::tensor", "formats::quant"]),
    ("kernels::unpack", &["kernels::isa", "formats::quant"]),
    ("kernels::isa", &["formats::quant"]),
    ("bandwidth", &[]),
    ("machine", &[]),
    ("fault", &["formats::printable", "formats::map"]),
    // lapidary-formats.
    ("formats::session", &["formats::gguf"]),
    ("formats::imatrix", &["formats::gguf", "formats::tensor", "formats::quant", "formats::printable", "formats::map"]),
    ("formats::gguf", &["formats::vocab", "formats::tensor", "formats::quant", "formats::printable", "formats::map"]),
    ("formats::checkpoint", &["formats::vocab", "formats::tensor", "formats::quant", "formats::printable", "formats::map"]),
    ("formats::vocab", &["formats::printable", "formats::map"]),
    ("formats::tensor", &["formats::quant"]),
    ("formats::quant", &[]),
    ("formats::printable", &[]),
    ("formats::map", &[]),
];

/// The row that `path` belongs to: the longest one that it begins with.
fn row(path: &str) -> Option<usize> {
    let rows = TABLE.iter().enumerate().filter(|(_, (module, _))| covers(module, path));
    rows.max_by_key(|(_, (module, _))| module.len()).map(|(row, _)| row)
}

/// Whether `path` is `module` or within it.
fn covers(module: &str, path: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The module that `file` holds; a crate's root has no name. The modules of lapidary-formats are within one
/// that is called `formats`. `file` is below `src/` or `formats/src/`.
fn module_of(file: &Path) -> Vec<String> {
    let file = file.with_extension("");
    let parts = file.iter().map(|part| part.to_str().unwrap());
    let mut module: Vec<_> = parts.filter(|part| *part != "src").map(str::to_owned).collect();
    module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    module
}

/// The full names of what a source imports or names by its path, and of the modules that it declares; with
/// each, whether a module called `tests` does so.
fn names(module: &[String], text: &str) -> BTreeSet<(String, bool)> {
    let tokens = tokens(text);
    let mut module: Vec<&str> = module.iter().map(String::as_str).collect();
    let root = &module.clone()[..usize::from(module.first() == Some(&"formats"))];
    let (mut found, mut paths, mut braces) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            "{" => {
                let opens_module = at > 1 && tokens[at - 2] == "mod";
                module.extend(opens_module.then(|| tokens[at - 1]));
                braces.push(opens_module);
            }
            "}" => {
                let closes_module = braces.pop() == Some(true);
                module.truncate(module.len() - usize::from(closes_module));
            }
            "mod" if tokens.get(at + 2) == Some(&";") => {
                paths.push([&module, &tokens[at + 1..][..1]].concat().join("::"));
            }
            _ => {}
        }
        // `pub(in crate::…)` names a module around this one, and imports nothing.
        let before = if at == 0 { "" } else { tokens[at - 1] };
        let begins = tokens.get(at + 1) == Some(&"::") && !["::", "in"].contains(&before);
        let base = match tokens[at] {
            "crate" => Some(root),
            "super" => Some(&module[..module.len().saturating_sub(1)]),
            "lapidary" => Some([].as_slice()),
            "lapidary_formats" => Some(["formats"].as_slice()),
            _ => None,
        };
        at = match base {
            Some(base) if begins => path(&tokens, at + 2, base, &mut paths),
            _ => at + 1,
        };
        let in_tests = module.contains(&"tests");
        found.extend(paths.drain(..).map(|path| (path, in_tests)));
    }
    found
}

/// Adds the paths that go on with `tokens[at..]` from `base`, and returns where they end.
fn path(tokens: &[&str], at: usize, base: &[&str], paths: &mut Vec<String>) -> usize {
    if tokens[at] == "{" {
        let mut at = at + 1;
        while tokens[at] != "}" {
            at = path(tokens, at, base, paths);
            // What is renamed keeps its path.
            at += tokens[at..].iter().take_while(|token| !matches!(**token, "," | "}")).count();
            at += usize::from(tokens[at] == ",");
        }
        return at + 1;
    }
    let word = tokens[at];
    let named = match word {
        "super" => base[..base.len().saturating_sub(1)].to_vec(),
        word if word != "self" && is_word(word) => [base, &[word]].concat(),
        _ => base.to_vec(),
    };
    if tokens.get(at + 1) == Some(&"::") {
        return path(tokens, at + 2, &named, paths);
    }
    paths.push(named.join("::"));
    at + 1
}

fn is_word(token: &str) -> bool {
    token.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Every source of both crates by its path in the repository, and its text. The roots of the libraries
/// only declare modules.
fn sources() -> Vec<(PathBuf, String)> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["src", "formats/src"].into_iter().flat_map(|dir| rust_files(&repository.join(dir)));
    let sources = files.map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        (file.strip_prefix(repository).unwrap().to_owned(), text)
    });
    sources.filter(|(file, _)| !file.ends_with("src/lib.rs")).collect()
}

#[test]
fn rows_import_from_rows_below_them() {
    for (i, (module, imports)) in TABLE.iter().enumerate() {
        for import in *imports {
            let below = TABLE[i + 1..].iter().any(|(row, _)| covers(import, row));
            assert!(below, "{module} imports {import}, which has no row below it");
        }
    }
}

#[test]
fn imports_point_one_way() {
    let (mut faults, mut needed) = (Vec::new(), BTreeSet::new());
    for (file, text) in sources() {
        let file = file.display();
        let module = module_of(Path::new(&file.to_string()));
        let name = if module.is_empty() { "main".to_owned() } else { module.join("::") };
        let Some(from) = row(&name) else {
            faults.push(format!("{file}: the module has no row in the table"));
            continue;
        };
        let outermost = TABLE.iter().position(|(module, _)| covers(module, &name));
        let (importer, imports) = TABLE[from];
        for (name, in_tests) in names(&module, &text) {
            let Some(to) = row(&name) else {
                faults.push(format!("{file}: {name} is in no module that has a row in the table"));
                continue;
            };
            if to == from || in_tests && outermost.is_some_and(|outermost| to >= outermost) {
                continue;
            }
            let target = TABLE[to].0;
            match imports.iter().find(|import| covers(import, target)) {
                Some(import) => {
                    needed.insert((importer, *import));
                }
                None => faults.push(format!("{file}: {importer} may not import {target} ({name})")),
            }
        }
    }
    for (module, imports) in TABLE {
        let unused = imports.iter().filter(|import| !needed.contains(&(*module, **import)));
        faults.extend(unused.map(|import| format!("the table: {module} does not import {import}")));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn paths_are_found_in_all_their_forms() {
    let text = r##"
        //! [`crate::comment`]
        use crate::{a::{B, self}, c as d};
        use super::{super::e::F, g};
        pub(in crate::model) fn f<'a>(x: &'a str) -> char {
            let _ = ("crate::text", r#"crate::"raw""#, b'"', ''', '"');
            /* crate::outer /* crate::inner */ crate::outer */
            lapidary_formats::map::Map::<u8>::open(x)
        }
        mod tests {
            use super::*;
            fn f() { crate::h::i() }
        }
        mod child;
    "##;
    let module = ["model", "state"].map(str::to_owned);
    let mut expected =
        ["a", "a::B", "c", "e::F", "formats::map::Map", "model::g", "model::state::child"]
            .map(|path| (path.to_owned(), false))
            .to_vec();
    expected.extend(["h::i", "model::state"].map(|path| (path.to_owned(), true)));
    assert_eq!(names(&module, text), expected.into_iter().collect());
}
