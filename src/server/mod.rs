//! An HTTP server with OpenAI's API before an engine, and what of llama.cpp's server its clients use:
//! <https://platform.openai.com/docs/api-reference>,
//! <https://github.com/ggml-org/llama.cpp/tree/master/tools/server>.
//!
//! A request goes through `guard` (who may ask), `body` (its JSON, within bounds), `chat` or
//! `completions` with `fields` and `params` (what is asked), and to the engine; what comes back is
//! sent by `answer`, worded by a `Shape`. Nothing in a request names a file.

mod answer;
mod app;
mod body;
mod chat;
mod completions;
mod connections;
mod error;
mod fields;
mod format;
mod guard;
mod logprobs;
mod page;
mod params;
mod status;
mod tally;
mod tokens;

use std::any::Any;
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{middleware, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;

pub use app::{App, Encode, ModelCard, TemplateError};
pub use connections::serve;
pub use error::ApiError;
pub use guard::{ApiKey, Rules};

/// The server's paths. Pages of the `origins` may use it from a browser.
pub fn router(app: Arc<App>, rules: Rules, origins: Vec<HeaderValue>) -> Router {
    let rules = Arc::new(rules);
    let mut router = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/models", get(status::models))
        .route("/models", get(status::models))
        .route("/v1/models/{*name}", get(status::model))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(status::health))
        .route("/metrics", get(status::metrics));
    for (path, ..) in page::FILES {
        router = router.route(path, get(page::serve));
    }
    let mut router = router
        .fallback(|| async { not_found() })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods")
        })
        .with_state(app)
        .layer(middleware::from_fn_with_state(Arc::clone(&rules), guard::key));
    if !origins.is_empty() {
        let cors = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([AUTHORIZATION, CONTENT_TYPE]);
        router = router.layer(cors);
    }
    guarded(router.layer(middleware::from_fn_with_state(rules, guard::host)))
}

/// Whatever goes wrong in a handler, its client is told, and nobody else notices.
fn guarded(router: Router) -> Router {
    router.layer(CatchPanicLayer::custom(|_: Box<dyn Any + Send>| -> Response {
        ApiError::internal("the request ended in a fault of the server").into_response()
    }))
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path").with_code("not_found")
}
