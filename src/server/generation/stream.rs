//! Answers that are sent while they are made.

use std::convert::Infallible;

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
    let open = answers.len();
    let streaming = Streaming { events: events(answers), open, tally, wording, ended: false };
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
    ended: bool,
}

impl<W: Wording> Streaming<W> {
    /// The next frames, perhaps none; `None` after the end.
    async fn next(&mut self) -> Option<Vec<String>> {
        if self.ended {
            return None;
        }
        let Ok(event) = timeout(KEEP_ALIVE, self.events.next()).await else {
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
