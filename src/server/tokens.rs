//! `POST /tokenize` and `POST /detokenize`, as llama.cpp's server has them.

use std::sync::Arc;

use axum::extract::State;
use axum::Json;
use serde_json::{json, Value};

use super::app::App;
use super::body::JsonBody;
use super::completions::{ids, special};
use super::error::ApiError;
use super::fields::{wrong, Fields};
use crate::tokenizer::ControlPieces;

/// The ids of a text.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    app.prepare(body, ids_of).await.map(Json)
}

fn ids_of(app: &App, fields: &Fields) -> Result<Value, ApiError> {
    let text = match fields.text("content")? {
        Some(text) => text,
        None => fields.text("prompt")?.ok_or_else(|| wrong("content", "a string"))?,
    };
    let special = special(fields)?;
    let ids = match fields.flag("add_special")? {
        true => app.tokenizer.encode_with_bos(text, special),
        false => app.tokenizer.encode(text, special),
    };
    if !fields.flag("with_pieces")? {
        return Ok(json!({"tokens": ids}));
    }
    // What is no text by itself is given in bytes.
    let piece = |id: &u32| {
        let bytes = app.tokenizer.piece_bytes(*id, ControlPieces::Show);
        let piece = String::from_utf8(bytes).map_or_else(|e| json!(e.into_bytes()), Value::from);
        json!({"id": id, "piece": piece})
    };
    Ok(json!({"tokens": ids.iter().map(piece).collect::<Vec<_>>()}))
}

/// The text of ids, control tokens spelt out.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    app.prepare(body, text_of).await.map(Json)
}

fn text_of(app: &App, fields: &Fields) -> Result<Value, ApiError> {
    let tokens = fields.array("tokens")?.and_then(ids);
    let tokens = tokens.ok_or_else(|| wrong("tokens", "a list of token ids"))?;
    let n_vocab = app.tokenizer.vocab().pieces.len();
    if let Some(id) = tokens.iter().find(|id| **id as usize >= n_vocab) {
        let message = format!("token id {id} is outside the vocabulary of {n_vocab}");
        return Err(ApiError::field("tokens", message));
    }
    Ok(json!({"content": app.tokenizer.decode(&tokens, ControlPieces::Show)}))
}
