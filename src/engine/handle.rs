//! The handle for sending requests to an engine, the queue in which they wait, and the engine's
//! statistics.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::{self, UnboundedSender};

use super::{Answer, EngineOptions, Event, Request, SubmitError};

/// A request in the queue or in a slot.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub request: Request,
    /// Closed when the client no longer waits for the answer. The channel is unbounded, so that a
    /// slow reader does not delay others; the context limits how much it can hold.
    pub events: UnboundedSender<Event>,
    pub arrived: Instant,
}

/// What the engine has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Tokens of prompts, including those that were in the cache.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were in the cache.
    pub cached_tokens: u64,
    /// Tokens that were sampled.
    pub generated_tokens: u64,
    /// Passes over the weights.
    pub steps: u64,
    /// Passes that evaluated drafted tokens.
    pub draft_steps: u64,
    /// Tokens that were drafted.
    pub drafted_tokens: u64,
    /// Drafted tokens that were accepted as tokens of answers.
    pub accepted_tokens: u64,
    /// Drafters that were given up because their model computes values that are NaN or infinite.
    pub draft_failures: u64,
    /// Requests that were accepted.
    pub requests: u64,
    /// Answers that the model, a stop text or a constraint ended.
    pub finished_stop: u64,
    /// Answers that ended at their length limit.
    pub finished_length: u64,
    /// Requests whose client went away.
    pub cancelled: u64,
    /// Answers that failed.
    pub failed: u64,
    /// Requests that were refused because the queue was full.
    pub refused: u64,
    /// Seconds of passes that evaluated tokens of prompts.
    pub prompt_seconds: f64,
    /// Seconds of passes that did not.
    pub decode_seconds: f64,
}

/// The current state of the engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Number of slots.
    pub parallel: usize,
    /// Slots in use.
    pub busy: usize,
    /// Requests that are waiting.
    pub waiting: usize,
    /// Number of requests that may wait.
    pub queue: usize,
    /// What the engine has done since it started.
    pub totals: Totals,
}

/// The state that handles and the engine share.
#[derive(Debug, Default)]
pub(super) struct EngineState {
    pub queue: VecDeque<QueuedRequest>,
    pub busy: usize,
    pub totals: Totals,
    /// Set when the engine shuts down: no more requests are accepted, and the running ones end.
    pub closed: bool,
    /// Number of handles.
    handles: usize,
}

impl EngineState {
    /// Removes the queued requests whose client has gone away.
    pub fn drop_cancelled(&mut self) {
        let before = self.queue.len();
        self.queue.retain(|queued| !queued.events.is_closed());
        self.totals.cancelled += (before - self.queue.len()) as u64;
    }

    /// Whether no more requests can arrive.
    pub fn is_over(&self) -> bool {
        self.closed || self.handles == 0
    }
}

/// The shared state with its lock, and the condition variable that signals its changes.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<EngineState>,
    changed: Condvar,
}

impl Shared {
    /// Locks the state. A thread that panicked while it held the lock left nothing half done.
    pub fn lock(&self) -> MutexGuard<'_, EngineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state changes.
    pub fn wait<'s>(&self, state: MutexGuard<'s, EngineState>) -> MutexGuard<'s, EngineState> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends requests to an engine. Clones send to the same engine. When the last one is dropped, the
/// engine ends.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    options: EngineOptions,
    n_vocab: usize,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, options: EngineOptions, n_vocab: usize) -> Self {
        shared.lock().handles += 1;
        Self { shared, options, n_vocab }
    }

    /// Submits requests, all of them or none. Requests that cannot start at once wait, and start in
    /// the order of their arrival.
    ///
    /// # Errors
    /// If the queue is full, if one of the requests can never be answered, or if the engine has
    /// ended.
    pub fn submit(&self, requests: Vec<Request>) -> Result<Vec<Answer>, SubmitError> {
        let EngineOptions { parallel, queue, .. } = self.options;
        requests.iter().try_for_each(|request| self.check(request))?;
        let (choices, most) = (requests.len(), parallel + queue);
        if choices > most {
            return Err(SubmitError::TooMany { choices, most });
        }
        let mut state = self.shared.lock();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        state.drop_cancelled();
        if state.queue.len() + state.busy + choices > most {
            state.totals.refused += choices as u64;
            return Err(SubmitError::Full { waiting: state.queue.len() });
        }
        state.totals.requests += choices as u64;
        let arrived = Instant::now();
        let answers = requests.into_iter().map(|request| {
            let (events, receiver) = mpsc::unbounded_channel();
            state.queue.push_back(QueuedRequest { request, events, arrived });
            Answer { events: receiver }
        });
        let answers = answers.collect();
        self.shared.changed.notify_one();
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

    /// The current state of the engine.
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            parallel: self.options.parallel,
            busy: state.busy,
            waiting: state.queue.len(),
            queue: self.options.queue,
            totals: state.totals,
        }
    }

    /// Ends the engine after the current pass. Answers that are not complete end as they are.
    pub fn shutdown(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
    }

    /// Most tokens of a prompt and its answer together.
    pub fn n_ctx(&self) -> usize {
        self.options.state.n_ctx
    }

    /// Size of the vocabulary.
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
        self.shared.lock().handles -= 1;
        self.shared.changed.notify_one();
    }
}
