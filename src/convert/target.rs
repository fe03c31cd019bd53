//! The output file, which is either complete or does not exist under its name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::unfinished::UnfinishedFile;
use super::ConvertError;
use crate::model::Source;

/// A file that is written under another name beside its final path. If it is dropped before
/// [`commit`](Self::commit), it is deleted, unless it is to be kept for `--resume`.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    force: bool,
    unfinished: UnfinishedFile,
}

impl Target {
    /// Opens the unfinished file for `path`, after checking that a file of `bytes` bytes may get
    /// that name and will fit. What an earlier conversion left in it is kept until
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    /// If `path` exists and `force` is not given; if it is not a regular file, or belongs to
    /// `source`, the model that is being read, if any; if its directory does not exist, is not
    /// writable or has too little space; or if another process is writing it.
    pub fn create(
        path: &Path,
        force: bool,
        source: Option<&Source>,
        bytes: u64,
    ) -> Result<Self, ConvertError> {
        check_replaceable(path, force, source)?;
        let unfinished = UnfinishedFile::path_for(path);
        if source.is_some_and(|source| is_part_of(&unfinished, source)) {
            return Err(ConvertError::Unsuitable { path: unfinished, cause: BEING_READ });
        }
        let dir = directory(path);
        let no_directory = |error| ConvertError::Directory { path: path.to_owned(), error };
        std::fs::metadata(dir).map_err(no_directory)?;
        // If the free space cannot be determined, writing will show whether it is enough. The
        // unfinished file counts as free space, because it is overwritten or continued.
        let existing = std::fs::symlink_metadata(&unfinished).map_or(0, |metadata| metadata.len());
        if let Ok(available) = fs4::available_space(dir) {
            check_space(path, bytes, available.saturating_add(existing))?;
        }
        Ok(Self { path: path.to_owned(), force, unfinished: UnfinishedFile::open(path)? })
    }

    /// The final path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.unfinished.file()
    }

    /// The path of the unfinished file.
    pub(super) fn unfinished(&self) -> &Path {
        self.unfinished.path()
    }

    /// Starts to write after the first `len` bytes of the unfinished file, which are kept.
    ///
    /// # Errors
    /// If the file cannot be truncated.
    pub fn begin(&mut self, len: u64) -> Result<(), ConvertError> {
        self.unfinished.claim(len).map_err(|error| self.error(error))
    }

    /// Keeps the unfinished file.
    pub(super) fn keep(mut self) {
        self.unfinished.keep();
    }

    /// Waits until the bytes are on the disk.
    ///
    /// # Errors
    /// If the system reports that they are not.
    pub fn sync(&self) -> Result<(), ConvertError> {
        self.file().sync_all().map_err(|error| self.error(error))
    }

    /// Renames the file to its final name.
    ///
    /// # Errors
    /// If the system refuses, or another process has created a file of that name meanwhile and
    /// `force` was not given.
    pub fn commit(&mut self) -> Result<(), ConvertError> {
        let (unfinished, path) = (self.unfinished.path(), &self.path);
        let renamed = match self.force {
            true => std::fs::rename(unfinished, path),
            // This fails if a file of that name has been created meanwhile.
            false => TempPath::try_from_path(unfinished).and_then(|mut unfinished| {
                unfinished.disable_cleanup(true);
                unfinished.persist_noclobber(path).map_err(|e| e.error)
            }),
        };
        renamed.map_err(|error| self.error(error))?;
        self.unfinished.keep();
        sync_directory(directory(&self.path));
        Ok(())
    }

    fn error(&self, error: io::Error) -> ConvertError {
        ConvertError::Output { path: self.path.clone(), error }
    }
}

/// Writes a new name to the disk. On systems without such a request, that happens soon anyway; a
/// power failure before that leaves the complete file under its unfinished name.
fn sync_directory(dir: &Path) {
    #[cfg(unix)]
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    #[cfg(not(unix))]
    let _ = dir;
}

/// The directory of `path`.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

const BEING_READ: &str = "belongs to the model that is being read";

fn check_replaceable(
    path: &Path,
    force: bool,
    source: Option<&Source>,
) -> Result<(), ConvertError> {
    let unsuitable = |cause| Err(ConvertError::Unsuitable { path: path.to_owned(), cause });
    if path.file_name().is_none() {
        return unsuitable("is not a file name");
    }
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ConvertError::Output { path: path.to_owned(), error }),
        Ok(metadata) if metadata.is_dir() => return unsuitable("is a directory"),
        Ok(metadata) if !metadata.is_file() => return unsuitable("is not a regular file"),
        Ok(_) => {}
    }
    if source.is_some_and(|source| is_part_of(path, source)) {
        return unsuitable(BEING_READ);
    }
    match force {
        true => Ok(()),
        false => Err(ConvertError::Exists { path: path.to_owned() }),
    }
}

/// Whether the existing file `path` belongs to the model that is being converted: it is the model's
/// file or one of its split files, or any file except a GGUF file in a checkpoint's directory.
fn is_part_of(path: &Path, source: &Source) -> bool {
    let (Ok(path), Ok(read)) = (path.canonicalize(), source.path().canonicalize()) else {
        return false;
    };
    if source.gguf().is_none() {
        return path.parent() == Some(&read) && path.extension() != Some(OsStr::new("gguf"));
    }
    let splits = |path: &Path| Some((path.parent()?.to_owned(), split_name(path)?.to_owned()));
    path == read || splits(&path).is_some_and(|of| Some(of) == splits(&read))
}

/// The common part of the names of split files: `NAME` in `NAME-00001-of-00003.gguf`.
fn split_name(path: &Path) -> Option<&str> {
    let (rest, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let is_number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(name)
}

/// Checks that `needed` bytes fit in `available` bytes.
fn check_space(path: &Path, needed: u64, available: u64) -> Result<(), ConvertError> {
    match needed <= available {
        true => Ok(()),
        false => Err(ConvertError::Space { path: path.to_owned(), needed, available }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_an_error_with_both_numbers() {
        let path = Path::new("/models/out.gguf");
        assert!(check_space(path, 1000, 1000).is_ok());
        let error = check_space(path, 1001, 1000).unwrap_err().to_string();
        assert_eq!(error, "/models/out.gguf: needs 1001 bytes, but only 1000 bytes are free there");
    }

    #[test]
    fn split_files_are_recognized_by_their_names() {
        let name = |path: &str| split_name(Path::new(path)).map(str::to_owned);
        assert_eq!(name("/m/gemma-27b-00002-of-00003.gguf"), Some("gemma-27b".into()));
        assert_eq!(name("/m/gemma-27b.gguf"), None);
        assert_eq!(name("/m/gemma-2-of-3.gguf"), None);
    }

    #[test]
    fn the_directory_of_a_bare_name_is_the_working_directory() {
        assert_eq!(directory(Path::new("out.gguf")), Path::new("."));
        assert_eq!(directory(Path::new("models/out.gguf")), Path::new("models"));
    }
}
