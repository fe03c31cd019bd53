//! The way in: the queue that requests wait in, and what is known from outside.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::{self, UnboundedSender};

use super::{Answer, EngineOptions, Event, Request, SubmitError};

/// A request on its way.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub request: Request,
    /// Closed when nobody waits for the answer any more. It is unbounded so that a slow reader holds
    /// nobody up; what it can hold is bounded by the context.
    pub events: UnboundedSender<Event>,
    pub arrived: Instant,
}

/// What the engine has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Tokens of prompts, those that were in the cache included.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were in the cache.
    pub cached_tokens: u64,
    /// Tokens that were picked.
    pub generated_tokens: u64,
    /// Passes over the weights.
    pub steps: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// Answers that the model, a stop text or a constraint ended.
    pub finished_stop: u64,
    /// Answers that were as long as they may be.
    pub finished_length: u64,
    /// Requests that nobody waited for any more.
    pub cancelled: u64,
    /// Answers that could not be made.
    pub failed: u64,
    /// Requests that were not taken because too many waited.
    pub refused: u64,
    /// Seconds of passes that read prompts.
    pub prompt_seconds: f64,
    /// Seconds of passes that read none.
    pub decode_seconds: f64,
}

/// How the engine is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Answers that can be made at a time.
    pub parallel: usize,
    /// Answers that are being made.
    pub busy: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// What it has done.
    pub totals: Totals,
}

/// What handles and the engine share.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub queue: VecDeque<QueuedRequest>,
    pub busy: usize,
    pub totals: Totals,
    /// No more requests are taken, and those there are come to an end.
    pub closed: bool,
    /// Handles that there are.
    handles: usize,
}

impl Desk {
    /// Forgets the requests that nobody waits for any more.
    pub fn drop_cancelled(&mut self) {
        let before = self.queue.len();
        self.queue.retain(|queued| !queued.events.is_closed());
        self.totals.cancelled += (before - self.queue.len()) as u64;
    }

    /// Whether there will never be anything to do again.
    pub fn is_over(&self) -> bool {
        self.closed || self.handles == 0
    }
}

/// The desk, and the bell on it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    desk: Mutex<Desk>,
    bell: Condvar,
}

impl Shared {
    /// The desk. A thread that panicked while it stood there left nothing half done.
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until somebody rings.
    pub fn wait<'d>(&self, desk: MutexGuard<'d, Desk>) -> MutexGuard<'d, Desk> {
        self.bell.wait(desk).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands requests to an engine. Clones share it; when the last is gone, the engine ends.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    options: EngineOptions,
    n_vocab: usize,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, options: EngineOptions, n_vocab: usize) -> Self {
        shared.desk().handles += 1;
        Self { shared, options, n_vocab }
    }

    /// Hands in requests, all of them or none; those that cannot begin at once wait, first come, first
    /// served.
    ///
    /// # Errors
    /// If too many wait already, one can never be answered, or the engine has ended.
    pub fn submit(&self, requests: Vec<Request>) -> Result<Vec<Answer>, SubmitError> {
        let EngineOptions { parallel, queue, .. } = self.options;
        requests.iter().try_for_each(|request| self.check(request))?;
        let (choices, most) = (requests.len(), parallel + queue);
        if choices > most {
            return Err(SubmitError::TooMany { choices, most });
        }
        let mut desk = self.shared.desk();
        if desk.closed {
            return Err(SubmitError::Closed);
        }
        desk.drop_cancelled();
        if desk.queue.len() + desk.busy + choices > most {
            desk.totals.refused += choices as u64;
            return Err(SubmitError::Full { waiting: desk.queue.len() });
        }
        desk.totals.requests += choices as u64;
        let arrived = Instant::now();
        let answers = requests.into_iter().map(|request| {
            let (events, receiver) = mpsc::unbounded_channel();
            desk.queue.push_back(QueuedRequest { request, events, arrived });
            Answer { events: receiver }
        });
        let answers = answers.collect();
        self.shared.bell.notify_one();
        Ok(answers)
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let (tokens, n_ctx, n_vocab) = (request.prompt.len(), self.n_ctx(), self.n_vocab);
        if tokens == 0 {
            return Err(SubmitError::NoTokens);
        }
        let answered = request.max_tokens != Some(0);
        if tokens + usize::from(answered) > n_ctx {
            return Err(SubmitError::TooLong { tokens, n_ctx });
        }
        match request.prompt.iter().find(|id| **id as usize >= n_vocab) {
            Some(id) => Err(SubmitError::Token { id: *id, n_vocab }),
            None => Ok(()),
        }
    }

    /// How the engine is.
    pub fn status(&self) -> Status {
        let desk = self.shared.desk();
        Status {
            parallel: self.options.parallel,
            busy: desk.busy,
            waiting: desk.queue.len(),
            queue: self.options.queue,
            totals: desk.totals,
        }
    }

    /// Ends the engine after its present pass, with all answers as they are.
    pub fn shutdown(&self) {
        self.shared.desk().closed = true;
        self.shared.bell.notify_one();
    }

    /// The most tokens of a prompt and its answer.
    pub fn n_ctx(&self) -> usize {
        self.options.state.n_ctx
    }

    /// Ids of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared), self.options, self.n_vocab)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.desk().handles -= 1;
        self.shared.bell.notify_one();
    }
}
