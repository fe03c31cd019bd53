//! What llama.cpp's server has besides OpenAI's API:
//! <https://github.com/ggml-org/llama.cpp/tree/master/tools/server>. Its errors and keys are OpenAI's.

mod tokens;

use std::sync::Arc;

use axum::routing::post;
use axum::Router;

use super::openai;
use crate::server::http::app::App;
use crate::server::http::dialect::Dialect;

/// This dialect.
pub const DIALECT: Dialect =
    Dialect { paths: &["/tokenize", "/detokenize"], routes, ..openai::DIALECT };

fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
}
