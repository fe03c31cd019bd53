//! What all handlers work with.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequest, Request};
use tokio::sync::Semaphore;

use super::body::{Bodies, JsonBody};
use super::error::ApiError;
use super::fields::Fields;
use crate::chat::Turn;
use crate::engine::Handle;
use crate::grammar::Grammars;
use crate::sampling::{ConstraintError, SamplerConfig};
use crate::server::limits::MAX_PREPARING;
use crate::tokenizer::Tokenizer;

/// The chat template does not take a conversation, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

/// Makes a prompt of a conversation.
pub type Encode = Arc<dyn Fn(&[Turn]) -> Result<Vec<u32>, TemplateError> + Send + Sync>;

/// What goes for requests that do not say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// How tokens are picked.
    pub sampling: SamplerConfig,
    /// What the model is told before a conversation that has no system message.
    pub system: Option<String>,
}

/// What clients are told of the model.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// Its name.
    pub name: String,
    /// Positions that it was trained for.
    pub n_ctx_train: usize,
    /// Values of a token between layers.
    pub n_embd: usize,
    /// Bytes of its file.
    pub size: u64,
    /// GGUF's name of its architecture.
    pub architecture: &'static str,
    /// Number of its weights.
    pub parameters: u64,
    /// What its file calls the types of its tensors, such as Q4_K_M.
    pub file_type: String,
}

/// What handlers work with.
pub struct App {
    /// The way into the engine.
    pub handle: Handle,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub encode: Encode,
    /// The model.
    pub model: ModelCard,
    /// What goes for requests that do not say otherwise.
    pub defaults: Defaults,
    /// When the server began, in seconds since 1970.
    pub created: u64,
    /// Memory for bodies.
    pub bodies: Bodies,
    /// The tokens that end the model's answers.
    stop_ids: Vec<u32>,
    /// Made by the first call of [`grammars`](Self::grammars).
    grammars: OnceLock<Result<Grammars, ConstraintError>>,
    preparing: Arc<Semaphore>,
}

impl App {
    /// For a server that begins now.
    pub fn new(
        handle: Handle,
        tokenizer: Arc<Tokenizer>,
        stop_ids: Vec<u32>,
        encode: Encode,
        model: ModelCard,
        defaults: Defaults,
    ) -> Self {
        let preparing = Arc::new(Semaphore::new(MAX_PREPARING));
        Self {
            handle,
            tokenizer,
            encode,
            model,
            defaults,
            created: unix_time(),
            bodies: Bodies::default(),
            stop_ids,
            grammars: OnceLock::new(),
            preparing,
        }
    }

    /// Reads a request, from its JSON to its tokens: on a thread where that holds up no other request,
    /// and only a few requests at a time.
    pub async fn prepare<T: Send + 'static>(
        self: Arc<Self>,
        body: JsonBody,
        read: impl FnOnce(&App, &Fields) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // The semaphore is never closed. A client that goes away while it waits leaves no work behind.
        let permit = Arc::clone(&self.preparing).acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let json = body.parse()?;
            let prepared = read(&self, &Fields::of(&json)?);
            drop(permit);
            prepared
        });
        task.await.map_err(|_| ApiError::fault())?
    }

    /// What holds answers to JSON. The first call takes seconds, and others wait for it.
    pub fn grammars(&self) -> Result<&Grammars, ConstraintError> {
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer, &self.stop_ids));
        grammars.as_ref().map_err(Clone::clone)
    }
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        Self::receive(request, &app.bodies).await
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
