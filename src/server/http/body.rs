//! The JSON that comes with a request, within bounds of length and time.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::HeaderMap;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ErrorKind};
use crate::server::limits::{BODY_TIME, MAX_BODIES, MAX_BODY};

/// Memory for bodies is given in units of so many bytes.
const UNIT: usize = 16 << 10;

/// Memory for the bodies of all requests.
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES / UNIT)))
    }
}

impl Bodies {
    /// Waits until there is memory for a body of `length` bytes, for which some is `held` already.
    async fn room(&self, held: &mut Option<OwnedSemaphorePermit>, length: usize) {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = length.div_ceil(UNIT).saturating_sub(has) as u32;
        // The semaphore is never closed.
        let Ok(more) = Arc::clone(&self.0).acquire_many_owned(more).await else { return };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
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
        let json = serde_json::from_slice(bytes);
        json.map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))
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
        let slow = |_| ApiError::new(ErrorKind::BodyTimeout, "the body did not arrive in time");
        tokio::time::timeout(BODY_TIME, Self::read(body, bodies)).await.map_err(slow)?
    }

    /// Memory is taken as bytes come, so that a client which announces a long body and sends nothing
    /// takes none.
    async fn read(body: Body, bodies: &Bodies) -> Result<Self, ApiError> {
        let (mut bytes, mut room) = (Vec::new(), None);
        let mut stream = body.into_data_stream();
        while let Some(part) = stream.next().await {
            let cut_off = |error| ApiError::invalid(format!("the body is cut off: {error}"));
            let part = part.map_err(cut_off)?;
            if bytes.len() + part.len() > MAX_BODY {
                return Err(too_long());
            }
            bodies.room(&mut room, bytes.len() + part.len()).await;
            bytes.extend_from_slice(&part);
        }
        Ok(Self { bytes, _room: room })
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

    #[tokio::test]
    async fn bodies_wait_for_room_and_give_it_back() {
        let bodies = Bodies::default();
        let receive = |length: usize| {
            let request = Request::builder().header(CONTENT_TYPE, "application/json");
            // Without a Content-Length.
            let body = Body::from_stream(futures_util::stream::iter(
                (0..length / UNIT).map(|_| Ok::<_, std::io::Error>(vec![b' '; UNIT])),
            ));
            JsonBody::receive(request.body(body).unwrap(), &bodies)
        };
        let mut held = Vec::new();
        for _ in 0..MAX_BODIES / MAX_BODY {
            held.push(receive(MAX_BODY).await.unwrap());
        }
        let mut waiting = std::pin::pin!(receive(UNIT));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        held.pop();
        assert!(waiting.await.is_ok());
    }
}
