//! The output file: complete under its name, or not there at all.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::unfinished::UnfinishedFile;
use super::ConvertError;
use crate::model::Source;

/// A file that is being written beside the path it will have. Dropped before
/// [`commit`](Self::commit), it disappears, unless it is to be kept for `--resume`.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    force: bool,
    unfinished: UnfinishedFile,
}

impl Target {
    /// Opens the unfinished file for `path`, once it is certain that a file of `bytes` bytes may
    /// take that name and will fit. What an earlier conversion has left in it stays until
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    /// If `path` is there already and `force` is not given, is no file or is part of `source`, the
    /// model that is being read, if any; if its directory is not there, cannot be written to or has
    /// too little space; if another process is writing it.
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
        // Where nobody can say what is free, writing will tell. What is begun makes room, or is
        // gone on with.
        let begun = std::fs::symlink_metadata(&unfinished).map_or(0, |metadata| metadata.len());
        if let Ok(available) = fs4::available_space(dir) {
            check_space(path, bytes, available.saturating_add(begun))?;
        }
        Ok(Self { path: path.to_owned(), force, unfinished: UnfinishedFile::open(path)? })
    }

    /// The path that the file will have.
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

    /// Begins to write after the first `len` bytes of what is there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn begin(&mut self, len: u64) -> Result<(), ConvertError> {
        self.unfinished.claim(len).map_err(|error| self.error(error))
    }

    /// Leaves the unfinished file where it is.
    pub(super) fn keep(mut self) {
        self.unfinished.keep();
    }

    /// Waits until the bytes are on the disk.
    ///
    /// # Errors
    /// If the system says that they are not.
    pub fn sync(&self) -> Result<(), ConvertError> {
        self.file().sync_all().map_err(|error| self.error(error))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If the system refuses, or somebody took the name meanwhile and `force` was not given.
    pub fn commit(&mut self) -> Result<(), ConvertError> {
        let (unfinished, path) = (self.unfinished.path(), &self.path);
        let renamed = match self.force {
            true => std::fs::rename(unfinished, path),
            // Fails if somebody took the name meanwhile.
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

/// Puts a new name on the disk. Where that cannot be asked for, the system does it soon: until then
/// a power cut leaves the file under its unfinished name, whole.
fn sync_directory(dir: &Path) {
    #[cfg(unix)]
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    #[cfg(not(unix))]
    let _ = dir;
}

/// The directory that `path` lies in.
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
        return unsuitable("is no file name");
    }
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ConvertError::Output { path: path.to_owned(), error }),
        Ok(metadata) if metadata.is_dir() => return unsuitable("is a directory"),
        Ok(metadata) if !metadata.is_file() => return unsuitable("is no regular file"),
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

/// Whether the existing file `path` belongs to what is being converted: the file itself, one of
/// its splits, or anything but a GGUF file in a checkpoint's directory.
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

/// What the names of a model's splits share: `NAME` of `NAME-00001-of-00003.gguf`.
fn split_name(path: &Path) -> Option<&str> {
    let (rest, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let is_number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(name)
}

/// Whether a file of `needed` bytes fits where `available` are free.
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
    fn space_is_enough_or_the_error_says_what_is_missing() {
        let path = Path::new("/models/out.gguf");
        assert!(check_space(path, 1000, 1000).is_ok());
        let error = check_space(path, 1001, 1000).unwrap_err().to_string();
        assert_eq!(error, "/models/out.gguf: needs 1001 bytes, but only 1000 bytes are free there");
    }

    #[test]
    fn splits_are_known_by_their_names() {
        let name = |path: &str| split_name(Path::new(path)).map(str::to_owned);
        assert_eq!(name("/m/gemma-27b-00002-of-00003.gguf"), Some("gemma-27b".into()));
        assert_eq!(name("/m/gemma-27b.gguf"), None);
        assert_eq!(name("/m/gemma-2-of-3.gguf"), None);
    }

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        assert_eq!(directory(Path::new("out.gguf")), Path::new("."));
        assert_eq!(directory(Path::new("models/out.gguf")), Path::new("models"));
    }
}
