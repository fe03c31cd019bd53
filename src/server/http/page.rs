//! The chat page, whose files are part of the binary.

use axum::http::header::{
    HeaderName, HeaderValue, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// The page loads nothing but its own files, and talks to no other server.
const POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A file of the page: its path, what it is, and its text.
pub type File = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All files of the page.
pub const FILES: [File; 19] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/answer.js", SCRIPT, include_str!("page/answer.js")),
    ("/blocks.js", SCRIPT, include_str!("page/blocks.js")),
    ("/chat.js", SCRIPT, include_str!("page/chat.js")),
    ("/clipboard.js", SCRIPT, include_str!("page/clipboard.js")),
    ("/dialogs.js", SCRIPT, include_str!("page/dialogs.js")),
    ("/follow.js", SCRIPT, include_str!("page/follow.js")),
    ("/icons.js", SCRIPT, include_str!("page/icons.js")),
    ("/inline.js", SCRIPT, include_str!("page/inline.js")),
    ("/markdown.js", SCRIPT, include_str!("page/markdown.js")),
    ("/prose.css", CSS, include_str!("page/prose.css")),
    ("/settings.js", SCRIPT, include_str!("page/settings.js")),
    ("/sidebar.js", SCRIPT, include_str!("page/sidebar.js")),
    ("/storage.js", SCRIPT, include_str!("page/storage.js")),
    ("/store.js", SCRIPT, include_str!("page/store.js")),
    ("/stream.js", SCRIPT, include_str!("page/stream.js")),
    ("/style.css", CSS, include_str!("page/style.css")),
    ("/theme.js", SCRIPT, include_str!("page/theme.js")),
    ("/transcript.js", SCRIPT, include_str!("page/transcript.js")),
];

/// The file at a path.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|(known, ..)| *known == path)
}

/// Serves the file at a path.
pub async fn serve(uri: Uri) -> Result<Response, ApiError> {
    let (_, content_type, text) = file(uri.path()).ok_or_else(ApiError::not_found)?;
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // The page may change with the next version of the program.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, *text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/http/page");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| format!("/{}", entry.unwrap().file_name().to_str().unwrap()))
            .map(|path| if path == "/index.html" { "/".to_owned() } else { path })
            .collect();
        there.sort();
        let mut served = FILES.map(|(path, ..)| path);
        served.sort_unstable();
        assert_eq!(there, served);
    }
}
