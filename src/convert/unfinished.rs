//! The unfinished file. It has a fixed name beside the output and at most one writer.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use lapidary_formats::gguf::{read_metadata, Value, CHECKSUMS_KEY};
use lapidary_formats::map::MappedFile;

use super::metadata::VERSION;
use super::{check, ConvertError};

/// The first bytes of a GGUF file.
const MAGIC: &[u8] = b"GGUF";

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
    /// If another process is writing it; if it is not a regular file, has other names (hard links)
    /// or is not what may have been `begun`; or if it cannot be created.
    pub(super) fn open(out: &Path, begun: Begun) -> Result<Self, ConvertError> {
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
                check_links(&path, &file)?;
                begun.check(&path, &file)?;
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
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    // For a link that somebody has made since.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    options.open(path).map_err(|error| ConvertError::Directory { path: path.to_owned(), error })
}

/// Refuses a file that has other names: writing to it would change what is called by them, such as
/// the model that is being read. No conversion makes such a file.
#[cfg(unix)]
fn check_links(path: &Path, file: &File) -> Result<(), ConvertError> {
    use std::os::unix::fs::MetadataExt;
    let error = |error| ConvertError::Output { path: path.to_owned(), error };
    if file.metadata().map_err(error)?.nlink() > 1 {
        let cause =
            "is in the way and has other names (hard links), whose contents would be lost; \
                     delete it, or name another output";
        return Err(ConvertError::Unsuitable { path: path.to_owned(), cause });
    }
    Ok(())
}

/// On other systems the standard library does not count the names of a file.
#[cfg(not(unix))]
fn check_links(_path: &Path, _file: &File) -> Result<(), ConvertError> {
    Ok(())
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

/// What may be in an unfinished file that is found. An empty one is always welcome.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begun<'a> {
    /// Nothing may.
    Nothing,
    /// What a conversion of this program has begun and not finished: a GGUF file with our keys, or
    /// the beginning of `header`, with which the new file begins.
    Conversion { header: &'a [u8] },
    /// The beginning of a GGUF file. What continues it compares the header.
    Gguf,
    /// Anything, because it may be overwritten.
    Anything,
}

impl Begun<'_> {
    /// Refuses to overwrite any other file.
    fn check(self, path: &Path, file: &File) -> Result<(), ConvertError> {
        let output = |error| ConvertError::Output { path: path.to_owned(), error };
        let in_the_way = |finished| ConvertError::InTheWay { path: path.to_owned(), finished };
        let len = file.metadata().map_err(output)?.len();
        if len == 0 || matches!(self, Self::Anything) {
            return Ok(());
        }
        let mut head = Vec::new();
        let most = if let Self::Conversion { header } = self { header.len() } else { MAGIC.len() };
        file.take(most as u64).read_to_end(&mut head).map_err(output)?;
        match self {
            Self::Conversion { header } if header.starts_with(&head) && len < most as u64 => Ok(()),
            Self::Conversion { .. } => {
                match MappedFile::open(path).map(|map| state(map.bytes())).map_err(output)? {
                    State::Unfinished => Ok(()),
                    State::Finished => Err(in_the_way(true)),
                    State::Foreign => Err(in_the_way(false)),
                }
            }
            Self::Gguf if MAGIC.starts_with(&head) => Ok(()),
            _ => Err(in_the_way(false)),
        }
    }
}

/// What a file is to a conversion that finds it as its unfinished file.
enum State {
    /// A conversion began it.
    Unfinished,
    /// A conversion wrote it, and it is complete.
    Finished,
    /// It has none of our keys: somebody else's file.
    Foreign,
}

/// The state of a file with these bytes. It is told by the keys of our own that a conversion writes
/// at once, with the header, and fills in as it goes on.
fn state(bytes: &[u8]) -> State {
    let Ok(metadata) = read_metadata(bytes) else { return State::Foreign };
    let value = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, value)| *value);
    if value(VERSION).is_none() {
        return State::Foreign;
    }
    let is_zero = |checksum: Value| checksum.as_int() == Some(0u64);
    let tensors_left = match value(CHECKSUMS_KEY) {
        Some(Value::Array(checksums)) => checksums.values().any(is_zero),
        _ => false,
    };
    match tensors_left || value(&check::tokens_key()).is_some_and(|n| n == Value::F64(0.0)) {
        true => State::Unfinished,
        false => State::Finished,
    }
}
