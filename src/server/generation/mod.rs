//! Answers to a request, whatever its dialect: queued on the engine, counted, and sent whole or as a
//! stream while they are made. When the client goes away, its connection drops the response, and with it
//! the work on the answers.

mod options;
pub mod sampling;
mod stream;
mod tally;

use std::pin::Pin;

use axum::response::{IntoResponse, Response};
use axum::Json;
use futures_util::stream::{self as streams, SelectAll, Stream, StreamExt};
use serde_json::Value;

pub use options::{AnswerFormat, Options};
pub use tally::Tally;

use crate::engine::{Answer, Event, Finish, SubmitError, Token, TokenLogprobs};
use crate::server::http::app::App;
use crate::server::http::error::ApiError;

/// How a dialect words the answers to one request. `index` counts the answers: first all answers to
/// the first prompt, then those to the second.
///
/// The text of a stream is made of frames, such as server-sent events or lines of JSON. Each is sent at
/// once.
pub trait Wording: Send + 'static {
    /// The content type of a stream.
    const CONTENT_TYPE: &'static str;
    /// A frame without meaning, which tells a waiting client that the server is still there.
    const KEEP_ALIVE: Option<&'static str>;

    /// The body of a response that has all answers.
    fn whole(&mut self, answers: &[WholeAnswer], tally: &Tally) -> Value;
    /// The frames after an answer's prompt was read. `prompt`: one for each of its tokens but the first,
    /// if they were asked for.
    fn begin(&mut self, index: usize, prompt: &[TokenLogprobs], tally: &Tally) -> Vec<String>;
    /// The frames of more text.
    fn text(&mut self, index: usize, text: &str, tokens: &[Token]) -> Vec<String>;
    /// The frames at the end of an answer. `last`: whether all others have ended before.
    fn end(&mut self, index: usize, finish: Finish, tally: &Tally, last: bool) -> Vec<String>;
    /// The frames at the end of the stream.
    fn finish(&mut self, tally: &Tally) -> Vec<String>;
    /// The frames of an error, after which the stream ends.
    fn fail(&mut self, error: &ApiError) -> Vec<String>;
}

/// An answer that is whole, or on its way there.
#[derive(Debug, Default)]
pub struct WholeAnswer {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// One for each token of the prompt but the first, if they were asked for.
    pub prompt: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish: Option<Finish>,
}

/// Answers that are being made, and how they are sent.
pub struct Generation<W> {
    /// By index.
    answers: Vec<Answer>,
    tally: Tally,
    wording: W,
    /// Whether they are sent while they are made.
    stream: bool,
}

impl<W: Wording> Generation<W> {
    /// Queues answers to prompts on the engine, all of them or none.
    ///
    /// # Errors
    /// If the queue is full, an answer could never be made, or the engine has ended.
    pub fn submit(
        app: &App,
        prompts: &[Vec<u32>],
        options: &Options,
        stream: bool,
        wording: W,
    ) -> Result<Self, ApiError> {
        // The engine checks the same, but only after a prompt was copied for each of its answers.
        let n_ctx = app.handle.n_ctx();
        if let Some(long) = prompts.iter().find(|prompt| prompt.len() > n_ctx) {
            return Err(SubmitError::TooLong { tokens: long.len(), n_ctx }.into());
        }
        let status = app.handle.status();
        let (choices, most) = (prompts.len() * options.n, status.parallel + status.queue);
        if choices > most {
            return Err(SubmitError::TooMany { choices, most }.into());
        }
        let answers = app.handle.submit(options.requests(app, prompts)?)?;
        let tally = Tally::new(prompts.iter().map(Vec::len).collect(), options.n);
        Ok(Self { answers, tally, wording, stream })
    }

    /// The response.
    pub async fn respond(self) -> Result<Response, ApiError> {
        match self.stream {
            true => Ok(stream::response(self)),
            false => Ok(Json(self.whole().await?).into_response()),
        }
    }

    async fn whole(self) -> Result<Value, ApiError> {
        let Self { answers, mut tally, mut wording, .. } = self;
        let mut whole: Vec<WholeAnswer> = answers.iter().map(|_| WholeAnswer::default()).collect();
        let mut events = events(answers);
        while let Some((index, event)) = events.next().await {
            let event = event.ok_or_else(ApiError::shutting_down)?;
            tally.count(index, &event);
            let answer = &mut whole[index];
            match event {
                Event::Prompt { logprobs, .. } => answer.prompt = logprobs,
                Event::Text { text, tokens } => {
                    answer.text.push_str(&text);
                    answer.tokens.extend(tokens);
                }
                Event::Done(done) => answer.finish = Some(done.finish),
                Event::Failed(error) => return Err(error.into()),
            }
        }
        Ok(wording.whole(&whole, &tally))
    }
}

/// The events of answers, by index; `None` where the engine ended before the answer did.
type Events = SelectAll<Pin<Box<dyn Stream<Item = (usize, Option<Event>)> + Send>>>;

fn events(answers: Vec<Answer>) -> Events {
    let all = answers.into_iter().enumerate().map(|(index, answer)| {
        let events = streams::unfold(Some(answer), move |answer| async move {
            let mut answer = answer?;
            let event = answer.next().await;
            let last = matches!(event, None | Some(Event::Done(_) | Event::Failed(_)));
            Some(((index, event), (!last).then_some(answer)))
        });
        Box::pin(events) as Pin<Box<_>>
    });
    streams::select_all(all)
}
