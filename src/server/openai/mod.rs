//! OpenAI's API: <https://platform.openai.com/docs/api-reference>. Requests may have llama.cpp's fields
//! besides, such as `ignore_eos` and `top_k`, and answers have its `timings`.

pub mod answer_format;
pub mod chat;
mod completions;
mod error;
mod logprobs;
mod models;
pub mod params;
pub mod unsupported;
mod usage;
mod wording;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::Router;

use crate::server::http::app::App;
use crate::server::http::dialect::Dialect;
use crate::server::http::guard::bearer;

/// This dialect. It is the default, and needs no paths of its own.
pub const DIALECT: Dialect = Dialect { paths: &[], routes, key: bearer, error: error::body };

fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/models", get(models::models))
        .route("/models", get(models::models))
        .route("/v1/models/{*name}", get(models::model))
}
