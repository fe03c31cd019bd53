//! All paths of the server, put together from the dialects and what is common to them.

use std::any::Any;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{middleware, Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};

use super::app::App;
use super::dialect::Dialect;
use super::error::{ApiError, ErrorKind};
use super::guard::{self, Guard, Rules};
use super::{page, status};

/// The server's paths. Pages of the `origins` may use it from a browser.
pub fn router(
    app: Arc<App>,
    rules: Rules,
    origins: Vec<HeaderValue>,
    dialects: &'static [Dialect],
) -> Router {
    let mut router =
        Router::new().route("/health", get(status::health)).route("/metrics", get(status::metrics));
    for (path, ..) in page::FILES {
        router = router.route(path, get(page::serve));
    }
    for dialect in dialects {
        router = router.merge((dialect.routes)());
    }
    let guard = Arc::new(Guard { rules, dialects });
    let mut router = router
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorKind::MethodNotAllowed, "this path has other methods")
        })
        .with_state(app)
        .layer(middleware::from_fn_with_state(Arc::clone(&guard), guard::key));
    if !origins.is_empty() {
        router = router.layer(cors(origins));
    }
    worded(router.layer(middleware::from_fn_with_state(guard, guard::host)), dialects)
}

/// Pages of the `origins` may send any headers: clients have many of their own, such as the
/// `x-stainless-…` of OpenAI's, and the server reads none that a page should not send.
fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
}

/// Gives errors their words, a handler's panic included, which nobody but its client notices.
pub fn worded(router: Router, dialects: &'static [Dialect]) -> Router {
    let panicked = |_: Box<dyn Any + Send>| -> Response { ApiError::fault().into_response() };
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(dialects, word_errors))
}

/// Writes the bodies of error responses, in the dialect of their paths.
async fn word_errors(
    State(dialects): State<&'static [Dialect]>,
    request: Request,
    next: Next,
) -> Response {
    let dialect = Dialect::of_path(dialects, request.uri().path());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let (mut head, _) = response.into_parts();
    // That of the body that was empty.
    head.headers.remove(CONTENT_LENGTH);
    (head, Json((dialect.error)(&error))).into_response()
}
