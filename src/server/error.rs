//! What a request is refused with, as OpenAI's clients read it.

use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};

use crate::engine::{EngineError, SubmitError};

/// After how many seconds a client may try again where too many wait.
const RETRY_SECONDS: u32 = 1;

/// A request that is not answered, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// What HTTP calls it.
    pub status: StatusCode,
    /// What a person reads.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// What a program reads.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// An error of some status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A request that makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field of a request that makes no sense.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad(message) }
    }

    /// A part of the API that this server has not.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::field(param, message).with_code("unsupported_parameter")
    }

    /// A fault of the server's own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The server is on its way to its end.
    pub fn shutting_down() -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
        error.with_code("shutting_down")
    }

    /// The same with a code for programs.
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// OpenAI's name for errors of this kind.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of a response, or an event of a stream.
    pub fn json(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, RETRY_SECONDS.into());
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Full { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full")
            }
            SubmitError::TooMany { .. } => Self::field("n", message),
            SubmitError::TooLong { .. } => Self::bad(message).with_code("context_length_exceeded"),
            SubmitError::NoTokens | SubmitError::Token { .. } => Self::bad(message),
            SubmitError::Closed => Self::shutting_down(),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let code = match error {
            EngineError::Model(_) => "model_failed",
            EngineError::Constraint(_) => "format_failed",
        };
        Self::internal(error.to_string()).with_code(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_shape_that_clients_read() {
        let error = ApiError::field("stop[3]", "it is empty");
        let expected = json!({"error": {
            "message": "it is empty", "type": "invalid_request_error", "param": "stop[3]", "code": null,
        }});
        assert_eq!(error.json(), expected);
        let response = error.into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/json");
    }

    #[test]
    fn what_the_engine_refuses_has_a_status_of_its_own() {
        let cases = [
            (SubmitError::Full { waiting: 3 }, 429, Some("queue_full")),
            (SubmitError::TooMany { choices: 9, most: 8 }, 400, None),
            (SubmitError::NoTokens, 400, None),
            (SubmitError::TooLong { tokens: 9, n_ctx: 8 }, 400, Some("context_length_exceeded")),
            (SubmitError::Token { id: 9, n_vocab: 8 }, 400, None),
            (SubmitError::Closed, 503, Some("shutting_down")),
        ];
        for (error, status, code) in cases {
            let error = ApiError::from(error);
            assert_eq!((error.status.as_u16(), error.code), (status, code), "{error:?}");
        }
        let response = ApiError::from(SubmitError::Full { waiting: 3 }).into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        let failed = ApiError::from(EngineError::Model("NaN".into()));
        assert_eq!(
            (failed.status.as_u16(), &failed.json()["error"]["type"]),
            (500, &json!("server_error"))
        );
    }
}
