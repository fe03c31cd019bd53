//! `POST /tokenize` and `POST /detokenize`, as llama.cpp's server has them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::ser::{Serialize, Serializer};
use serde_json::json;

use crate::server::http::app::App;
use crate::server::http::body::JsonBody;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{token_ids, wrong, Fields};
use crate::server::openai::params::special;
use crate::tokenizer::{ControlPieces, Tokenizer};

/// JSON as text. There may be millions of tokens, and a `Value` takes a hundred times the memory.
struct Written(Vec<u8>);

impl Written {
    fn new(json: &impl Serialize) -> Result<Self, ApiError> {
        let bytes = serde_json::to_vec(json);
        bytes.map(Self).map_err(|error| ApiError::internal(error.to_string()))
    }
}

impl IntoResponse for Written {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

/// The ids of a text.
pub async fn tokenize(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    app.prepare(body, ids_of).await.map(Written::into_response)
}

fn ids_of(app: &App, fields: &Fields) -> Result<Written, ApiError> {
    let text = match fields.text("content")? {
        Some(text) => text,
        None => fields.text("prompt")?.ok_or_else(|| wrong("content", "a string"))?,
    };
    let special = special(fields)?;
    let ids = match fields.flag("add_special")? {
        true => app.tokenizer.encode_with_bos(text, special),
        false => app.tokenizer.encode(text, special),
    };
    match fields.flag("with_pieces")? {
        true => Written::new(&Tokens { tokens: Pieces(&app.tokenizer, &ids) }),
        false => Written::new(&Tokens { tokens: &ids }),
    }
}

#[derive(serde::Serialize)]
struct Tokens<T> {
    tokens: T,
}

/// Ids with their texts. A token that is a part of a character has bytes instead.
struct Pieces<'a>(&'a Tokenizer, &'a [u32]);

#[derive(serde::Serialize)]
struct Piece {
    id: u32,
    piece: Text,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Text {
    Whole(String),
    Bytes(Vec<u8>),
}

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tokenizer, ids) = self;
        serializer.collect_seq(ids.iter().map(|id| {
            let bytes = tokenizer.piece_bytes(*id, ControlPieces::Show);
            let text = String::from_utf8(bytes);
            let piece = text.map_or_else(|e| Text::Bytes(e.into_bytes()), Text::Whole);
            Piece { id: *id, piece }
        }))
    }
}

/// The text of ids, control tokens included.
pub async fn detokenize(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    app.prepare(body, text_of).await.map(Written::into_response)
}

fn text_of(app: &App, fields: &Fields) -> Result<Written, ApiError> {
    let tokens = fields.array("tokens")?.and_then(token_ids);
    let tokens = tokens.ok_or_else(|| wrong("tokens", "a list of token ids"))?;
    let n_vocab = app.tokenizer.vocab().pieces.len();
    if let Some(id) = tokens.iter().find(|id| **id as usize >= n_vocab) {
        let message = format!("token id {id} is outside the vocabulary of {n_vocab}");
        return Err(ApiError::field("tokens", message));
    }
    Written::new(&json!({"content": app.tokenizer.decode(&tokens, ControlPieces::Show)}))
}
