//! The requests to the engine, and the events that it sends back.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::generate::{Finish, Token, TokenLogprobs};
use crate::sampling::{Constraint, Sampler};

/// A prompt to continue.
#[derive(Debug)]
pub struct Request {
    /// At least one token, all of them in the vocabulary.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer; 0 only evaluates the prompt, `None` allows as many as the context
    /// holds.
    pub max_tokens: Option<usize>,
    /// How tokens are sampled.
    pub sampler: Sampler,
    /// What the answer must conform to.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Stop texts: they end the answer and are not part of it. None of them is empty.
    pub stop: Vec<String>,
    /// Whether the answer continues after the model has ended it.
    pub ignore_eos: bool,
    /// Requests log-probabilities for each token of the answer: its own, and those of this many of
    /// the likeliest tokens. They are the model's, before `sampler` changes the logits.
    pub logprobs: Option<usize>,
    /// Whether each token of the prompt gets log-probabilities as well. The whole prompt is then
    /// evaluated, and nothing is taken from the cache.
    pub prompt_logprobs: bool,
}

/// One step of an answer. [`Event::Done`] and [`Event::Failed`] are the last ones.
#[derive(Debug)]
pub enum Event {
    /// The prompt has been evaluated.
    Prompt {
        /// Tokens of the prompt that were in the cache already.
        cached: usize,
        /// Log-probabilities of each token of the prompt except the first, if they were asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The text continues. Incomplete characters, and text that may be the beginning of a stop
    /// text, are held back until it is certain what they are. A token is sent with the last part of
    /// its text.
    Text {
        /// The new text.
        text: String,
        /// The tokens whose text is complete with it.
        tokens: Vec<Token>,
    },
    /// The answer is complete.
    Done(Done),
    /// The answer could not be completed.
    Failed(EngineError),
}

/// Statistics of a complete answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// Why the answer ended.
    pub finish: Finish,
    /// Tokens of the answer, including those of the stop text or the stop token that ended it.
    pub tokens: usize,
    /// Time in the queue: from the submission to the first work on it.
    pub queued: Duration,
    /// Time from then until the prompt had been evaluated, including the work on other requests in
    /// between.
    pub prompt_time: Duration,
    /// Time from then to the end.
    pub decode_time: Duration,
    /// Tokens that were drafted, if there is a drafter.
    pub drafted: usize,
    /// How many of these were accepted as tokens of the answer.
    pub accepted: usize,
}

/// Why an answer could not be completed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The model computes values that are NaN or infinite.
    #[error("{0}")]
    Model(String),
    /// No token conforms to the constraint.
    #[error("the answer cannot be made to fit its format: {0}")]
    Constraint(String),
}

/// Why a request is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{waiting} requests are waiting already")]
    Full {
        /// Number of waiting requests.
        waiting: usize,
    },
    /// The request asks for more answers than slots and queue can ever hold.
    #[error("{choices} answers were requested at once, but at most {most} are possible")]
    TooMany {
        /// Number of answers that were asked for.
        choices: usize,
        /// The largest possible number.
        most: usize,
    },
    /// The prompt is empty.
    #[error("the prompt has no tokens")]
    NoTokens,
    /// The prompt does not fit in the context, or leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens, but the context holds {n_ctx} together with the answer"
    )]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of a sequence.
        n_ctx: usize,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// The engine has ended.
    #[error("the server is shutting down")]
    Closed,
}

/// An answer that is being generated. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    pub(super) events: UnboundedReceiver<Event>,
}

impl Answer {
    /// The next event; `None` after the last one, or if the engine has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The same for a thread that may block.
    ///
    /// # Panics
    /// If it is called within an asynchronous task.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}
