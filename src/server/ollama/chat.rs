//! `POST /api/chat`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::params;
use super::wording::{loaded, Kind, OllamaWording};
use crate::server::generation::Generation;
use crate::server::http::app::App;
use crate::server::http::body::JsonBody;
use crate::server::http::error::ApiError;
use crate::server::http::fields::Fields;
use crate::server::openai::chat::prompt;

/// Answers a conversation. One without messages asks for the model to be loaded, which it is.
pub async fn chat(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    match Arc::clone(&app).prepare(body, prepare).await? {
        Some(generation) => generation.respond().await,
        None => Ok(loaded(&app, Kind::Chat)),
    }
}

fn prepare(app: &App, fields: &Fields) -> Result<Option<Generation<OllamaWording>>, ApiError> {
    let messages = fields.array("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Ok(None);
    }
    for (index, message) in messages.iter().enumerate() {
        params::refuse_in_message(&Fields::of_part(message, &format!("messages[{index}]"))?)?;
    }
    let (options, stream) = params::read(app, fields)?;
    let prompt = prompt(app, fields)?;
    let wording = OllamaWording::new(app, Kind::Chat);
    Generation::submit(app, &[prompt], &options, stream, wording).map(Some)
}
