//! Makes the operating system read a model's file in the order in which the first pass needs it.
//!
//! Otherwise a file that is not yet in memory is read in small parts, each when it is first
//! touched, and all threads wait for it. A separate thread requests the ranges some distance ahead
//! of the pass, and ends when it has requested all of them. The distance is limited, so that a file
//! larger than memory does not push out pages that the pass still needs.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

use lapidary_formats::map::MappedFile;

use super::weights::Weights;
use super::Source;

/// How far ahead of the pass to read, in bytes.
const AHEAD: usize = 256 << 20;

/// Longest time between two checks of the pass's progress. Normally the pass wakes the thread.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Controls the thread. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// The current step of the pass: a layer, or the output matrix after the last layer.
    step: Arc<AtomicUsize>,
    /// `None` if the thread could not be started.
    thread: Option<Thread>,
}

/// A range of a file that a step reads.
struct ReadRange {
    path: PathBuf,
    place: Range<usize>,
    step: usize,
}

impl ReadAhead {
    /// Starts reading ahead.
    pub fn start(source: &Source, weights: &Weights<'_>) -> Self {
        let head = weights.layers.len();
        let layers = weights.layers.iter().enumerate();
        let ranges = layers
            .flat_map(|(step, layer)| layer.matrices().map(|w| (step, w)))
            .chain([(head, &weights.output)])
            .filter_map(|(step, w)| {
                let (path, place) = source.place(w.bytes())?;
                Some(ReadRange { path: path.to_owned(), place, step })
            })
            .collect();
        let step = Arc::<AtomicUsize>::default();
        let at = Arc::clone(&step);
        // If the thread cannot be started, the pass reads the file itself.
        let handle =
            thread::Builder::new().name("read-ahead".into()).spawn(move || read(ranges, &at));
        Self { step, thread: handle.ok().map(|handle| handle.thread().clone()) }
    }

    /// Reports that the pass has reached a step.
    pub fn reached(&self, step: usize) {
        if self.step.fetch_max(step, Ordering::Relaxed) < step {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.step.store(usize::MAX, Ordering::Relaxed);
        self.wake();
    }
}

fn read(ranges: Vec<ReadRange>, step: &AtomicUsize) {
    let mut map: Option<MappedFile> = None;
    // Bytes requested for steps that the pass has not finished, and the number of ranges of finished
    // steps.
    let (mut ahead, mut done) = (0, 0);
    for (i, range) in ranges.iter().enumerate() {
        ahead += range.place.len();
        loop {
            let step = step.load(Ordering::Relaxed);
            if step == usize::MAX {
                return;
            }
            while done < i && ranges[done].step < step {
                ahead -= ranges[done].place.len();
                done += 1;
            }
            // At least one range is requested ahead of the pass, however large it is.
            if ahead <= AHEAD || done == i {
                break;
            }
            thread::park_timeout(POLL_INTERVAL);
        }
        if map.as_ref().is_none_or(|map| map.path() != range.path) {
            // If a file has disappeared, the pass will report it.
            let Ok(opened) = MappedFile::open(&range.path) else { return };
            map = Some(opened);
        }
        if let Some(map) = map.as_ref().filter(|map| range.place.end <= map.bytes().len()) {
            map.read_ahead(range.place.clone());
        }
    }
}
