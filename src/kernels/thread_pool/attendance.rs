//! Which workers are worth calling.
//!
//! Where other programs want the cores too, the system takes a core from a worker in the middle of an
//! item, for milliseconds. Nobody else can finish that item, so the caller waits. Or the worker does
//! not come at all; if it shares the caller's core, it even slows the caller down. So what a worker's
//! help saves is weighed against the waits for it and the jobs that it missed. If it costs more, it
//! rests: it is not called, and sleeps. If that is so again soon after its rest, the next is longer.

use std::time::{Duration, Instant};

/// What sharing a job costs: the memory that threads have to pass to each other.
const SHARING: Duration = Duration::from_nanos(500);

/// How long the caller may have to wait before a worker has saved anything.
const ALLOWED: Duration = Duration::from_millis(1);

/// No more saved time is remembered than this, some times as long as the system takes a core away for.
/// A worker that has saved so much is taken to have a core of its own.
const REMEMBERED: Duration = Duration::from_millis(10);

/// The first rest: several times as long as the system takes a core away for.
const SHORTEST_REST: Duration = Duration::from_millis(32);

/// How much longer the next rest is.
const GROWTH: u32 = 4;

/// The longest rest. A trial after it that fails costs a few milliseconds.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How a worker keeps up.
#[derive(Clone, Debug)]
pub(super) struct Attendance {
    /// Whether it is called for the current job.
    pub(super) called: bool,
    /// How much longer the caller may wait for it.
    balance: Duration,
    /// When its last rest ended, or will end.
    back: Instant,
    /// The length of that rest.
    rest: Duration,
}

impl Attendance {
    /// That of a worker which has not been called yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { called: false, balance: ALLOWED, back: now, rest: Duration::ZERO }
    }

    /// Whether the worker does not rest.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.back
    }

    /// Its help saved so much time in a job, by estimate. Half of it counts, because two threads are
    /// seldom twice as fast.
    pub(super) fn saved(&mut self, time: Duration) {
        self.balance = (self.balance + time.saturating_sub(SHARING) / 2).min(REMEMBERED);
        if self.balance == REMEMBERED {
            self.rest = Duration::ZERO;
        }
    }

    /// It did not come for a job, of which it could have saved so much time. It may lack a core, or it may
    /// have woken up on the caller's core, and taken its time.
    pub(super) fn missed(&mut self, time: Duration, now: Instant) {
        self.charge(time.saturating_sub(SHARING) / 2, now);
    }

    /// The caller waited so long, until `now`, for the worker to leave a job.
    pub(super) fn waited(&mut self, time: Duration, now: Instant) {
        self.charge(time, now);
    }

    fn charge(&mut self, time: Duration, now: Instant) {
        match self.balance.checked_sub(time) {
            Some(balance) => self.balance = balance,
            None => {
                self.rest = (GROWTH * self.rest).clamp(SHORTEST_REST, LONGEST_REST);
                (self.back, self.balance) = (now + self.rest, ALLOWED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_rests_when_it_costs_more_than_it_saves() {
        let now = Instant::now();
        let mut worker = Attendance::new(now);
        worker.saved(10 * MS);
        worker.waited(5 * MS, now);
        assert!(worker.is_due(now));
        worker.waited(MS, now);
        assert!(!worker.is_due(now));
        assert!(worker.is_due(now + SHORTEST_REST));
    }

    #[test]
    fn jobs_that_are_too_short_save_nothing() {
        let now = Instant::now();
        let mut worker = Attendance::new(now);
        (0..100_000).for_each(|_| worker.saved(SHARING));
        worker.waited(2 * MS, now);
        assert!(!worker.is_due(now));
    }

    #[test]
    fn a_worker_that_misses_more_jobs_than_it_comes_to_rests() {
        let now = Instant::now();
        for (missed, rests) in [(2, false), (10, true)] {
            let mut worker = Attendance::new(now);
            for turn in 0..20 {
                match turn % 12 < missed {
                    true => worker.missed(MS / 2, now),
                    false => worker.saved(MS / 2),
                }
            }
            assert_eq!(!worker.is_due(now), rests);
        }
    }

    #[test]
    fn rests_grow_until_the_worker_has_proved_useful() {
        let mut now = Instant::now();
        let mut worker = Attendance::new(now);
        let mut rests = Vec::new();
        for _ in 0..5 {
            worker.waited(4 * MS, now);
            now = worker.back;
            rests.push(worker.rest);
        }
        assert_eq!(rests, [32, 128, 512, 1000, 1000].map(|n| n * MS));
        worker.saved(3 * REMEMBERED);
        worker.waited(2 * REMEMBERED, now);
        assert_eq!(worker.rest, SHORTEST_REST);
    }
}
