//! The threads that a forward pass runs on.
//!
//! A pass has hundreds of short parallel steps, so the threads stay awake between them: they spin
//! for a moment before they sleep. Each step's work is cut into items; a thread takes those of its
//! own share in order, which keeps its reads of the weights in a row, and then what others have
//! left.

use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long a thread without work stays awake: longer than the steps of decoding that one thread does
/// alone, and short enough that waiting for a person costs nothing.
const AWAKE: Duration = Duration::from_micros(200);

/// Looks at the clock every so many turns of a spinning loop.
const TURNS: usize = 64;

/// A fixed number of threads, the caller among them, kept for the life of a model.
#[derive(Debug)]
pub struct ThreadPool {
    workers: Vec<Worker>,
    /// Workers that have not finished the current job.
    running: Arc<AtomicUsize>,
    /// Held while a job runs: there is one at a time.
    busy: Mutex<()>,
}

#[derive(Debug)]
struct Worker {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// Where a worker finds its work.
#[derive(Default)]
struct Desk {
    job: Mutex<Job>,
    /// Whether there is something new in `job`.
    called: AtomicBool,
    /// Whether the worker sleeps, or is about to.
    asleep: AtomicBool,
    /// Whether the last job panicked.
    panicked: AtomicBool,
}

#[derive(Default)]
enum Job {
    #[default]
    None,
    /// Run it with the number of the worker.
    Run(&'static (dyn Fn(usize) + Sync)),
    Leave,
}

/// The system gives no threads.
#[derive(Debug, Error)]
#[error("cannot start {threads} threads: {error}")]
pub struct ThreadPoolError {
    threads: usize,
    error: std::io::Error,
}

impl ThreadPool {
    /// A thread pool of `threads`, or of as many as there are physical cores that the process may use:
    /// two threads on one core share the units that the kernels keep busy.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Self, ThreadPoolError> {
        let threads = threads.map_or_else(default_threads, NonZeroUsize::get);
        let mut pool = Self { workers: Vec::new(), running: Arc::default(), busy: Mutex::new(()) };
        for number in 1..threads {
            let desk = Arc::<Desk>::default();
            let (at, running) = (Arc::clone(&desk), Arc::clone(&pool.running));
            let thread = thread::Builder::new()
                .name(format!("kernels-{number}"))
                .spawn(move || at.work(number, &running))
                .map_err(|error| ThreadPoolError { threads, error })?;
            pool.workers.push(Worker { desk, thread: Some(thread) });
        }
        Ok(pool)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` with every item, on all threads. `work` must not use the thread pool itself.
    ///
    /// # Panics
    /// If `work` does.
    pub fn for_each<T: Send>(&self, items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
        self.for_each_with(items, || (), |(), item| work(item));
    }

    /// Calls `work` with every item and what `scratch` made for the thread. `work` must not use the
    /// thread pool itself.
    ///
    /// # Panics
    /// If `work` does.
    pub fn for_each_with<T: Send, W>(
        &self,
        items: impl IntoIterator<Item = T>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) {
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        let threads = self.threads().min(items.len());
        if threads <= 1 {
            let mut scratch = scratch();
            items.into_iter().filter_map(|item| take(&item)).for_each(|x| work(&mut scratch, x));
            return;
        }
        let shares: Vec<Share> =
            (0..threads).map(|i| Share::new(i, threads, items.len())).collect();
        self.run(&|thread| {
            if thread >= threads {
                return;
            }
            let mut scratch = scratch();
            for turn in 0..threads {
                let share = &shares[(thread + turn) % threads];
                while let Some(i) = share.next() {
                    if let Some(item) = take(&items[i]) {
                        work(&mut scratch, item);
                    }
                }
            }
        });
    }

    /// Calls `work` on every thread, with its number, and returns when all are done.
    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        let _busy = lock(&self.busy);
        // SAFETY: the reference is used by the workers only between here and the end of `wait`,
        // which comes before this function returns or unwinds; `work` is borrowed for longer.
        #[allow(unsafe_code)]
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        let wait = Wait(&self.running);
        for worker in &self.workers {
            self.running.fetch_add(1, Ordering::Relaxed);
            worker.call(Job::Run(work));
        }
        work(0);
        drop(wait);
        let mut panicked = false;
        for worker in &self.workers {
            panicked |= worker.desk.panicked.swap(false, Ordering::Relaxed);
        }
        assert!(!panicked, "a thread of the pool panicked");
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.call(Job::Leave);
            if let Some(thread) = worker.thread.take() {
                // A job's panics are caught: it ends by itself.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn call(&self, job: Job) {
        *lock(&self.desk.job) = job;
        // Sequentially consistent, as is the worker's part: it says that it sleeps and then looks
        // for a call, this calls and then looks for a sleeper; one of the two sees the other.
        self.desk.called.store(true, Ordering::SeqCst);
        if self.desk.asleep.load(Ordering::SeqCst) {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
        }
    }
}

impl Desk {
    /// A worker's life.
    fn work(&self, number: usize, running: &AtomicUsize) {
        loop {
            self.wait();
            // A statement of its own: the lock must not be held while the job runs.
            let job = std::mem::take(&mut *lock(&self.job));
            match job {
                Job::Run(work) => {
                    let result = panic::catch_unwind(AssertUnwindSafe(|| work(number)));
                    if result.is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                    running.fetch_sub(1, Ordering::Release);
                }
                Job::Leave => return,
                Job::None => {}
            }
        }
    }

    /// Spins, then sleeps, until there is a call.
    fn wait(&self) {
        if spin(AWAKE, || self.called.swap(false, Ordering::SeqCst)) {
            return;
        }
        self.asleep.store(true, Ordering::SeqCst);
        while !self.called.swap(false, Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// Waits, when dropped, until no worker runs: also if the caller's own part panics.
struct Wait<'a>(&'a AtomicUsize);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let done = || self.0.load(Ordering::Acquire) == 0;
        // Where there are more threads than cores, the one that is waited for may need this one's.
        while !spin(AWAKE, done) {
            thread::yield_now();
        }
    }
}

/// Looks at `done` again and again for a while; gives what it said last.
fn spin(time: Duration, done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..TURNS {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > time {
            return false;
        }
    }
}

/// A thread's share of the items.
#[repr(align(128))] // Not two in one cache line, nor in a pair of lines that are fetched together.
struct Share {
    next: AtomicUsize,
    end: usize,
}

impl Share {
    fn new(i: usize, shares: usize, items: usize) -> Self {
        Self { next: AtomicUsize::new(i * items / shares), end: (i + 1) * items / shares }
    }

    fn next(&self) -> Option<usize> {
        if self.next.load(Ordering::Relaxed) >= self.end {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < self.end)
    }
}

fn take<T>(item: &Mutex<Option<T>>) -> Option<T> {
    lock(item).take()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many as there are physical cores, but no more than the process may use processors.
pub fn default_threads() -> usize {
    let allowed = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    num_cpus::get_physical().clamp(1, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(threads)).unwrap()
    }

    #[test]
    fn every_item_is_worked_on_once() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            assert_eq!(pool.threads(), threads);
            for n in [0, 1, 2, 7, 1000] {
                let mut x = vec![0; n];
                pool.for_each(x.iter_mut().enumerate(), |(i, x)| *x += i + 1);
                assert!(x.iter().enumerate().all(|(i, x)| *x == i + 1));
            }
        }
    }

    #[test]
    fn a_team_wakes_up_again() {
        let pool = pool(3);
        for _ in 0..3 {
            thread::sleep(3 * AWAKE);
            let count = AtomicUsize::new(0);
            pool.for_each(0..100, |i| _ = count.fetch_add(i, Ordering::Relaxed));
            assert_eq!(count.into_inner(), 4950);
        }
    }

    #[test]
    fn calls_from_several_threads_take_turns() {
        let (pool, sum) = (pool(2), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.for_each(0..10, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * 45);
    }

    #[test]
    fn a_panic_is_passed_on_and_the_team_goes_on() {
        let pool = pool(3);
        for bad in [0, 1, 2] {
            let work = |thread| assert!(thread != bad, "as it should");
            assert!(panic::catch_unwind(AssertUnwindSafe(|| pool.run(&work))).is_err());
            let count = AtomicUsize::new(0);
            pool.run(&|_| _ = count.fetch_add(1, Ordering::Relaxed));
            assert_eq!(count.into_inner(), 3);
        }
    }
}
