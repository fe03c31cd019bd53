//! An HTTP server in front of an engine. It speaks OpenAI's API, those parts of llama.cpp's server that its
//! clients use, and Ollama's API: <https://platform.openai.com/docs/api-reference>,
//! <https://github.com/ggml-org/llama.cpp/tree/master/tools/server>,
//! <https://github.com/ollama/ollama/blob/main/docs/api.md>.
//!
//! - `http` is transport: connections, who may ask, bodies, the fields of their JSON, the chat page.
//! - `generation` is what all dialects share: prompts go to the engine's queue, answers come back whole
//!   or as a stream, and what they took is counted.
//! - A dialect is a folder of its own, such as `openai`, and a row in `DIALECTS`. It reads requests, and
//!   words the answers and the errors.
//!
//! A request passes `http::guard` (host and key) and `http::body` (its JSON). A handler of its dialect
//! makes a `Generation` of it, which makes the response with the dialect's `Wording`. An error on the way
//! is an `ApiError`, which `http::router` gives its words at last. Nothing in a request names a file.

mod generation;
mod http;
mod limits;
mod llama_cpp;
mod ollama;
mod openai;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::http::HeaderValue;
use axum::{middleware, Router};

pub use http::app::{App, Defaults, Encode, ModelCard, TemplateError};
pub use http::connections::serve;
pub use http::guard::{ApiKey, Rules};
pub use http::log::{Entry, Log};
pub use limits::REQUESTS;

use http::dialect::Dialect;

/// The dialects that the server speaks. The first also words the errors of paths that are no dialect's.
static DIALECTS: [Dialect; 3] = [openai::DIALECT, llama_cpp::DIALECT, ollama::DIALECT];

/// All paths of the server. Pages of the `origins` may use it from a browser, and `log` is told of every
/// request.
pub fn router(app: Arc<App>, rules: Rules, origins: Vec<HeaderValue>, log: Option<Log>) -> Router {
    let router = http::router::router(app, rules, origins, &DIALECTS);
    match log {
        Some(log) => router.layer(middleware::from_fn_with_state(log, http::log::log)),
        None => router,
    }
}
