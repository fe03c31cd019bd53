//! The output file, which is either complete or does not exist under its name.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use lapidary_formats::gguf::Header;
use tempfile::TempPath;

use super::overwrite::check_output;
use super::unfinished::{Begun, UnfinishedFile};
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
    /// that name and will fit. An unfinished file that is there must be empty, unless `force` is
    /// given; its contents are kept until [`begin`](Self::begin).
    ///
    /// # Errors
    /// Those of [`check_output`]; if there is an unfinished file that may not be overwritten, or
    /// another process is writing it; if the directory of `path` does not exist, is not writable or
    /// has too little space.
    pub fn create(
        path: &Path,
        force: bool,
        source: Option<&Source>,
        bytes: u64,
    ) -> Result<Self, ConvertError> {
        let begun = if force { Begun::Anything } else { Begun::Nothing };
        Self::open(path, force, source, bytes, begun)
    }

    /// The same for a file that begins with `header`. An unfinished file that is there must be one that
    /// this program has begun, unless `force` is given. With `resume` it may be any GGUF file, because
    /// [`finished_tensors`](super::finished_tensors) compares its header.
    ///
    /// # Errors
    /// Those of [`create`](Self::create).
    pub fn with_header(
        path: &Path,
        force: bool,
        resume: bool,
        source: Option<&Source>,
        header: &Header,
    ) -> Result<Self, ConvertError> {
        let encoded = header.encode();
        let begun = match (resume, force) {
            (true, _) => Begun::Gguf,
            (false, true) => Begun::Anything,
            (false, false) => Begun::Conversion { header: &encoded },
        };
        Self::open(path, force, source, header.file_bytes(), begun)
    }

    fn open(
        path: &Path,
        force: bool,
        source: Option<&Source>,
        bytes: u64,
        begun: Begun,
    ) -> Result<Self, ConvertError> {
        check_output(path, force, source, &[])?;
        let dir = directory(path);
        let no_directory = |error| ConvertError::Directory { path: path.to_owned(), error };
        std::fs::metadata(dir).map_err(no_directory)?;
        // If the free space cannot be determined, writing will show whether it is enough. The
        // unfinished file counts as free space, because it is overwritten or continued.
        let unfinished = unfinished_path(path);
        let existing = std::fs::symlink_metadata(&unfinished).map_or(0, |metadata| metadata.len());
        if let Ok(available) = fs4::available_space(dir) {
            check_space(path, bytes, available.saturating_add(existing))?;
        }
        let unfinished = UnfinishedFile::open(path, begun)?;
        Ok(Self { path: path.to_owned(), force, unfinished })
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

/// The name that the output `path` has until it is finished, `OUT.part`.
pub fn unfinished_path(path: &Path) -> PathBuf {
    UnfinishedFile::path_for(path)
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
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
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
    fn the_directory_of_a_bare_name_is_the_working_directory() {
        assert_eq!(directory(Path::new("out.gguf")), Path::new("."));
        assert_eq!(directory(Path::new("models/out.gguf")), Path::new("models"));
    }
}
