//! The threads that forward passes and conversions run on.
//!
//! A forward pass has hundreds of short parallel steps, so threads stay awake between them: they spin
//! for a moment before they sleep. The work of a step is cut into items. A thread takes the items of
//! its own share in order, which keeps its reads of the weights sequential, and then items that are
//! left of the other shares.

use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long a thread without work spins before it sleeps: longer than the steps of decoding that run on
/// one thread alone, and so short that waiting for a disk or a person costs nothing.
const AWAKE: Duration = Duration::from_micros(200);

/// Turns of a spinning loop between two looks at the clock.
const TURNS: usize = 64;

/// A fixed number of threads, of which the calling thread is one.
#[derive(Debug)]
pub struct ThreadPool {
    workers: Vec<Worker>,
    /// Workers that have not finished the current job.
    running: Arc<AtomicUsize>,
    /// Held while a job runs: there is only one at a time.
    busy: Mutex<()>,
}

#[derive(Debug)]
struct Worker {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// Where a worker finds its work.
#[derive(Default)]
struct Mailbox {
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
        let mut pool = Self { workers: Vec::new(), running: Arc::default(), busy: Mutex::new(()) };
        for number in 1..threads {
            let mailbox = Arc::<Mailbox>::default();
            let (at, running) = (Arc::clone(&mailbox), Arc::clone(&pool.running));
            let thread = thread::Builder::new()
                .name(format!("kernels-{number}"))
                .spawn(move || at.work(number, &running))
                .map_err(|error| ThreadPoolError { threads, error })?;
            pool.workers.push(Worker { mailbox, thread: Some(thread) });
        }
        Ok(pool)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
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
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.share_out(self.threads().min(items.len()), || (), items, scratch, work);
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
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.share_out(self.threads().min(items.len() + 1), beside, items, scratch, work)
    }

    /// Does the items on `threads` threads, and `beside` before them on the calling thread.
    fn share_out<T: Send, W, R>(
        &self,
        threads: usize,
        beside: impl FnOnce() -> R,
        items: Vec<Mutex<Option<T>>>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) -> R {
        if threads <= 1 {
            let result = beside();
            let mut scratch = scratch();
            items.into_iter().filter_map(|item| take(&item)).for_each(|x| work(&mut scratch, x));
            return result;
        }
        let shares: Vec<Share> =
            (0..threads).map(|i| Share::new(i, threads, items.len())).collect();
        self.run(beside, &|thread| {
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
        })
    }

    /// Calls `work` on every thread, with its number, and returns when all are done. The calling
    /// thread, which has number 0, calls `beside` before.
    fn run<R>(&self, beside: impl FnOnce() -> R, work: &(dyn Fn(usize) + Sync)) -> R {
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
        let result = beside();
        work(0);
        drop(wait);
        let mut panicked = false;
        for worker in &self.workers {
            panicked |= worker.mailbox.panicked.swap(false, Ordering::Relaxed);
        }
        assert!(!panicked, "a thread of the pool panicked");
        result
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.call(Job::Leave);
            if let Some(thread) = worker.thread.take() {
                // The panics of jobs are caught, so the thread has not panicked.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn call(&self, job: Job) {
        *lock(&self.mailbox.job) = job;
        // Sequentially consistent, here and in the worker: it first says that it sleeps and then looks
        // for a call, and this first calls and then looks whether it sleeps. So one of the two sees
        // what the other did.
        self.mailbox.called.store(true, Ordering::SeqCst);
        if self.mailbox.asleep.load(Ordering::SeqCst) {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
        }
    }
}

impl Mailbox {
    /// What a worker does until it is told to leave.
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

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// Waits, when dropped, until no worker runs, also if the calling thread panics.
struct Wait<'a>(&'a AtomicUsize);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let done = || self.0.load(Ordering::Acquire) == 0;
        // With more threads than cores, the worker may need the core that this thread has.
        while !spin(AWAKE, done) {
            thread::yield_now();
        }
    }
}

/// Calls `done` again and again for `time`, or until it is true. Returns its last result.
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
#[repr(align(128))] // So that no two are in the same pair of cache lines, which are fetched together.
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

/// As many threads as there are physical cores, but no more than [`processors`]: two threads on one
/// core would share the units that the kernels keep busy.
pub fn default_threads() -> usize {
    num_cpus::get_physical().clamp(1, processors().get())
}

/// The number of processors that this process may use, which counts hardware threads.
pub fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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

    /// Items that wait for what runs beside them, and the other way round.
    #[test]
    fn items_and_what_is_beside_them_run_at_the_same_time() {
        let pool = pool(2);
        let (to_item, from_beside) = mpsc::channel();
        let (to_beside, from_item) = mpsc::channel();
        let wait = Duration::from_secs(60);
        let item = Mutex::new((to_beside, from_beside));
        let beside = || {
            let heard = from_item.recv_timeout(wait);
            to_item.send(()).expect("the item waits");
            heard
        };
        let heard = pool.for_each_beside(
            beside,
            [item],
            || (),
            |(), item| {
                let (to_beside, from_beside) = item.into_inner().expect("not poisoned");
                to_beside.send(7).expect("it waits");
                from_beside.recv_timeout(wait).expect("it is called");
            },
        );
        assert_eq!(heard, Ok(7));
    }

    #[test]
    fn what_is_beside_no_items_or_on_one_thread_is_called_too() {
        for (threads, n) in [(1, 0), (1, 5), (3, 0), (3, 1), (3, 5)] {
            let count = AtomicUsize::new(0);
            let add = |(): &mut (), i| _ = count.fetch_add(i, Ordering::Relaxed);
            assert_eq!(pool(threads).for_each_beside(|| 9, 1..=n, || (), add), 9);
            assert_eq!(count.into_inner(), n * (n + 1) / 2);
        }
    }

    #[test]
    fn sleeping_threads_wake_up_again() {
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
    fn a_panic_is_passed_on_and_the_pool_stays_usable() {
        let pool = pool(3);
        for bad in [0, 1, 2] {
            let work = |thread| assert!(thread != bad, "as it should");
            assert!(panic::catch_unwind(AssertUnwindSafe(|| pool.run(|| (), &work))).is_err());
            let count = AtomicUsize::new(0);
            pool.run(|| (), &|_| _ = count.fetch_add(1, Ordering::Relaxed));
            assert_eq!(count.into_inner(), 3);
        }
    }
}
