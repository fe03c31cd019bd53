//! The unfinished file: one name beside the output's, and one writer.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::ConvertError;

/// How often the file may be replaced by others while it is being opened.
const ATTEMPTS: usize = 10;

/// `OUT.part`, open for writing and locked against every other conversion to `OUT`. The system ends
/// the lock with the process, however that ends.
#[derive(Debug)]
pub(super) struct UnfinishedFile {
    path: PathBuf,
    file: File,
    /// Whether what it holds is this conversion's, to be removed if that fails.
    ours: bool,
}

impl UnfinishedFile {
    /// The path of the unfinished file for the output `out`.
    pub(super) fn path_for(out: &Path) -> PathBuf {
        let mut path = OsString::from(out);
        path.push(".part");
        path.into()
    }

    /// Opens the unfinished file for `out`, or creates it. What it holds stays for now.
    ///
    /// # Errors
    /// If another process is writing it, if it is no regular file or does not begin as a GGUF file
    /// does, or if it cannot be created.
    pub(super) fn open(out: &Path) -> Result<Self, ConvertError> {
        let path = Self::path_for(out);
        for _ in 0..ATTEMPTS {
            let file = open_regular(&path)?;
            match file.try_lock() {
                // Not every file system knows locks. Without, two writers are the user's to avoid.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => {
                    return Err(ConvertError::Output { path, error });
                }
                Ok(()) => {}
            }
            // Whoever held the lock before may have given the file its final name since.
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

    /// Makes it this conversion's, which removes it when dropped: of what it holds, the first `len`
    /// bytes stay. A shorter file gets zeros. Writing begins at the front.
    pub(super) fn claim(&mut self, len: u64) -> io::Result<()> {
        self.ours = true;
        self.file.set_len(len)?;
        self.file.rewind()
    }

    /// Leaves the file where it is.
    pub(super) fn keep(&mut self) {
        self.ours = false;
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // Before the file is closed: nobody else can have locked it yet.
        if self.ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens `path` for reading and writing, and creates it if it is not there. Links are not followed:
/// what they lead to is nothing that a conversion has begun.
fn open_regular(path: &Path) -> Result<File, ConvertError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let cause = "is in the way and is no regular file";
            return Err(ConvertError::Unsuitable { path: path.to_owned(), cause });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ConvertError::Output { path: path.to_owned(), error }),
    }
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|error| ConvertError::Directory { path: path.to_owned(), error })
}

/// Whether `file` is what `path` leads to.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => id(file) == id(there),
        _ => false,
    }
}

/// Elsewhere files have no number that can be asked for: a file that got its final name meanwhile
/// is no longer there, unless a third conversion has begun within these microseconds.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Refuses to overwrite what no conversion can have left.
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
