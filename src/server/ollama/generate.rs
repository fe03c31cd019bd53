//! `POST /api/generate`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::params;
use super::wording::{loaded, Kind, OllamaWording};
use crate::chat::{Role, Turn};
use crate::server::generation::Generation;
use crate::server::http::app::App;
use crate::server::http::body::JsonBody;
use crate::server::http::error::ApiError;
use crate::server::http::fields::Fields;
use crate::tokenizer::Special;

/// Answers a message, or continues a text if `raw` is true. An empty prompt asks for the model to be
/// loaded, which it is.
pub async fn generate(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    match Arc::clone(&app).prepare(body, prepare).await? {
        Some(generation) => generation.respond().await,
        None => Ok(loaded(&app, Kind::Generate)),
    }
}

fn prepare(app: &App, fields: &Fields) -> Result<Option<Generation<OllamaWording>>, ApiError> {
    let text = fields.text("prompt")?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let (options, stream) = params::read(app, fields)?;
    let system = fields.text("system")?.filter(|system| !system.is_empty());
    let prompt = match fields.flag("raw")? {
        true if system.is_some() => {
            return Err(ApiError::field("system", "system is for prompts that are not raw"));
        }
        true => app.tokenizer.encode_with_bos(text, Special::Trusted),
        false => {
            let system = system.or(app.defaults.system.as_deref());
            let system = system.map(|system| Turn::new(Role::System, system));
            let turns: Vec<_> = system.into_iter().chain([Turn::new(Role::User, text)]).collect();
            (app.encode)(&turns).map_err(|error| ApiError::field("prompt", error.0))?
        }
    };
    let wording = OllamaWording::new(app, Kind::Generate);
    Generation::submit(app, &[prompt], &options, stream, wording).map(Some)
}
