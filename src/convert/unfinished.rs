//! The unfinished file. It has a fixed name beside the output and at most one writer.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::ConvertError;

/// How many times other processes may replace the file while it is being opened.
const ATTEMPTS: usize = 10;

/// `OUT.part`, open for writing and locked against all other conversions to `OUT`. The system
/// releases the lock when the process ends, in whatever way.
#[derive(Debug)]
pub(super) struct UnfinishedFile {
    path: PathBuf,
    file: File,
    /// Whether this conversion has begun to write to it. The file is then deleted if the conversion
    /// fails.
    ours: bool,
}

impl UnfinishedFile {
    /// The path of the unfinished file for the output `out`.
    pub(super) fn path_for(out: &Path) -> PathBuf {
        let mut path = OsString::from(out);
        path.push(".part");
        path.into()
    }

    /// Opens the unfinished file for `out`, or creates it. Its contents are kept for now.
    ///
    /// # Errors
    /// If another process is writing it, if it is not a regular file or does not begin like a GGUF
    /// file, or if it cannot be created.
    pub(super) fn open(out: &Path) -> Result<Self, ConvertError> {
        let path = Self::path_for(out);
        for _ in 0..ATTEMPTS {
            let file = open_regular(&path)?;
            match file.try_lock() {
                // Some file systems do not support locks. There, users must not run two conversions
                // to one output.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => {
                    return Err(ConvertError::Output { path, error });
                }
                Ok(()) => {}
            }
            // The previous holder of the lock may have renamed the file to its final name
            // meanwhile.
            if is_at(&file, &path) {
                check_begin(&path, &file)?;
                return Ok(Self { path, file, ours: false });
            }
        }
        Err(ConvertError::Busy { path: out.to_owned() })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Takes the file for this conversion, which deletes it when dropped. The first `len` bytes are
    /// kept; a shorter file is extended with zeros. Writing starts at the beginning.
    pub(super) fn claim(&mut self, len: u64) -> io::Result<()> {
        self.ours = true;
        self.file.set_len(len)?;
        self.file.rewind()
    }

    /// Keeps the file when dropped.
    pub(super) fn keep(&mut self) {
        self.ours = false;
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // This comes before the file is closed, so no other process can hold the lock yet.
        if self.ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens `path` for reading and writing, and creates it if it does not exist. Symbolic links are
/// not followed, because no conversion creates them.
fn open_regular(path: &Path) -> Result<File, ConvertError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let cause = "is in the way and is not a regular file";
            return Err(ConvertError::Unsuitable { path: path.to_owned(), cause });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ConvertError::Output { path: path.to_owned(), error }),
    }
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|error| ConvertError::Directory { path: path.to_owned(), error })
}

/// Whether `path` still refers to `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => id(file) == id(there),
        _ => false,
    }
}

/// On other systems files have no number to compare. If the file was renamed to its final name
/// meanwhile, `path` no longer exists, unless a third conversion has begun within these
/// microseconds.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Refuses to overwrite a file that cannot come from a conversion.
fn check_begin(path: &Path, file: &File) -> Result<(), ConvertError> {
    let mut head = Vec::new();
    let read = file.take(4).read_to_end(&mut head);
    read.map_err(|error| ConvertError::Output { path: path.to_owned(), error })?;
    if !b"GGUF".starts_with(&head) {
        let cause = "is in the way and was not begun by a conversion";
        return Err(ConvertError::Unsuitable { path: path.to_owned(), cause });
    }
    Ok(())
}
