//! The threads that forward passes and conversions run on.
//!
//! A forward pass has hundreds of short parallel steps, so threads stay awake between them: they spin
//! for a moment before they sleep. The work of a step is cut into items. A thread takes the items of
//! its own share in order, which keeps its reads of the weights sequential, and then items that are
//! left of the other shares.
//!
//! On a busy machine a thread may have to wait for a core, for longer than many steps take. So the
//! caller does not wait for a worker that has not begun (`worker.rs`), and a worker that keeps the
//! caller waiting is not called for a while (`attendance.rs`).

mod attendance;
mod worker;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use attendance::Attendance;
use worker::{Job, Worker};

/// A fixed number of threads, of which the calling thread is one.
#[derive(Debug)]
pub struct ThreadPool {
    /// They have the numbers from 1 on.
    workers: Vec<Worker>,
    /// That of each worker. Locked while a job runs: there is only one at a time.
    attendance: Mutex<Vec<Attendance>>,
    /// Each thread's share of the current job.
    shares: Vec<Share>,
    /// Number of threads that are not resting, as far as the last job knew.
    present: AtomicUsize,
}

/// The system cannot start the threads.
#[derive(Debug, Error)]
#[error("cannot start {threads} threads: {error}")]
pub struct ThreadPoolError {
    threads: usize,
    error: std::io::Error,
}

impl ThreadPool {
    /// A pool of `threads` threads, or of [`default_threads`].
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Self, ThreadPoolError> {
        let threads = threads.map_or_else(default_threads, NonZeroUsize::get);
        let workers = (1..threads).map(Worker::start).collect::<Result<Vec<_>, _>>();
        let workers = workers.map_err(|error| ThreadPoolError { threads, error })?;
        let attendance = Mutex::new(vec![Attendance::new(Instant::now()); workers.len()]);
        let shares = (0..threads).map(|_| Share::default()).collect();
        Ok(Self { workers, attendance, shares, present: AtomicUsize::new(threads) })
    }

    /// Number of threads.
    pub fn size(&self) -> usize {
        self.workers.len() + 1
    }

    /// Number of threads that a job has at present: without those that rest. Jobs are best cut into
    /// items for so many.
    pub fn threads(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }

    /// Calls `work` with every item, on all threads. `work` must not use the pool itself.
    ///
    /// # Panics
    /// If `work` does.
    pub fn for_each<T: Send>(&self, items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
        self.for_each_with(items, || (), |(), item| work(item));
    }

    /// Calls `work` with every item and what `scratch` made for the thread. `work` must not use the
    /// pool itself.
    ///
    /// # Panics
    /// If `work` does.
    pub fn for_each_with<T: Send, W>(
        &self,
        items: impl IntoIterator<Item = T>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) {
        let mut items = items.into_iter();
        let (first, second) = (items.next(), items.next());
        // A single item is not worth calling anyone for.
        let round = second.as_ref().and_then(|_| self.round(Attendance::is_due));
        share_out(round, 0, || (), first.into_iter().chain(second).chain(items), scratch, work);
    }

    /// The same, but the calling thread first calls `beside`, while the other threads begin with the
    /// items. `beside` may wait for a disk, and must not use the pool itself either. Returns what it
    /// returns.
    ///
    /// # Panics
    /// If `work` or `beside` does.
    pub fn for_each_beside<T: Send, W, R>(
        &self,
        beside: impl FnOnce() -> R,
        items: impl IntoIterator<Item = T>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) -> R {
        let mut items = items.into_iter();
        let first = items.next();
        // All of them, because the items are not to wait for `beside`.
        let round = first.as_ref().and_then(|_| self.round(|_, _| true));
        share_out(round, 1, beside, first.into_iter().chain(items), scratch, work)
    }

    /// Chooses the workers for a job. `None` if the calling thread is to do it alone.
    fn round(&self, choose: impl Fn(&Attendance, Instant) -> bool) -> Option<Round<'_>> {
        if self.workers.is_empty() {
            return None;
        }
        let (mut attendance, start) = (lock(&self.attendance), Instant::now());
        let mut present = 1;
        for worker in &mut *attendance {
            worker.called = choose(worker, start);
            present += usize::from(worker.called);
        }
        self.present.store(present, Ordering::Relaxed);
        let Self { workers, shares, .. } = self;
        (present > 1).then_some(Round { workers, attendance, shares, start })
    }
}

/// Does the items on the threads of `round`, and `beside` before them on the calling thread. No more
/// threads are called than there are items and `others`.
fn share_out<T: Send, W, R>(
    round: Option<Round<'_>>,
    others: usize,
    beside: impl FnOnce() -> R,
    items: impl Iterator<Item = T>,
    scratch: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, T) + Sync,
) -> R {
    let Some(mut round) = round else {
        let result = beside();
        let mut scratch = scratch();
        items.for_each(|item| work(&mut scratch, item));
        return result;
    };
    let items: Vec<_> = items.map(|item| Mutex::new(Some(item))).collect();
    let n = items.len();
    round.limit(n + others);
    let shares = round.shares;
    let start_of = |i| i * n / shares.len();
    for (i, share) in shares.iter().enumerate() {
        share.next.store(start_of(i), Ordering::Relaxed);
    }
    let work = |thread: usize| {
        let (mut own, mut done) = (None, 0);
        for turn in 0..shares.len() {
            let i = (thread + turn) % shares.len();
            while let Some(item) = shares[i].take(start_of(i + 1)) {
                if let Some(item) = take(&items[item]) {
                    work(own.get_or_insert_with(&scratch), item);
                    done += 1;
                }
            }
        }
        done
    };
    // With something beside the items, their number says nothing of what each thread did.
    round.run(beside, &work, (others == 0).then_some(n))
}

/// A job, from the choice of its workers to when they have left it.
struct Round<'p> {
    /// Those that may be called.
    workers: &'p [Worker],
    /// That of all workers, locked.
    attendance: MutexGuard<'p, Vec<Attendance>>,
    /// One for each thread that can take part.
    shares: &'p [Share],
    /// When it began.
    start: Instant,
}

impl Round<'_> {
    /// Leaves out all but the first `threads` threads.
    fn limit(&mut self, threads: usize) {
        self.shares = &self.shares[..self.shares.len().min(threads)];
        self.workers = &self.workers[..self.shares.len() - 1];
    }

    /// Calls `work` on the calling thread, which has number 0 and calls `beside` before, and with their
    /// numbers on the chosen workers that come before the calling thread is done. Returns when all
    /// have left it. `work` returns how many items its thread has done. If the number of all is given,
    /// it is noted how the workers keep up.
    ///
    /// # Panics
    /// If `work` or `beside` does.
    fn run<R>(
        self,
        beside: impl FnOnce() -> R,
        work: &(dyn Fn(usize) -> usize + Sync),
        items: Option<usize>,
    ) -> R {
        let (job, panicked) = (Job(work), Cell::new(false));
        let mut calls = Calls { round: self, own: None, panicked: &panicked };
        for (worker, _) in calls.round.called() {
            // SAFETY: `calls` is dropped before `job`, also if this thread panics. That takes the call
            // back or waits until the worker has left the job.
            #[allow(unsafe_code)]
            unsafe {
                worker.call(&job);
            }
        }
        let result = beside();
        let own = work(0);
        calls.own = items.map(|items| Own { items: own, of: items, done: Instant::now() });
        drop(calls);
        assert!(!panicked.get(), "a thread of the pool panicked");
        result
    }

    /// The workers that are called.
    fn called(&mut self) -> impl Iterator<Item = (&Worker, &mut Attendance)> {
        let all = self.workers.iter().zip(&mut *self.attendance);
        all.filter(|(_, attendance)| attendance.called)
    }

    /// Takes back the calls that no worker has followed yet, and waits for the other workers. Returns
    /// whether one of them panicked.
    fn end(&mut self, own: Option<Own>) -> bool {
        let (start, called) = (self.start, self.called().count());
        let mut done = own.as_ref().map(|own| own.done);
        let worked = done.map_or(Duration::ZERO, |done| done - start);
        for (worker, attendance) in self.called() {
            if worker.take_back() {
                attendance.called = false;
                if let Some(done) = done {
                    attendance.missed(worked / called as u32, done);
                }
            }
        }
        let came = self.called().count();
        let saved = own.map_or(Duration::ZERO, |own| own.saved_by_each(came, worked));
        let mut panicked = false;
        for (worker, attendance) in self.called() {
            attendance.saved(saved);
            if !worker.leaves_soon() {
                worker.wait();
                let now = Instant::now();
                if let Some(done) = &mut done {
                    attendance.waited(now - std::mem::replace(done, now), now);
                }
            }
            panicked |= worker.finish();
        }
        panicked
    }
}

/// What the calling thread did of a job.
struct Own {
    /// How many items.
    items: usize,
    /// How many there were.
    of: usize,
    /// When none was left.
    done: Instant,
}

impl Own {
    /// How much longer a job with `workers` workers would have taken, by estimate, if there had been one
    /// less. The calling thread worked for `worked`.
    fn saved_by_each(&self, workers: usize, worked: Duration) -> Duration {
        if self.items == 0 || workers == 0 {
            return Duration::ZERO;
        }
        let (all, by_workers) = (self.of as f64, (self.of - self.items) as f64);
        let by_each = by_workers / workers as f64;
        worked.mul_f64(by_each / (all - by_each))
    }
}

/// Calls that workers may be following. They end when this is dropped.
struct Calls<'p, 'c> {
    round: Round<'p>,
    /// What the calling thread did, if it is to be compared with what the workers did.
    own: Option<Own>,
    /// Becomes true if a worker panics.
    panicked: &'c Cell<bool>,
}

impl Drop for Calls<'_, '_> {
    fn drop(&mut self) {
        let own = self.own.take();
        self.panicked.set(self.round.end(own));
    }
}

/// A thread's share of a job.
#[derive(Debug, Default)]
#[repr(align(128))] // So that no two are in the same pair of cache lines, which are fetched together.
struct Share {
    /// The item to take next.
    next: AtomicUsize,
}

impl Share {
    /// Takes an item of those before `end`.
    fn take(&self, end: usize) -> Option<usize> {
        if self.next.load(Ordering::Relaxed) >= end {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < end)
    }
}

fn take<T>(item: &Mutex<Option<T>>) -> Option<T> {
    lock(item).take()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many threads as there are physical cores, but no more than [`processors`]: two threads on one
/// core would share the units that the kernels keep busy.
pub fn default_threads() -> usize {
    num_cpus::get_physical().clamp(1, processors().get())
}

/// The number of processors that this process may use, which counts hardware threads.
pub fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
