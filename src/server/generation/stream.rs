//! Answers that are sent while they are made.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{HeaderName, CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use tokio::time::timeout;

use super::{events, Events, Generation, Tally, Wording};
use crate::engine::Event;
use crate::server::http::error::ApiError;
use crate::server::limits::KEEP_ALIVE;

/// The response that streams a generation.
pub fn response<W: Wording>(generation: Generation<W>) -> Response {
    let Generation { answers, tally, wording, .. } = generation;
    let streaming = Streaming {
        open: answers.len(),
        events: events(answers),
        tally,
        wording,
        keep_alive: KEEP_ALIVE,
        ended: false,
    };
    let batches = stream::unfold(streaming, |mut streaming| async {
        streaming.next().await.map(|frames| (frames, streaming))
    });
    let frames = batches.flat_map(stream::iter).map(Ok::<_, Infallible>);
    let headers = [
        (CONTENT_TYPE, W::CONTENT_TYPE),
        (CACHE_CONTROL, "no-cache"),
        // nginx would hold frames back otherwise
        // (https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering).
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

struct Streaming<W> {
    events: Events,
    /// Answers that have not ended.
    open: usize,
    tally: Tally,
    wording: W,
    /// How long it may be silent.
    keep_alive: Duration,
    ended: bool,
}

impl<W: Wording> Streaming<W> {
    /// The next frames, perhaps none; `None` after the end.
    async fn next(&mut self) -> Option<Vec<String>> {
        if self.ended {
            return None;
        }
        let Ok(event) = timeout(self.keep_alive, self.events.next()).await else {
            return Some(W::KEEP_ALIVE.into_iter().map(str::to_owned).collect());
        };
        Some(match event {
            Some((index, Some(event))) => self.word(index, event),
            Some((_, None)) => self.fail(&ApiError::shutting_down()),
            None => {
                self.ended = true;
                self.wording.finish(&self.tally)
            }
        })
    }

    fn word(&mut self, index: usize, event: Event) -> Vec<String> {
        self.tally.count(index, &event);
        match event {
            Event::Prompt { logprobs, .. } => self.wording.begin(index, &logprobs, &self.tally),
            Event::Text { text, tokens } => self.wording.text(index, &text, &tokens),
            Event::Done(done) => {
                self.open -= 1;
                self.wording.end(index, done.finish, &self.tally, self.open == 0)
            }
            Event::Failed(error) => self.fail(&error.into()),
        }
    }

    fn fail(&mut self, error: &ApiError) -> Vec<String> {
        self.ended = true;
        self.wording.fail(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Done, Finish};
    use crate::server::tests::Lines;

    #[tokio::test]
    async fn a_silent_stream_shows_that_it_is_alive() {
        let done = Done {
            finish: Finish::Length,
            tokens: 1,
            queued: Duration::ZERO,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
            drafted: 0,
            accepted: 0,
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done_later = stream::once(async { (0_usize, receiver.await.ok().map(Event::Done)) });
        let mut events = Events::new();
        events.push(Box::pin(done_later));
        let mut streaming = Streaming {
            events,
            open: 1,
            tally: Tally::new(vec![1], 1),
            wording: Lines,
            keep_alive: Duration::from_millis(1),
            ended: false,
        };
        for _ in 0..3 {
            assert_eq!(streaming.next().await.unwrap(), ["\n"]);
        }
        // Nothing is lost by it.
        sender.send(done).unwrap();
        assert_eq!(streaming.next().await.unwrap(), ["{\"tokens\":1}\n"]);
        assert_eq!(streaming.next().await.unwrap(), ["\"done\"\n"]);
        assert_eq!(streaming.next().await, None);
    }
}
