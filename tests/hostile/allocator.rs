//! Counts what a thread allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with counters for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes in use, less those that other threads gave back.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most there were.
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// The largest single allocation.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn count(taken: usize, given_back: usize) {
    // A thread that ends may free after its counters are gone: nobody asks for them then.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + taken as isize - given_back as isize);
        PEAK.set(PEAK.get().max(live.get()));
        LARGEST.set(LARGEST.get().max(taken));
    });
}

// SAFETY: every call is handed on to the system's allocator as it came; counting allocates nothing,
// as the counters are initialized at compile time and have no destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps to `GlobalAlloc`'s contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as in `alloc`; the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both may be there while the contents are copied.
        count(new_size, 0);
        count(0, layout.size());
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// What a piece of work took, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The largest single allocation.
    pub largest: usize,
    /// The most at any time, above what there was before.
    pub peak: usize,
}

/// Does `work`, and says what this thread allocated meanwhile.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Memory) {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    let result = work();
    let peak = usize::try_from(PEAK.get() - before).unwrap_or(0);
    (result, Memory { largest: LARGEST.get(), peak })
}

#[test]
fn what_is_allocated_is_counted() {
    let (_, memory) = measured(|| {
        drop(vec![0u8; 3000]);
        let kept = vec![1u8; 2000];
        drop(vec![1u8; 1000]);
        drop(kept);
    });
    assert_eq!((memory.largest, memory.peak), (3000, 3000));
    let (_, memory) = measured(|| {
        let mut grows: Vec<u8> = Vec::with_capacity(100);
        grows.extend([0; 100]);
        grows.reserve_exact(300);
        grows.capacity()
    });
    assert_eq!((memory.largest, memory.peak), (400, 500));
}
