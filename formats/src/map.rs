//! Files as read-only memory maps. This is the only module of the crate that needs `unsafe`.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

/// A whole file, mapped for reading. Pages are read when they are first touched.
///
/// The bytes must not change while they are mapped. Lapidary never overwrites a file that another
/// program may be reading: it writes `OUT.part` and renames it, and an existing map keeps the old file.
/// If another program truncates a mapped file, the next access to the missing bytes raises SIGBUS;
/// the program's signal handler then asks [`file_at`] which file it was.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
    state: FileState,
}

/// What a system tells of a file, by which a change can be noticed without reading the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Its size in bytes.
    pub len: u64,
    /// When its bytes were last changed, in nanoseconds since 1970.
    pub modified: i128,
    /// Its number in the file system; 0 on systems without one.
    pub inode: u64,
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let modified = match modified.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { len: metadata.len(), modified, inode }
    }
}

impl MappedFile {
    /// Maps `path`. An empty file maps to an empty slice.
    ///
    /// # Errors
    /// If the file does not exist, cannot be read or is not a regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        // Checked before opening: opening a named pipe would block until a writer opens it.
        let kind = std::fs::metadata(&path)?;
        if kind.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
        }
        let file = File::open(&path)?;
        let state = FileState::of(&file.metadata()?);
        // SAFETY: the map is private and read-only, and is handed out only as `&[u8]`, for which
        // every bit pattern is valid. The caller has to see to it that nobody truncates or rewrites
        // the file meanwhile, as the type's documentation says.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        let range = map.as_ptr_range();
        let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        maps.push((range.start.addr()..range.end.addr().next_multiple_of(PAGE), path.clone()));
        drop(maps);
        Ok(Self { path, map, state })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state that the file had when it was opened.
    pub fn state(&self) -> FileState {
        self.state
    }

    /// Whether the file at the path still has the state that it had when it was opened.
    pub fn is_unchanged(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|now| FileState::of(&now) == self.state)
    }

    /// The byte range of `part` within the file, if `part` lies in this map.
    pub fn place(&self, part: &[u8]) -> Option<Range<usize>> {
        let (map, part) = (self.map.as_ptr_range(), part.as_ptr_range());
        let inside = part.start >= map.start && part.end <= map.end;
        inside.then(|| part.start.addr() - map.start.addr()..part.end.addr() - map.start.addr())
    }

    /// Asks the operating system to read `part`, a range of the file, into memory. Does not wait for
    /// it, and does nothing on systems without such a call.
    ///
    /// # Panics
    /// If `part` reaches past the end of the file.
    pub fn read_ahead(&self, part: Range<usize>) {
        assert!(part.end <= self.map.len(), "read ahead past the end");
        #[cfg(unix)]
        {
            // Linux reads at most its read-ahead window per call, 128 kB by default.
            const WINDOW: usize = 128 << 10;
            for at in part.clone().step_by(WINDOW) {
                let len = WINDOW.min(part.end - at);
                // If the advice is ignored, reading is slower and nothing else changes.
                let _ = self.map.advise_range(memmap2::Advice::WillNeed, at, len);
            }
        }
    }

    /// Releases the memory of `part`, if it lies in this map, so that reading a file once from front
    /// to back keeps only the current range resident. If the pages are touched again, they are
    /// read from the file again. Does nothing on systems without such a call.
    pub fn release(&self, part: &[u8]) {
        #[cfg(unix)]
        {
            // Touching a page also maps its neighbours, including pages before `part` that were
            // released earlier.
            const AROUND: usize = 2 << 20;
            let Some(Range { start, end }) = self.place(part) else { return };
            let at = start.saturating_sub(AROUND);
            let len = end - at;
            // SAFETY: this advice is `unchecked` because it discards what was written to private
            // pages. This map is read-only, so its pages are the file's, and a reader that still
            // borrows `part` finds the same bytes again.
            #[allow(unsafe_code)]
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len)
            };
            // If the advice is ignored, more memory stays in use and nothing else changes.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = part;
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.map.as_ptr().addr();
        // Remove one entry only: the map of an empty file may begin where another one begins.
        if let Some(i) = maps.iter().position(|(at, path)| at.start == start && *path == self.path)
        {
            maps.swap_remove(i);
        }
    }
}

/// The address range and path of every mapped file.
static MAPS: Mutex<Vec<(Range<usize>, PathBuf)>> = Mutex::new(Vec::new());

/// Largest page size in common use. Maps consist of whole pages.
const PAGE: usize = 1 << 16;

/// How often [`file_at`] tries to get the list of maps, with a pause of a millisecond.
const ATTEMPTS: usize = 1000;

/// The file that is mapped at `address`: for a signal handler that learns the address of a failed
/// read. Waits for at most a second while other threads open or close files, or ask the same, which
/// happens when several threads read what was cut off. No thread reads a map while it holds the list,
/// so a handler never waits for its own thread.
pub fn file_at(address: usize) -> Option<PathBuf> {
    let maps = (0..ATTEMPTS).find_map(|_| match MAPS.try_lock() {
        Ok(maps) => Some(maps),
        Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
        Err(TryLockError::WouldBlock) => {
            std::thread::sleep(Duration::from_millis(1));
            None
        }
    })?;
    let held = maps.iter().filter(|(at, _)| at.contains(&address));
    // Where pages are smaller than `PAGE`, the next map may begin before the end assumed here.
    held.max_by_key(|(at, _)| at.start).map(|(_, path)| path.clone())
}

/// Recognizes what a failed download leaves in the place of a model's file. Returns its description,
/// to follow "not a … file but".
pub(crate) fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii_start();
    let begins = |with: &str| {
        text.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with.as_bytes()))
    };
    if begins("version https://git-lfs") {
        Some("a Git LFS pointer to it: fetch the file itself with `git lfs pull`")
    } else if begins("<!doctype html") || begins("<html") {
        Some("an HTML page, probably a login or error page saved by a download")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_address_while_another_thread_has_the_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let file = MappedFile::open(path).unwrap();
        let address = file.bytes().as_ptr().addr();
        let (locked, is_locked) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _list = MAPS.lock();
                locked.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            });
            is_locked.recv().unwrap();
            assert_eq!(file_at(address + 1), Some(path.into()));
        });
        assert_eq!(file_at(0), None);
    }
}
