//! Errors as OpenAI's clients read them:
//! <https://platform.openai.com/docs/guides/error-codes/api-errors>.

use serde_json::{json, Value};

use crate::server::http::error::{ApiError, ErrorKind};

/// The body of a response, or an event of a stream.
pub fn body(error: &ApiError) -> Value {
    let message = match error.kind {
        ErrorKind::InvalidKey => {
            "the Authorization header has to be Bearer and a key that this server knows"
        }
        _ => &error.message,
    };
    let param = error.field.as_deref().or(match error.kind {
        ErrorKind::TooManyAnswers => Some("n"),
        _ => None,
    });
    json!({"error": {
        "message": message,
        "type": kind(error.kind),
        "param": param,
        "code": code(error.kind),
    }})
}

/// OpenAI's name for errors of a kind.
fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::QueueFull => "rate_limit_error",
        kind if kind.status().is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

fn code(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Unsupported => Some("unsupported_parameter"),
        ErrorKind::PromptTooLong => Some("context_length_exceeded"),
        ErrorKind::InvalidKey => Some("invalid_api_key"),
        ErrorKind::InvalidHost => Some("invalid_host"),
        ErrorKind::NotFound => Some("not_found"),
        ErrorKind::ModelNotFound => Some("model_not_found"),
        ErrorKind::QueueFull => Some("queue_full"),
        ErrorKind::ModelFailed => Some("model_failed"),
        ErrorKind::FormatFailed => Some("format_failed"),
        ErrorKind::ShuttingDown => Some("shutting_down"),
        ErrorKind::Invalid
        | ErrorKind::InvalidFormat
        | ErrorKind::TooManyAnswers
        | ErrorKind::MethodNotAllowed
        | ErrorKind::BodyTimeout
        | ErrorKind::BodyTooLong
        | ErrorKind::NotJson
        | ErrorKind::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineError, SubmitError};

    #[test]
    fn an_error_has_the_shape_that_clients_read() {
        let expected = json!({"error": {
            "message": "it is empty", "type": "invalid_request_error", "param": "stop[3]", "code": null,
        }});
        assert_eq!(body(&ApiError::field("stop[3]", "it is empty")), expected);
    }

    #[test]
    fn what_the_engine_refuses_has_a_status_and_words_of_its_own() {
        let submit = [
            (SubmitError::Full { waiting: 3 }, 429, "rate_limit_error", None, Some("queue_full")),
            (SubmitError::TooMany { choices: 9, most: 8 }, 400, REQUEST, Some("n"), None),
            (SubmitError::NoTokens, 400, REQUEST, None, None),
            (
                SubmitError::TooLong { tokens: 9, n_ctx: 8 },
                400,
                REQUEST,
                None,
                Some("context_length_exceeded"),
            ),
            (SubmitError::Token { id: 9, n_vocab: 8 }, 400, REQUEST, None, None),
            (SubmitError::Closed, 503, "server_error", None, Some("shutting_down")),
        ];
        let engine = [
            (EngineError::Model("NaN".into()), 500, "server_error", None, Some("model_failed")),
            (EngineError::Constraint("x".into()), 500, "server_error", None, Some("format_failed")),
        ];
        let submit = submit.map(|(error, a, b, c, d)| (ApiError::from(error), a, b, c, d));
        let engine = engine.map(|(error, a, b, c, d)| (ApiError::from(error), a, b, c, d));
        for (error, status, kind, param, code) in submit.into_iter().chain(engine) {
            let said = body(&error)["error"].clone();
            assert_eq!(error.kind.status().as_u16(), status, "{error:?}");
            let expected =
                json!({"message": error.message, "type": kind, "param": param, "code": code});
            assert_eq!(said, expected);
        }
    }

    const REQUEST: &str = "invalid_request_error";
}
