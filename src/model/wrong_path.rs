//! What people name in place of a model, and what they should name.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use lapidary_formats::printable::Printable;

/// The most bytes of an `adapter_config.json` that are read; ordinary ones have one kilobyte.
const MAX_CONFIG: u64 = 1 << 20;

/// Most pieces of a file that are listed.
const MAX_PIECES: usize = 99;

/// What a path leads to that is not a model by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrongPath {
    /// An adapter (LoRA), and the name of the model that it was trained for, if it says so.
    Adapter {
        /// The base model.
        base: Option<String>,
    },
    /// A piece of a file that was cut into `pieces`.
    Piece {
        /// All the pieces in order, without those behind the first hundred.
        pieces: Vec<String>,
        /// The name of the whole file.
        whole: String,
    },
    /// A file of the checkpoint in `directory`.
    FileOfCheckpoint {
        /// The directory.
        directory: PathBuf,
    },
    /// Weights without a checkpoint around them.
    Weights,
    /// Nothing, but it reads like the name of a repository of the hub, `owner/model`.
    HubName,
    /// A repository in the cache of huggingface_hub, with this snapshot.
    HubRepository {
        /// A checkpoint's directory.
        snapshot: PathBuf,
    },
}

impl WrongPath {
    /// What `path` is, if it is any of these. To be asked about a path that could not be opened.
    pub(super) fn of(path: &Path) -> Option<Self> {
        if path.is_dir() {
            return adapter(path).or_else(|| hub_repository(path));
        }
        let name = path.file_name()?.to_str()?;
        if let Some(piece) = piece(name) {
            return Some(piece);
        }
        let directory = match path.parent()? {
            dir if dir == Path::new("") => Path::new("."),
            dir => dir,
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("safetensors") => {}
            Some("bin" | "json" | "jinja" | "model" | "pt" | "pth") => {
                return is_checkpoint(directory).then(|| Self::of_checkpoint(directory))
            }
            _ => return None,
        }
        Some(match is_checkpoint(directory) {
            true => Self::of_checkpoint(directory),
            false => adapter(directory).unwrap_or(Self::Weights),
        })
    }

    /// The same for a path that leads nowhere.
    pub(super) fn of_missing(path: &Path) -> Option<Self> {
        let (owner, model) = path.to_str()?.split_once('/')?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_plain)
        };
        let is_file = [".gguf", ".safetensors"].iter().any(|end| model.ends_with(end));
        (is_name(owner) && is_name(model) && !is_file).then_some(Self::HubName)
    }

    fn of_checkpoint(directory: &Path) -> Self {
        Self::FileOfCheckpoint { directory: directory.to_owned() }
    }
}

fn is_checkpoint(dir: &Path) -> bool {
    dir.join("config.json").is_file()
}

/// The adapter in `dir`, if there is one and no model beside it.
fn adapter(dir: &Path) -> Option<WrongPath> {
    let config = dir.join("adapter_config.json");
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let mut entries = dir.read_dir().ok()?.flatten();
    let has_model = entries.any(|entry| entry.file_name().to_str().is_some_and(is_weights));
    let len = fs::metadata(&config).ok().filter(|config| config.is_file())?.len();
    if has_model {
        return None;
    }
    let text = (len <= MAX_CONFIG).then(|| fs::read(&config).ok()).flatten().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let base = json["base_model_name_or_path"].as_str().filter(|base| !base.is_empty());
    Some(WrongPath::Adapter { base: base.map(str::to_owned) })
}

/// The repository in the cache of huggingface_hub whose directory `dir` or `dir/snapshots` is.
fn hub_repository(dir: &Path) -> Option<WrongPath> {
    let snapshots = match dir.ends_with("snapshots") {
        true => dir.to_owned(),
        false => dir.join("snapshots"),
    };
    let entries = snapshots.read_dir().ok()?.flatten().map(|entry| entry.path());
    // Of several, the one that was downloaded last.
    let modified = |dir: &PathBuf| fs::metadata(dir).and_then(|metadata| metadata.modified()).ok();
    let snapshot = entries.filter(|dir| is_checkpoint(dir)).max_by_key(modified)?;
    Some(WrongPath::HubRepository { snapshot })
}

/// The piece with this name, as people cut files to upload them: `x.gguf.part1of2`,
/// `x.part1of2.gguf` or `x.gguf-split-a`.
fn piece(name: &str) -> Option<WrongPath> {
    if let Some((whole, letter)) = name.rsplit_once("-split-") {
        let is_letter = letter.len() == 1 && letter.bytes().all(|b| b.is_ascii_lowercase());
        let pieces = vec![format!("{whole}-split-?")];
        return is_letter.then(|| WrongPath::Piece { pieces, whole: whole.to_owned() });
    }
    let (before, rest) = name.rsplit_once(".part")?;
    let (numbers, after) = match rest.strip_suffix(".gguf") {
        Some(numbers) => (numbers, ".gguf"),
        None => (rest, ""),
    };
    let (number, count) = numbers.split_once("of")?;
    let (n, count_of): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
    if n == 0 || n > count_of || count_of < 2 {
        return None;
    }
    let width = number.len();
    let pieces = (1..=count_of.min(MAX_PIECES))
        .map(|n| format!("{before}.part{n:0width$}of{count}{after}"))
        .collect();
    let whole = match before.ends_with(".gguf") {
        true => before.to_owned(),
        false => format!("{before}.gguf"),
    };
    Some(WrongPath::Piece { pieces, whole })
}

impl fmt::Display for WrongPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adapter { base } => {
                let base = match base {
                    Some(base) => format!("of {}", Printable::new(base)),
                    None => "of another model".to_owned(),
                };
                write!(
                    f,
                    "is an adapter {base}, without that model's weights: merge it into the model \
                     first (`merge_and_unload` of peft), and name the result"
                )
            }
            Self::Piece { pieces, whole } => {
                let pieces = pieces.join(" ");
                let pieces = Printable::new(&pieces).at_most(2000);
                let whole = Printable::new(whole);
                write!(f, "is a piece of a file; join them first: cat {pieces} > {whole}")
            }
            Self::FileOfCheckpoint { directory } => {
                write!(
                    f,
                    "is one file of a checkpoint; name its directory, {}",
                    directory.display()
                )
            }
            Self::Weights => f.write_str(
                "has only weights: a model is a GGUF file, or a directory with config.json, a \
                 tokenizer and such weights",
            ),
            Self::HubName => f.write_str(
                "does not exist here; a model of the hub is downloaded first: \
                 huggingface-cli download OWNER/MODEL --local-dir MODEL",
            ),
            Self::HubRepository { snapshot } => {
                write!(f, "is a repository in a cache; name the snapshot {}", snapshot.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(name: &str) -> Option<String> {
        let message = piece(name)?.to_string();
        message.split_once(": ").map(|(_, command)| command.to_owned())
    }

    #[test]
    fn names_of_the_hub_are_recognized() {
        for name in ["google/gemma-2-2b-it", "someone/Gemma_2.5-x"] {
            assert_eq!(WrongPath::of_missing(Path::new(name)), Some(WrongPath::HubName), "{name}");
        }
        for path in ["gemma", "/google/gemma", "a/b/c", "./gemma", "../gemma", "dir/x.gguf", "a/"] {
            assert_eq!(WrongPath::of_missing(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn pieces_are_recognized_by_their_names() {
        for (name, command) in [
            ("a.gguf.part1of2", "cat a.gguf.part1of2 a.gguf.part2of2 > a.gguf"),
            ("a.Q8_0.part2of2", "cat a.Q8_0.part1of2 a.Q8_0.part2of2 > a.Q8_0.gguf"),
            ("a.part01of02.gguf", "cat a.part01of02.gguf a.part02of02.gguf > a.gguf"),
            ("a.gguf-split-b", "cat a.gguf-split-? > a.gguf"),
        ] {
            assert_eq!(joined(name).as_deref(), Some(command), "{name}");
        }
        for name in ["a.gguf", "a.gguf.part", "a.part3of2", "a.part1of1", "a.part0of2", "a.partof"]
        {
            assert_eq!(joined(name), None, "{name}");
        }
        assert!(joined("a.part1of999999999999").unwrap().len() < 3000);
    }
}
