//! What is asked of the engine, and what comes back.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::generate::{Finish, Token, TokenLogprobs};
use crate::sampling::{Constraint, Sampler};

/// A text to go on with.
#[derive(Debug)]
pub struct Request {
    /// At least one token, all of the vocabulary.
    pub prompt: Vec<u32>,
    /// The most tokens of the answer, 0 to have the prompt read only; `None` for as many as the
    /// context takes.
    pub max_tokens: Option<usize>,
    /// How they are picked.
    pub sampler: Sampler,
    /// What the answer has to be like.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Texts that end the answer, and are no part of it. None is empty.
    pub stop: Vec<String>,
    /// Whether the answer goes on where the model would end it.
    pub ignore_eos: bool,
    /// The log-probabilities that come with each token of the answer: its own, and those of so many of
    /// the likeliest. They are the model's, before anything that `sampler` does.
    pub logprobs: Option<usize>,
    /// Whether they come with each token of the prompt as well. All of it is evaluated then.
    pub prompt_logprobs: bool,
}

/// One step of an answer. After [`Event::Done`] and [`Event::Failed`] there are no more.
#[derive(Debug)]
pub enum Event {
    /// The prompt was read.
    Prompt {
        /// Its tokens that were in the cache already.
        cached: usize,
        /// One for each of its tokens but the first, if they were asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The text goes on. Only whole characters, and nothing that a stop text may begin with, come
    /// before what follows is known; the tokens come with the last of their text.
    Text {
        /// What is new.
        text: String,
        /// The tokens that are complete with it.
        tokens: Vec<Token>,
    },
    /// The answer is whole.
    Done(Done),
    /// It could not be made.
    Failed(EngineError),
}

/// What a whole answer took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the answer, those of a stop text or of the model's end included.
    pub tokens: usize,
    /// From being sent to the first work on it.
    pub queued: Duration,
    /// From then to the prompt's last token, the work for others in between included.
    pub prompt_time: Duration,
    /// From then to the end.
    pub decode_time: Duration,
}

/// Why an answer could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The model makes no numbers of it.
    #[error("{0}")]
    Model(String),
    /// No token fits the constraint.
    #[error("the answer cannot be made to fit its format: {0}")]
    Constraint(String),
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// Enough others wait.
    #[error("{waiting} requests are waiting already")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// More choices at once than could ever wait.
    #[error("{choices} answers at once are more than the {most} that can wait")]
    TooMany {
        /// How many answers were asked for.
        choices: usize,
        /// How many there may be.
        most: usize,
    },
    /// There is nothing to go on with.
    #[error("the prompt has no tokens")]
    NoTokens,
    /// The prompt is longer than the context, or leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, the context takes {n_ctx} with the answer")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of a sequence.
        n_ctx: usize,
    },
    /// A token id that the vocabulary has not.
    #[error("token id {id} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Ids of the vocabulary.
        n_vocab: usize,
    },
    /// The engine has ended.
    #[error("the server is shutting down")]
    Closed,
}

/// An answer in the making. Dropping it ends the work on it.
#[derive(Debug)]
pub struct Answer {
    pub(super) events: UnboundedReceiver<Event>,
}

impl Answer {
    /// What comes next; `None` after the end, and when the engine has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The same, for a thread that may wait.
    ///
    /// # Panics
    /// If it is called by a task.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}
