//! One thread of a pool, and how it is called.

use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::lock;

/// How long a thread without work spins before it sleeps: longer than the steps of decoding that run on
/// one thread alone, and so short that waiting for a disk or a person costs nothing.
pub(super) const AWAKE: Duration = Duration::from_micros(200);

/// How long the caller spins for a worker that has not left a job before it sleeps: longer than most
/// items of decoding take.
const PATIENCE: Duration = Duration::from_micros(100);

/// Turns of a spinning loop between two looks at the clock.
const TURNS: usize = 64;

/// What a worker is called for: it runs the function with its number. The result is for the caller,
/// which runs it too.
pub(super) struct Job<'a>(pub(super) &'a (dyn Fn(usize) -> usize + Sync));

/// A job as it lies in a mailbox, where nobody may assume that it still exists.
type JobPtr = *mut Job<'static>;

/// The worker has nothing to do.
const IDLE: JobPtr = ptr::null_mut();
/// The worker runs a job.
const RUNNING: JobPtr = ptr::without_provenance_mut(1);
/// The worker runs a job, and the caller sleeps until it has left it.
const AWAITED: JobPtr = ptr::without_provenance_mut(2);
/// The worker has left a job that panicked.
const PANICKED: JobPtr = ptr::without_provenance_mut(3);
/// The worker is to end.
const END: JobPtr = ptr::without_provenance_mut(4);

/// A thread that waits for jobs.
#[derive(Debug)]
pub(super) struct Worker {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// Where a worker finds its work.
#[repr(align(128))] // So that no two are in the same pair of cache lines, which are fetched together.
#[derive(Default)]
struct Mailbox {
    /// A job that the worker is called for, or one of the constants above. The caller puts a job here
    /// and takes it away again; a worker runs it only if it replaces it with `RUNNING` before that.
    state: AtomicPtr<Job<'static>>,
    /// Whether the worker sleeps, or is about to.
    asleep: AtomicBool,
    /// The caller, once it waits asleep.
    caller: Mutex<Option<Thread>>,
}

impl Worker {
    /// Starts a thread.
    pub(super) fn start(number: usize) -> std::io::Result<Self> {
        let mailbox = Arc::<Mailbox>::default();
        let at = Arc::clone(&mailbox);
        let thread = thread::Builder::new().name(format!("kernels-{number}"));
        let thread = thread.spawn(move || at.work(number))?;
        Ok(Self { mailbox, thread: Some(thread) })
    }

    /// Calls the worker for `job`. It must not have been called before, or have left that job.
    ///
    /// # Safety
    /// `job` must exist until, after [`take_back`](Self::take_back), [`leaves_soon`](Self::leaves_soon)
    /// has been true or [`wait`](Self::wait) has returned: the worker uses it.
    #[allow(unsafe_code)]
    pub(super) unsafe fn call(&self, job: &Job<'_>) {
        self.send(ptr::from_ref(job).cast_mut().cast());
    }

    fn send(&self, state: JobPtr) {
        // Sequentially consistent, here and in the worker: it first says that it sleeps and then looks
        // for a call, and this first calls and then looks whether it sleeps. So one of the two sees
        // what the other did. Exchanges, though nothing is taken: QEMU 7 lets a load overtake a
        // sequentially consistent store of 64-bit Arm, but no exchange.
        self.mailbox.state.swap(state, Ordering::SeqCst);
        if self.mailbox.asleep.load(Ordering::SeqCst) {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
        }
    }

    /// Takes the call back, if the worker has not begun with the job; after that it cannot. Returns
    /// whether that is so.
    pub(super) fn take_back(&self) -> bool {
        let state = &self.mailbox.state;
        let job = state.load(Ordering::Relaxed);
        is_job(job)
            && state.compare_exchange(job, IDLE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Looks for a moment whether the worker has left the job.
    pub(super) fn leaves_soon(&self) -> bool {
        spin_turns(|| self.mailbox.is_left())
    }

    /// Waits until the worker has left the job.
    pub(super) fn wait(&self) {
        let Mailbox { state, caller, .. } = &*self.mailbox;
        if spin(PATIENCE, || self.mailbox.is_left()) {
            return;
        }
        // A worker that has no core gets this thread's, which is free while it sleeps.
        *lock(caller) = Some(thread::current());
        let swapped =
            state.compare_exchange(RUNNING, AWAITED, Ordering::Release, Ordering::Relaxed);
        if swapped.is_ok() {
            while !self.mailbox.is_left() {
                thread::park();
            }
        }
    }

    /// Ends a call, after [`wait`](Self::wait). Returns whether the worker panicked.
    pub(super) fn finish(&self) -> bool {
        let state = &self.mailbox.state;
        let panicked = state.load(Ordering::Acquire) == PANICKED;
        if panicked {
            state.store(IDLE, Ordering::Relaxed);
        }
        panicked
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.send(END);
        if let Some(thread) = self.thread.take() {
            // The panics of jobs are caught, so the thread has not panicked.
            let _ = thread.join();
        }
    }
}

impl Mailbox {
    /// What a worker does until it is told to end.
    fn work(&self, number: usize) {
        loop {
            let call = self.next_call();
            if call == END {
                return;
            }
            let begun =
                self.state.compare_exchange(call, RUNNING, Ordering::Acquire, Ordering::Relaxed);
            // If this fails, the caller has taken the call back.
            let Ok(job) = begun else { continue };
            // SAFETY: until now the state was this job, which its caller had not taken back; and the
            // caller keeps a job until the state is another than `RUNNING` or `AWAITED`. Only `leave`
            // makes it another, after the last use.
            #[allow(unsafe_code)]
            let Job(work) = unsafe { &*job };
            let result = panic::catch_unwind(AssertUnwindSafe(|| work(number)));
            self.leave(if result.is_ok() { IDLE } else { PANICKED });
        }
    }

    /// Says that the worker no longer uses the job.
    fn leave(&self, state: JobPtr) {
        if self.state.swap(state, Ordering::AcqRel) == AWAITED {
            if let Some(caller) = lock(&self.caller).take() {
                caller.unpark();
            }
        }
    }

    fn is_left(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        state != RUNNING && state != AWAITED
    }

    /// Spins, then sleeps, until there is a call. Returns the job, or `END`.
    fn next_call(&self) -> JobPtr {
        let mut call = IDLE;
        let mut called = || {
            // Sequentially consistent: see `Worker::send`.
            call = self.state.load(Ordering::SeqCst);
            is_job(call) || call == END
        };
        if !spin(AWAKE, &mut called) {
            self.asleep.swap(true, Ordering::SeqCst);
            while !called() {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
        call
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// Whether a state is a job that waits to be begun.
fn is_job(state: JobPtr) -> bool {
    ![IDLE, RUNNING, AWAITED, PANICKED, END].contains(&state)
}

/// Calls `done` again and again for `time`, or until it is true. Returns its last result.
fn spin(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    if spin_turns(&mut done) {
        return true;
    }
    let start = Instant::now();
    while start.elapsed() <= time {
        if spin_turns(&mut done) {
            return true;
        }
    }
    false
}

/// Calls `done` some times, or until it is true. Returns its last result.
fn spin_turns(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..TURNS {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    impl Worker {
        /// A worker whose thread never gets a core.
        pub(in super::super) fn absent() -> Self {
            Self { mailbox: Arc::default(), thread: None }
        }
    }

    #[test]
    fn a_call_that_was_taken_back_is_not_followed() {
        let runs = AtomicUsize::new(0);
        let work = |_| runs.fetch_add(1, Ordering::Relaxed);
        let job = Job(&work);
        let mut worker = Worker::absent();
        // SAFETY: `job` exists until the end of this function.
        #[allow(unsafe_code)]
        unsafe {
            worker.call(&job);
        }
        assert!(worker.take_back());
        assert!(worker.leaves_soon());
        // Now its thread gets a core.
        let mailbox = Arc::clone(&worker.mailbox);
        worker.thread = Some(thread::spawn(move || mailbox.work(1)));
        drop(worker);
        assert_eq!(runs.into_inner(), 0);
    }
}
