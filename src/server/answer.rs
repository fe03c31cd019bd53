//! Answers on their way out: whole, or as server-sent events while they are made.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::header::{HeaderName, HeaderValue};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::Json;
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::{json, Value};

use super::error::ApiError;
use super::tally::Tally;
use crate::engine::{Answer, Event, Finish, Token, TokenLogprobs};

/// How often a client that waits for a long prompt hears that it is not forgotten.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Says that two answers come of the same program.
pub const FINGERPRINT: &str = concat!("lapidary-", env!("CARGO_PKG_VERSION"));

/// How an endpoint words its answers. A choice is one of several answers, by its index.
pub trait Shape: Send + 'static {
    /// What ids of answers begin with.
    const ID: &'static str;
    /// What the object of a whole answer is called.
    const WHOLE: &'static str;
    /// What those of a stream are called.
    const CHUNK: &'static str;

    /// A choice that is whole.
    fn whole(&mut self, index: usize, choice: &Whole) -> Value;
    /// The beginning of a choice in a stream, its prompt was read.
    fn begin(&mut self, index: usize, prompt: &[TokenLogprobs]) -> Option<Value>;
    /// More of it.
    fn go_on(&mut self, index: usize, text: &str, tokens: &[Token]) -> Value;
    /// Its end.
    fn end(&mut self, index: usize, finish: Finish) -> Value;
}

/// A choice that is whole, or on its way there.
#[derive(Debug, Default)]
pub struct Whole {
    /// What was said.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Those of the prompt but the first, if they were asked for.
    pub prompt: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish: Option<Finish>,
}

/// `stop` or `length`.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Answers in the making, and what is sent of them.
pub struct Job<S> {
    /// By index.
    pub answers: Vec<Answer>,
    /// What they are made of and take.
    pub tally: Tally,
    /// How they are worded.
    pub shape: S,
    /// The model's name.
    pub model: String,
    /// Whether they are sent as they come.
    pub stream: bool,
    /// Whether a stream says at its end what it took.
    pub include_usage: bool,
}

impl<S: Shape> Job<S> {
    /// The response. Where the client goes away, it is dropped, and with it the work on the answers.
    pub async fn respond(self) -> Result<Response, ApiError> {
        match self.stream {
            true => Ok(self.events()),
            false => Ok(Json(self.whole().await?).into_response()),
        }
    }

    async fn whole(self) -> Result<Value, ApiError> {
        let Self { answers, mut tally, mut shape, model, .. } = self;
        let head = Head::new(S::ID, S::WHOLE, model);
        let mut choices: Vec<Whole> = answers.iter().map(|_| Whole::default()).collect();
        let mut events = events(answers);
        while let Some((index, event)) = events.next().await {
            let event = event.ok_or_else(ApiError::shutting_down)?;
            tally.count(index, &event);
            let choice = &mut choices[index];
            match event {
                Event::Prompt { logprobs, .. } => choice.prompt = logprobs,
                Event::Text { text, tokens } => {
                    choice.text.push_str(&text);
                    choice.tokens.extend(tokens);
                }
                Event::Done(done) => choice.finish = Some(done.finish),
                Event::Failed(error) => return Err(error.into()),
            }
        }
        let choices = choices.iter().enumerate().map(|(index, choice)| shape.whole(index, choice));
        let mut body = head.object(choices.collect());
        body["usage"] = tally.usage();
        body["timings"] = tally.timings();
        Ok(body)
    }

    fn events(self) -> Response {
        let streaming = Streaming {
            open: self.answers.len(),
            events: events(self.answers),
            tally: self.tally,
            shape: self.shape,
            head: Head::new(S::ID, S::CHUNK, self.model),
            include_usage: self.include_usage,
            ended: false,
        };
        let batches = stream::unfold(streaming, |mut streaming| async {
            streaming.next().await.map(|batch| (batch, streaming))
        });
        let sent = batches.flat_map(stream::iter).map(Ok::<_, Infallible>);
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        let mut response = Sse::new(sent).keep_alive(keep_alive).into_response();
        // nginx would hold events back otherwise
        // (https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering).
        let buffering = HeaderName::from_static("x-accel-buffering");
        response.headers_mut().insert(buffering, HeaderValue::from_static("no"));
        response
    }
}

/// A stream of events on its way.
struct Streaming<S> {
    events: Events,
    /// Choices that have not ended.
    open: usize,
    tally: Tally,
    shape: S,
    head: Head,
    include_usage: bool,
    ended: bool,
}

impl<S: Shape> Streaming<S> {
    /// What is to be sent next; `None` after the end.
    async fn next(&mut self) -> Option<Vec<SseEvent>> {
        if self.ended {
            return None;
        }
        let Some((index, event)) = self.events.next().await else { return Some(self.finish()) };
        if let Some(event) = &event {
            self.tally.count(index, event);
        }
        let choice = match event {
            Some(Event::Prompt { logprobs, .. }) => self.shape.begin(index, &logprobs),
            Some(Event::Text { text, tokens }) => Some(self.shape.go_on(index, &text, &tokens)),
            Some(Event::Done(done)) => {
                self.open -= 1;
                Some(self.shape.end(index, done.finish))
            }
            Some(Event::Failed(error)) => return Some(self.fail(&error.into())),
            None => return Some(self.fail(&ApiError::shutting_down())),
        };
        let last = self.open == 0;
        Some(choice.map(|choice| self.chunk(vec![choice], last)).into_iter().collect())
    }

    /// A chunk with choices; the `last` says how fast it went.
    fn chunk(&self, choices: Vec<Value>, last: bool) -> SseEvent {
        let mut body = self.head.object(choices);
        if self.include_usage {
            body["usage"] = Value::Null;
        }
        if last {
            body["timings"] = self.tally.timings();
        }
        data(&body)
    }

    fn finish(&mut self) -> Vec<SseEvent> {
        self.ended = true;
        let mut events = Vec::new();
        if self.include_usage {
            let mut body = self.head.object(Vec::new());
            body["usage"] = self.tally.usage();
            body["timings"] = self.tally.timings();
            events.push(data(&body));
        }
        events.push(SseEvent::default().data("[DONE]"));
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<SseEvent> {
        self.ended = true;
        vec![data(&error.json())]
    }
}

/// JSON has no line feeds, which would end the data.
fn data(body: &Value) -> SseEvent {
    SseEvent::default().data(body.to_string())
}

/// What all objects of an answer begin with.
struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

impl Head {
    fn new(prefix: &str, object: &'static str, model: String) -> Self {
        // A new one's keys are random.
        let random = || RandomState::new().build_hasher().finish();
        let id = format!("{prefix}{:016x}{:016x}", random(), random());
        Self { id, object, created: unix_time(), model }
    }

    fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// What happens to answers, by index; `None` where one was cut off.
type Events = stream::SelectAll<Pin<Box<dyn Stream<Item = (usize, Option<Event>)> + Send>>>;

fn events(answers: Vec<Answer>) -> Events {
    let streams = answers.into_iter().enumerate().map(|(index, answer)| {
        let events = stream::unfold(Some(answer), move |answer| async move {
            let mut answer = answer?;
            let event = answer.next().await;
            let last = matches!(event, None | Some(Event::Done(_) | Event::Failed(_)));
            Some(((index, event), (!last).then_some(answer)))
        });
        Box::pin(events) as Pin<Box<_>>
    });
    stream::select_all(streams)
}
