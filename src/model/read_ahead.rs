//! Has the system read a model's file in the order in which the first pass needs it.
//!
//! Left to itself, a cold map is read in small pieces, each when it is touched and while everyone
//! waits. A thread of its own asks for what comes next, some way ahead of the pass, and ends when
//! it has asked for everything. Memory that a larger file would push out again is not touched.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

use lapidary_formats::map::MappedFile;

use super::weights::Weights;
use super::Source;

/// How far ahead of the pass is read, in bytes.
const AHEAD: usize = 256 << 20;

/// How often it is looked whether the pass has come closer, at least; it tells when it has.
const PAUSE: Duration = Duration::from_secs(10);

/// The thread's other end. Dropped, it ends the thread.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// The step that the pass is in: a layer, or the head.
    step: Arc<AtomicUsize>,
    /// `None` if the system gave none.
    thread: Option<Thread>,
}

/// What a step reads.
struct Part {
    path: PathBuf,
    place: Range<usize>,
    step: usize,
}

impl ReadAhead {
    /// Begins to read.
    pub fn start(source: &Source, weights: &Weights<'_>) -> Self {
        let head = weights.layers.len();
        let layers = weights.layers.iter().enumerate();
        let parts = layers
            .flat_map(|(step, layer)| layer.matrices().map(|w| (step, w)))
            .chain([(head, &weights.output)])
            .filter_map(|(step, w)| {
                let (path, place) = source.place(w.bytes())?;
                Some(Part { path: path.to_owned(), place, step })
            })
            .collect();
        let step = Arc::<AtomicUsize>::default();
        let at = Arc::clone(&step);
        // Without the thread, the pass reads by itself.
        let handle =
            thread::Builder::new().name("read-ahead".into()).spawn(move || read(parts, &at));
        Self { step, thread: handle.ok().map(|handle| handle.thread().clone()) }
    }

    /// Tells that the pass has come to a step.
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

fn read(parts: Vec<Part>, step: &AtomicUsize) {
    let mut map: Option<MappedFile> = None;
    // The bytes of steps that the pass has not finished.
    let (mut ahead, mut done) = (0, 0);
    for (i, part) in parts.iter().enumerate() {
        ahead += part.place.len();
        loop {
            let step = step.load(Ordering::Relaxed);
            if step == usize::MAX {
                return;
            }
            while done < i && parts[done].step < step {
                ahead -= parts[done].place.len();
                done += 1;
            }
            // The first part of a step that the pass waits for goes ahead in any case.
            if ahead <= AHEAD || done == i {
                break;
            }
            thread::park_timeout(PAUSE);
        }
        if map.as_ref().is_none_or(|map| map.path() != part.path) {
            // A file that has gone meanwhile is the pass's concern.
            let Ok(opened) = MappedFile::open(&part.path) else { return };
            map = Some(opened);
        }
        if let Some(map) = map.as_ref().filter(|map| part.place.end <= map.bytes().len()) {
            map.read_ahead(part.place.clone());
        }
    }
}
