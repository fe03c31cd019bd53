//! The seam between transport and the dialects.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::Router;
use serde_json::Value;

use super::app::App;
use super::error::ApiError;

/// An API that clients speak: what transport has to know of it.
pub struct Dialect {
    /// Its paths, each with all paths below it: `/v1/messages` is also `/v1/messages/batches`. The
    /// default dialect needs none.
    pub paths: &'static [&'static str],
    /// Its handlers by path.
    pub routes: fn() -> Router<Arc<App>>,
    /// The API key that a request shows.
    pub key: fn(&HeaderMap) -> Option<&[u8]>,
    /// The body of an error response. Its status is HTTP's.
    pub error: fn(&ApiError) -> Value,
}

impl Dialect {
    /// The dialect of a path. The first one is the default.
    ///
    /// # Panics
    /// If there are no dialects.
    pub fn of_path(dialects: &'static [Self], path: &str) -> &'static Self {
        let has = |dialect: &&Self| dialect.paths.iter().any(|own| is_below(path, own));
        dialects.iter().find(has).unwrap_or(&dialects[0])
    }
}

/// Whether `path` is `own` or below it.
fn is_below(path: &str, own: &str) -> bool {
    path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_whole_segments() {
        for path in ["/v1/messages", "/v1/messages/", "/v1/messages/batches"] {
            assert!(is_below(path, "/v1/messages"), "{path}");
        }
        for path in ["/v1", "/v1/messages2", "/x/v1/messages", "v1/messages", ""] {
            assert!(!is_below(path, "/v1/messages"), "{path}");
        }
    }
}
