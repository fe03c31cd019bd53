//! What all requests have in common.

use std::sync::{Arc, OnceLock};

use axum::extract::{FromRequest, Request};
use tokio::sync::Semaphore;

use super::body::{Bodies, JsonBody};
use super::error::ApiError;
use super::fields::Fields;
use super::format::{Format, FIELD};
use crate::chat::Turn;
use crate::engine::{Handle, Status, SubmitError};
use crate::grammar::Grammars;
use crate::sampling::{Constraint, ConstraintError};
use crate::tokenizer::Tokenizer;

/// Requests that are read at a time. JSON takes many times its length in memory, and a stranger's chat
/// template a gigabyte and five seconds.
const PREPARING: usize = 4;

/// A conversation that the chat template does not take, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

/// Makes a prompt of a conversation.
pub type Encode = Arc<dyn Fn(&[Turn]) -> Result<Vec<u32>, TemplateError> + Send + Sync>;

/// The model as the API shows it.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// What it is called.
    pub name: String,
    /// Positions that it was trained for.
    pub n_ctx_train: usize,
    /// Values of a token between layers.
    pub n_embd: usize,
    /// Bytes of its file.
    pub size: u64,
}

/// What handlers work with.
pub struct App {
    /// The engine.
    pub handle: Handle,
    /// The model's.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub encode: Encode,
    /// Itself.
    pub model: ModelCard,
    /// When the server began, in seconds since 1970.
    pub created: u64,
    /// Room for their bodies.
    pub bodies: Bodies,
    /// What ends the model's answers.
    stop_ids: Vec<u32>,
    /// Made when they are first asked for, as few servers need them.
    grammars: OnceLock<Result<Grammars, ConstraintError>>,
    preparing: Arc<Semaphore>,
}

impl App {
    /// What handlers of a server that begins now work with.
    pub fn new(
        handle: Handle,
        tokenizer: Arc<Tokenizer>,
        stop_ids: Vec<u32>,
        encode: Encode,
        model: ModelCard,
    ) -> Self {
        let created = super::answer::unix_time();
        let preparing = Arc::new(Semaphore::new(PREPARING));
        Self {
            handle,
            tokenizer,
            encode,
            model,
            created,
            bodies: Bodies::default(),
            stop_ids,
            grammars: OnceLock::new(),
            preparing,
        }
    }

    /// Reads a request where it holds up no other, a few at a time: all of it, from JSON to tokens.
    pub async fn prepare<T: Send + 'static>(
        self: Arc<Self>,
        body: JsonBody,
        read: impl FnOnce(&App, &Fields) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // Never closed. A client that goes away while it waits leaves no work behind.
        let permit = Arc::clone(&self.preparing).acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let json = body.parse()?;
            let prepared = read(&self, &Fields::of(&json)?);
            drop(permit);
            prepared
        });
        let fault = |_| ApiError::internal("the request ended in a fault of the server");
        task.await.map_err(fault)?
    }

    /// What keeps an answer to its format. It may take seconds.
    pub fn constraint(&self, format: &Format) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        if *format == Format::Text {
            return Ok(None);
        }
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer, &self.stop_ids));
        let constraint =
            grammars.as_ref().map_err(Clone::clone).and_then(|grammars| match format {
                Format::JsonSchema(schema) => grammars.json_schema(schema),
                Format::JsonObject | Format::Text => grammars.json_object(),
            });
        constraint.map(Some).map_err(|error| ApiError::field(FIELD, error.0))
    }

    /// Whether so many answers can be asked for at once: before anything is made for each of them.
    pub fn check_answers(&self, choices: usize) -> Result<(), ApiError> {
        let Status { parallel, queue, .. } = self.handle.status();
        let most = parallel + queue;
        match choices > most {
            true => Err(SubmitError::TooMany { choices, most }.into()),
            false => Ok(()),
        }
    }

    /// Whether a prompt leaves room for an answer: before it is copied for each of its choices.
    pub fn check_length(&self, prompt: &[u32]) -> Result<(), ApiError> {
        let (tokens, n_ctx) = (prompt.len(), self.handle.n_ctx());
        match tokens > n_ctx {
            true => Err(SubmitError::TooLong { tokens, n_ctx }.into()),
            false => Ok(()),
        }
    }
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        Self::receive(request, &app.bodies).await
    }
}
