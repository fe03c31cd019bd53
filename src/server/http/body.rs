//! The JSON that comes with a request, within bounds of length and time.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::HeaderMap;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ErrorKind};
use super::json;
use crate::server::limits::{BODY_TIME, MAX_BODIES, MAX_BODY, MAX_VALUES, SMALL_BODY};

/// Memory for bodies is given in units of so many bytes.
const UNIT: usize = 16 << 10;

/// Memory for the bodies of all requests that are not small.
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES / UNIT)))
    }
}

impl Bodies {
    /// Waits until there is memory for a whole body of `length` bytes. A body that held a part and waited
    /// for the rest could wait for others that do the same, forever.
    async fn room(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        let units = length.div_ceil(UNIT) as u32;
        // The semaphore is never closed.
        Arc::clone(&self.0).acquire_many_owned(units).await.ok()
    }
}

/// A request's body. Its Content-Type has to be JSON: a browser sends forms and plain text of pages of
/// other origins without asking the server first, but not JSON
/// (<https://fetch.spec.whatwg.org/#cors-safelisted-method>).
pub struct JsonBody {
    bytes: Vec<u8>,
    /// Given back when the body is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

impl JsonBody {
    /// The JSON.
    pub fn parse(&self) -> Result<Value, ApiError> {
        // Editors on Windows begin every file with this mark, and RFC 8259 lets it be ignored.
        let bytes = self.bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&self.bytes);
        json::parse(bytes, MAX_VALUES)
            .map_err(|error| ApiError::invalid(format!("the body cannot be read as JSON: {error}")))
    }

    /// Waits for the body of a request.
    pub async fn receive(request: Request, bodies: &Bodies) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            let message = "the body has to be application/json";
            return Err(ApiError::new(ErrorKind::NotJson, message));
        }
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > MAX_BODY) {
            return Err(too_long());
        }
        Self::read(body, length, bodies).await
    }

    /// Reads a small body at once. A longer one first waits for memory, for as long as others need to
    /// arrive; then it has its own time to arrive. A client that does not say how long its body is may
    /// send the longest.
    async fn read(body: Body, length: Option<usize>, bodies: &Bodies) -> Result<Self, ApiError> {
        let mut reading = Reading { bytes: Vec::new(), stream: body.into_data_stream() };
        let mut room = None;
        if !reading.read_to(SMALL_BODY).await? {
            room = bodies.room(length.unwrap_or(MAX_BODY)).await;
            if !reading.read_to(MAX_BODY).await? {
                return Err(too_long());
            }
        }
        Ok(Self { bytes: reading.bytes, _room: room })
    }
}

/// A body that arrives.
struct Reading {
    bytes: Vec<u8>,
    stream: BodyDataStream,
}

impl Reading {
    /// Reads until the body has ended, or has more than `most` bytes. Returns whether it has ended.
    async fn read_to(&mut self, most: usize) -> Result<bool, ApiError> {
        let arrive = async {
            while self.bytes.len() <= most {
                let Some(part) = self.stream.next().await else { return Ok(true) };
                let cut_off = |error| ApiError::invalid(format!("the body is cut off: {error}"));
                self.bytes.extend_from_slice(&part.map_err(cut_off)?);
            }
            Ok(false)
        };
        let slow = |_| ApiError::new(ErrorKind::BodyTimeout, "the body did not arrive in time");
        tokio::time::timeout(BODY_TIME, arrive).await.map_err(slow)?
    }
}

fn too_long() -> ApiError {
    let message = format!("the body is longer than {} MiB", MAX_BODY >> 20);
    ApiError::new(ErrorKind::BodyTooLong, message)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    async fn status(content_type: &str, body: impl Into<Body>) -> u16 {
        let request = Request::builder().header(CONTENT_TYPE, content_type).body(body.into());
        let body = JsonBody::receive(request.unwrap(), &Bodies::default()).await;
        match body.and_then(|body| body.parse()) {
            Ok(_) => 200,
            Err(error) => error.kind.status().as_u16(),
        }
    }

    #[tokio::test]
    async fn only_json_of_some_length_is_read() {
        assert_eq!(status("application/json", "{}").await, 200);
        assert_eq!(status("Application/JSON; charset=utf-8", "[]").await, 200);
        assert_eq!(status("application/json", "\u{feff}{}").await, 200);
        for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert_eq!(status(other, "{}").await, 415, "{other}");
        }
        for flawed in ["", "{", "{\"a\":1}x", "\u{feff}\u{feff}{}", "[NaN]"] {
            assert_eq!(status("application/json", flawed).await, 400, "{flawed}");
        }
        assert_eq!(status("application/json", "[".repeat(100_000)).await, 400);
        assert_eq!(status("application/json", " ".repeat(MAX_BODY - 2) + "{}").await, 200);
        assert_eq!(status("application/json", " ".repeat(MAX_BODY - 1) + "{}").await, 413);
    }

    /// A body of `length` bytes that comes in parts, without a Content-Length.
    async fn receive(bodies: &Bodies, length: usize) -> Result<JsonBody, ApiError> {
        let request = Request::builder().header(CONTENT_TYPE, "application/json");
        let parts = (0..length / UNIT).map(|_| Ok::<_, std::io::Error>(vec![b' '; UNIT]));
        let body = Body::from_stream(futures_util::stream::iter(parts));
        JsonBody::receive(request.body(body).unwrap(), bodies).await
    }

    #[tokio::test]
    async fn long_bodies_wait_for_room_and_small_ones_do_not() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for _ in 0..MAX_BODIES / MAX_BODY {
            held.push(receive(&bodies, MAX_BODY).await.unwrap());
        }
        let mut waiting = std::pin::pin!(receive(&bodies, 2 * UNIT));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(receive(&bodies, SMALL_BODY).await.is_ok());
        held.pop();
        assert!(waiting.await.is_ok());
    }

    /// Slow bodies that hold a part of the memory each, and all wait for more, would wait forever.
    #[tokio::test]
    async fn bodies_that_come_at_the_same_time_all_arrive() {
        let bodies = Bodies::default();
        // Every body comes on by one part in turn, until all of the memory is taken.
        let part = |_| async {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(vec![b' '; UNIT])
        };
        let slow = (0..2 * MAX_BODIES / MAX_BODY + 1).map(|_| {
            let request = Request::builder().header(CONTENT_TYPE, "application/json");
            let parts = futures_util::stream::iter(0..MAX_BODY / UNIT).then(part);
            let body = Body::from_stream(parts);
            let received = JsonBody::receive(request.body(body).unwrap(), &bodies);
            async { received.await.map(drop) }
        });
        let all = futures_util::future::join_all(slow).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    }
}
