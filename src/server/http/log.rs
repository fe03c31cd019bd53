//! Tells the program of each request that was answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

/// A request, and what came of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its method.
    pub method: Method,
    /// Its path, as the client wrote it.
    pub path: String,
    /// The status of the response.
    pub status: StatusCode,
    /// How long it took until the response began.
    pub time: Duration,
}

/// What is called with each.
pub type Log = Arc<dyn Fn(&Entry) + Send + Sync>;

/// Calls the log after a response has begun.
pub async fn log(State(log): State<Log>, request: Request, next: Next) -> Response {
    let (start, method) = (Instant::now(), request.method().clone());
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    log(&Entry { method, path, status: response.status(), time: start.elapsed() });
    response
}
