//! `GET /v1/models`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::Json;
use serde_json::{json, Value};

use crate::server::http::app::App;
use crate::server::http::error::{ApiError, ErrorKind};

/// A list of the one model.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [model_json(&app)]}))
}

/// The model, by its name.
pub async fn model(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if name != app.model.name {
        let error = ApiError::field("model", "there is no model of that name");
        return Err(ApiError { kind: ErrorKind::ModelNotFound, ..error });
    }
    Ok(Json(model_json(&app)))
}

fn model_json(app: &App) -> Value {
    let model = &app.model;
    json!({
        "id": model.name,
        "object": "model",
        "created": app.created,
        "owned_by": "lapidary",
        "meta": {
            "n_vocab": app.handle.n_vocab(),
            "n_ctx": app.handle.n_ctx(),
            "n_ctx_train": model.n_ctx_train,
            "n_embd": model.n_embd,
            "size": model.size,
        },
    })
}
