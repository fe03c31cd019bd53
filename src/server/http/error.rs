//! Why a request is not answered. How a client is told is up to its dialect.

use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::engine::{EngineError, SubmitError};
use crate::server::limits::RETRY_SECONDS;

/// A request that is not answered, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// An explanation for people.
    pub message: String,
    /// The field of the request that is wrong.
    pub field: Option<String>,
}

/// The kinds of errors that programs may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// It asks for a part of the API that this server does not have.
    Unsupported,
    /// It asks for a format that an answer cannot be held to.
    InvalidFormat,
    /// It asks for more answers at once than the queue could ever take.
    TooManyAnswers,
    /// The prompt is longer than the context.
    PromptTooLong,
    /// It shows no key that the server knows.
    InvalidKey,
    /// It calls the server by a name that is not its own.
    InvalidHost,
    /// There is nothing at its path.
    NotFound,
    /// There is no model of that name.
    ModelNotFound,
    /// Its path takes other methods.
    MethodNotAllowed,
    /// Its body did not arrive in time.
    BodyTimeout,
    /// Its body is too long.
    BodyTooLong,
    /// Its body does not say that it is JSON.
    NotJson,
    /// Too many requests wait already.
    QueueFull,
    /// The model computed something that is not a number.
    ModelFailed,
    /// No token fits the format that was asked for.
    FormatFailed,
    /// Any other fault of the server.
    Internal,
    /// The server is about to end.
    ShuttingDown,
}

impl ErrorKind {
    /// The status of a response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid
            | Self::Unsupported
            | Self::InvalidFormat
            | Self::TooManyAnswers
            | Self::PromptTooLong => StatusCode::BAD_REQUEST,
            Self::InvalidKey => StatusCode::UNAUTHORIZED,
            Self::InvalidHost => StatusCode::FORBIDDEN,
            Self::NotFound | Self::ModelNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            Self::ModelFailed | Self::FormatFailed | Self::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl ApiError {
    /// An error that is not about one field.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None }
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A field that makes no sense.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::invalid(message) }
    }

    /// A field that asks for a part of the API that this server does not have.
    pub fn unsupported(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unsupported, ..Self::field(field, message) }
    }

    /// There is nothing at a path.
    pub fn not_found() -> Self {
        Self::new(ErrorKind::NotFound, "there is nothing at this path")
    }

    /// A fault of the server that nobody foresaw.
    pub fn fault() -> Self {
        Self::internal("the request ended in a fault of the server")
    }

    /// A fault of the server.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The server is about to end.
    pub fn shutting_down() -> Self {
        Self::new(ErrorKind::ShuttingDown, "the server is shutting down")
    }
}

impl IntoResponse for ApiError {
    /// A response without a body, which `router::word_errors` writes.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        let headers = response.headers_mut();
        match self.kind {
            ErrorKind::QueueFull => {
                headers.insert(RETRY_AFTER, RETRY_SECONDS.into());
            }
            ErrorKind::InvalidKey => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let kind = match error {
            SubmitError::Full { .. } => ErrorKind::QueueFull,
            SubmitError::TooMany { .. } => ErrorKind::TooManyAnswers,
            SubmitError::TooLong { .. } => ErrorKind::PromptTooLong,
            SubmitError::NoTokens | SubmitError::Token { .. } => ErrorKind::Invalid,
            SubmitError::Closed => ErrorKind::ShuttingDown,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let kind = match error {
            EngineError::Model(_) => ErrorKind::ModelFailed,
            EngineError::Constraint(_) => ErrorKind::FormatFailed,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_tells_clients_what_to_do_next() {
        let response = ApiError::from(SubmitError::Full { waiting: 3 }).into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        let response = ApiError::new(ErrorKind::InvalidKey, "no key").into_response();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
}
