//! The page for people, from within the binary.

use axum::http::header::{
    HeaderName, HeaderValue, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// Nothing but what is below, and no server but this one.
const POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A file of the page: its path, what it is, and its text.
pub type File = (&'static str, &'static str, &'static str);

/// All of them.
pub const FILES: [File; 0] = [];

/// The file at a path.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|(known, ..)| *known == path)
}

/// Serves one of them.
pub async fn serve(uri: Uri) -> Result<Response, ApiError> {
    let (_, content_type, text) = file(uri.path()).ok_or_else(super::not_found)?;
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // Another version of the program has another page.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, *text).into_response())
}
