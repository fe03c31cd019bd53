//! Which files an output may take the place of.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::target::unfinished_path;
use super::ConvertError;
use crate::model::Source;

const BEING_READ: &str = "belongs to the model that is being read";

/// Checks that a finished file may get the name `out`. `source` is the model that is being read, if
/// any, and `inputs` are other files that are being read: neither they nor what they were made of
/// may be lost. To be called before long work.
///
/// # Errors
/// If `out` exists and `force` is not given; if it is `-`, no file name or not a regular file; or if
/// it or its unfinished file is being read.
pub fn check_output(
    out: &Path,
    force: bool,
    source: Option<&Source>,
    inputs: &[&Path],
) -> Result<(), ConvertError> {
    check_replaceable(out, force)?;
    for path in [out, &unfinished_path(out)] {
        let unsuitable = |cause| Err(ConvertError::Unsuitable { path: path.to_owned(), cause });
        if source.is_some_and(|source| is_part_of(path, source)) {
            return unsuitable(BEING_READ);
        }
        if inputs.iter().any(|input| same_file(path, input)) {
            return unsuitable("is being read");
        }
    }
    // Last, because `force` does not help against anything above.
    match std::fs::symlink_metadata(out) {
        Ok(_) if !force => Err(ConvertError::Exists { path: out.to_owned() }),
        _ => Ok(()),
    }
}

/// Checks what is at `out`, and does not mind an ordinary file.
fn check_replaceable(out: &Path, force: bool) -> Result<(), ConvertError> {
    let unsuitable = |cause| Err(ConvertError::Unsuitable { path: out.to_owned(), cause });
    if out == Path::new("-") {
        return unsuitable(
            "a file cannot be written to standard output, because its header is filled in last; \
             name a file (./- if it is to be called -)",
        );
    }
    if out.file_name().is_none() {
        return unsuitable("is not a file name");
    }
    match std::fs::metadata(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match std::fs::symlink_metadata(out) {
                Ok(_) if !force => unsuitable(
                    "is a symbolic link to a file that does not exist; delete it, or name that file",
                ),
                _ => Ok(()),
            }
        }
        Err(error) => Err(ConvertError::Output { path: out.to_owned(), error }),
        Ok(metadata) if metadata.is_dir() => unsuitable("is a directory"),
        Ok(metadata) if !metadata.is_file() => unsuitable("is not a regular file"),
        Ok(_) => Ok(()),
    }
}

/// Whether the file `path` belongs to the model that is being read: to its GGUF files, or to a
/// checkpoint's directory, where only GGUF files and unfinished files belong to somebody else.
fn is_part_of(path: &Path, source: &Source) -> bool {
    let read = source.path();
    if source.gguf().is_none() {
        let others = [Some(OsStr::new("gguf")), Some(OsStr::new("part"))];
        let mut files = siblings(read).filter(|file| !others.contains(&file.extension()));
        return files.any(|file| same_file(path, &file));
    }
    let splits = split_name(read).map(|name| {
        let dir = super::target::directory(read);
        siblings(dir).filter(move |file| split_name(file) == Some(name))
    });
    same_file(path, read) || splits.into_iter().flatten().any(|file| same_file(path, &file))
}

/// The files in a directory.
fn siblings(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The common part of the names of split files: `NAME` in `NAME-00001-of-00003.gguf`.
fn split_name(path: &Path) -> Option<&str> {
    let (rest, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let is_number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(name)
}

/// Whether both paths lead to one existing file, be it through links.
#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    id(a).is_ok_and(|a| id(b).is_ok_and(|b| a == b))
}

/// On other systems the standard library compares only paths, so hard links are not noticed.
#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    let path = |path: &Path| path.canonicalize();
    path(a).is_ok_and(|a| path(b).is_ok_and(|b| a == b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_files_are_recognized_by_their_names() {
        let name = |path: &str| split_name(Path::new(path)).map(str::to_owned);
        assert_eq!(name("/m/gemma-27b-00002-of-00003.gguf"), Some("gemma-27b".into()));
        assert_eq!(name("/m/gemma-27b.gguf"), None);
        assert_eq!(name("/m/gemma-2-of-3.gguf"), None);
    }
}
