//! Files as read-only memory maps: the one place of this crate that needs `unsafe`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A whole file, mapped for reading. Pages are read when they are first touched.
///
/// The bytes must not change while they are mapped. Lapidary writes no file in place that anybody
/// else reads (it writes `OUT.part` and renames, which leaves an existing map on the old file). A
/// file that another program cuts short while it is mapped raises SIGBUS at the next touch of what is
/// gone; [`file_at`] then tells the program's handler whose it was.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps `path`. An empty file maps to an empty slice.
    ///
    /// # Errors
    /// If it is not there, not readable, or no regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        // Asked before opening, which would wait for the other end of a pipe.
        let kind = std::fs::metadata(&path)?;
        if kind.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
        }
        let file = File::open(&path)?;
        // SAFETY: the map is private and read-only, and is handed out only as `&[u8]`, whose every
        // bit pattern is valid. That nobody shrinks or rewrites the file meanwhile is the
        // caller's part, as the type's documentation says.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        let range = map.as_ptr_range();
        let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        maps.push((range.start.addr()..range.end.addr().next_multiple_of(PAGE), path.clone()));
        drop(maps);
        Ok(Self { path, map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `part` lies in the file, if it lies in this map.
    pub fn place(&self, part: &[u8]) -> Option<Range<usize>> {
        let (map, part) = (self.map.as_ptr_range(), part.as_ptr_range());
        let inside = part.start >= map.start && part.end <= map.end;
        inside.then(|| part.start.addr() - map.start.addr()..part.end.addr() - map.start.addr())
    }

    /// Asks the system to read a part of the file into memory, and does not wait for it. Does
    /// nothing where the system does not know how.
    ///
    /// # Panics
    /// If `part` reaches past the end.
    pub fn read_ahead(&self, part: Range<usize>) {
        assert!(part.end <= self.map.len(), "read ahead past the end");
        #[cfg(unix)]
        {
            // Linux reads no more than its window for a call, 128 kB by default.
            const WINDOW: usize = 128 << 10;
            for at in part.clone().step_by(WINDOW) {
                let len = WINDOW.min(part.end - at);
                // Advice that is not taken changes nothing but the time that is used.
                let _ = self.map.advise_range(memmap2::Advice::WillNeed, at, len);
            }
        }
    }

    /// Gives back the memory of `part`, if it lies in this map: who reads a file once from front
    /// to back keeps no more of it resident than what is being read. Touched again, the pages
    /// come back from the file. Does nothing where the system does not know how.
    pub fn release(&self, part: &[u8]) {
        #[cfg(unix)]
        {
            // A touch maps pages around it as well, before `part` too, which were given back once.
            const AROUND: usize = 2 << 20;
            let Some(Range { start, end }) = self.place(part) else { return };
            let at = start.saturating_sub(AROUND);
            let len = end - at;
            // SAFETY: the advice is unchecked because it loses what was written to private pages.
            // This map is read-only: its pages are the file's, and a reader that still borrows
            // `part` finds the same bytes again.
            #[allow(unsafe_code)]
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len)
            };
            // Advice that is not taken changes nothing but the memory that is used.
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
        // One of equals, should an empty file's map begin where another does.
        if let Some(i) = maps.iter().position(|(at, path)| at.start == start && *path == self.path)
        {
            maps.swap_remove(i);
        }
    }
}

/// Where the files lie that are mapped.
static MAPS: Mutex<Vec<(Range<usize>, PathBuf)>> = Mutex::new(Vec::new());

/// Maps are whole pages; those of 64 kB are the largest in common use.
const PAGE: usize = 1 << 16;

/// The file that is mapped at `address`, for who is told of an address where a read failed. Does not
/// wait: `None` as well while a file is being opened or closed.
pub fn file_at(address: usize) -> Option<PathBuf> {
    let maps = MAPS.try_lock().ok()?;
    let held = maps.iter().filter(|(at, _)| at.contains(&address));
    // Where pages are smaller than `PAGE`, the next map may begin before the end that is assumed here.
    held.max_by_key(|(at, _)| at.start).map(|(_, path)| path.clone())
}

/// What `bytes` are, if they are one of the things that downloads leave in the place of a model's
/// file, in words that end "not a … file but".
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
