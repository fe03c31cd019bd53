//! Ollama's API, as far as it is about one model that is there:
//! <https://github.com/ollama/ollama/blob/main/docs/api.md>. A request's `model` may be any name.

mod chat;
mod generate;
mod models;
mod params;
mod wording;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::Router;
use serde_json::json;

use crate::server::http::app::App;
use crate::server::http::dialect::Dialect;
use crate::server::http::guard::bearer;

/// This dialect.
pub const DIALECT: Dialect = Dialect {
    paths: &["/api"],
    routes,
    key: bearer,
    error: |error| json!({"error": error.message}),
};

fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/chat", post(chat::chat))
        .route("/api/generate", post(generate::generate))
        .route("/api/tags", get(models::tags))
        .route("/api/ps", get(models::running))
        .route("/api/show", post(models::show))
        .route("/api/version", get(models::version))
}
