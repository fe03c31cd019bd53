//! What there is: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`.

use std::sync::Arc;

use axum::extract::State;
use axum::Json;
use serde_json::{json, Value};

use crate::server::http::app::App;
use crate::server::http::body::JsonBody;
use crate::server::http::error::ApiError;

/// A list of the one model.
pub async fn tags(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"models": [entry(&app)]}))
}

/// The same: it is always loaded.
pub async fn running(State(app): State<Arc<App>>) -> Json<Value> {
    let mut model = entry(&app);
    model["size_vram"] = json!(0);
    model["context_length"] = json!(app.handle.n_ctx());
    Json(json!({"models": [model]}))
}

/// The model.
pub async fn show(State(app): State<Arc<App>>, body: JsonBody) -> Result<Json<Value>, ApiError> {
    Arc::clone(&app).prepare(body, |_, _| Ok(())).await?;
    let model = &app.model;
    let key = |name: &str| format!("{}.{name}", model.architecture);
    Ok(Json(json!({
        "details": details(&app),
        "model_info": {
            "general.architecture": model.architecture,
            "general.parameter_count": model.parameters,
            key("context_length"): model.n_ctx_train,
            key("embedding_length"): model.n_embd,
        },
        "capabilities": ["completion"],
    })))
}

/// The version of this program.
pub async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

fn entry(app: &App) -> Value {
    let model = &app.model;
    json!({"name": model.name, "model": model.name, "size": model.size, "details": details(app)})
}

fn details(app: &App) -> Value {
    let model = &app.model;
    json!({
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": format!("{:.1}B", model.parameters as f64 / 1e9),
        "quantization_level": model.file_type,
    })
}
