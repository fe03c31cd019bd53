//! The threads that a forward pass runs on.

use thiserror::Error;

/// A fixed number of threads, kept for the life of a model.
#[derive(Debug)]
pub struct Team {
    pool: rayon::ThreadPool,
}

/// The system gives no threads.
#[derive(Debug, Error)]
#[error("cannot start {threads} threads: {error}")]
pub struct TeamError {
    threads: usize,
    error: rayon::ThreadPoolBuildError,
}

impl Team {
    /// A team of `threads`, or of as many as the process may use cores.
    pub fn new(threads: Option<usize>) -> Result<Self, TeamError> {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = threads.filter(|n| *n > 0).unwrap_or_else(cores);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        Ok(Self { pool: pool.map_err(|error| TeamError { threads, error })? })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` so that the parallel loops in it use this team.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}
