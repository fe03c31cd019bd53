//! Who may ask: the key, and the name that the server was called by.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use subtle::{Choice, ConstantTimeEq};

use super::error::ApiError;
use super::page;

/// The longest key, in bytes.
const MAX_KEY: usize = 512;

/// A key that clients have to show. All have one length in memory, so that a comparison takes the
/// same time whatever the keys are.
#[derive(Clone)]
pub struct ApiKey {
    padded: [u8; MAX_KEY],
    len: u64,
}

impl ApiKey {
    /// A key, unless it is empty, longer than 512 bytes, or cannot stand in a header.
    pub fn new(key: &str) -> Option<Self> {
        key.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Self::pad(key.as_bytes()))?
    }

    fn pad(key: &[u8]) -> Option<Self> {
        let mut padded = [0; MAX_KEY];
        padded.get_mut(..key.len()).filter(|_| !key.is_empty())?.copy_from_slice(key);
        Some(Self { padded, len: key.len() as u64 })
    }

    fn equals(&self, other: &Self) -> Choice {
        self.padded.ct_eq(&other.padded) & self.len.ct_eq(&other.len)
    }
}

/// What a request has to show.
#[derive(Default)]
pub struct Rules {
    /// The keys, one of which is shown; none if anybody may ask.
    pub keys: Vec<ApiKey>,
    /// The host that the server was told to listen on, where only this machine can reach it. It is not
    /// to be called by any other name then, for a page in a browser may make its own name mean this
    /// machine (<https://en.wikipedia.org/wiki/DNS_rebinding>).
    pub loopback: Option<String>,
}

impl Rules {
    fn knows(&self, headers: &HeaderMap) -> bool {
        if self.keys.is_empty() {
            return true;
        }
        let shown = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| ApiKey::pad(key.trim_ascii()))?
        });
        let Some(shown) = shown else { return false };
        // All of them, so that the time does not say which one it was.
        self.keys.iter().fold(Choice::from(0), |known, key| known | key.equals(&shown)).into()
    }

    fn is_called_right(&self, headers: &HeaderMap) -> bool {
        let Some(own) = &self.loopback else { return true };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
        authority.is_some_and(|authority| {
            let host = authority.host();
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            host.eq_ignore_ascii_case("localhost")
                || host.eq_ignore_ascii_case(own)
                || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        })
    }
}

/// Refuses requests to a name that is not this server's.
pub async fn host(
    State(rules): State<Arc<Rules>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !rules.is_called_right(request.headers()) {
        let message = "the Host header names another server than this one";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).with_code("invalid_host"));
    }
    Ok(next.run(request).await)
}

/// Refuses requests without a key, but for those that tell nothing: whether the server is there, and
/// the page, which asks its reader for the key.
pub async fn key(
    State(rules): State<Arc<Rules>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let is_open = path == "/health" || page::file(path).is_some();
    if !is_open && !rules.knows(request.headers()) {
        let message = "the Authorization header has to be Bearer and a key that this server knows";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key"));
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_key_is_shown_as_a_bearer_token() {
        let keys = ["secret", "other"].map(|key| ApiKey::new(key).unwrap()).to_vec();
        let rules = Rules { keys, loopback: None };
        let knows = |value: &str| rules.knows(&headers(AUTHORIZATION, value));
        assert!(knows("Bearer secret") && knows("bearer other") && knows("Bearer  secret"));
        let long = format!("Bearer {}", "secret".repeat(100));
        let wrong =
            ["secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret"];
        assert!(wrong.iter().chain([&long.as_str()]).all(|value| !knows(value)));
        assert!(!knows("Bearer secret\u{e9}") && !rules.knows(&HeaderMap::new()));
        assert!(Rules::default().knows(&HeaderMap::new()));
    }

    #[test]
    fn a_key_can_stand_in_a_header() {
        let longest = "x".repeat(MAX_KEY);
        assert!(ApiKey::new(&longest).is_some());
        for key in ["", "a b", "a\n", "é", &(longest + "x")] {
            assert!(ApiKey::new(key).is_none(), "{key}");
        }
    }

    #[test]
    fn a_server_for_this_machine_is_called_by_its_names_only() {
        let rules = Rules { keys: Vec::new(), loopback: Some("box.local".into()) };
        let right = |value: &str| rules.is_called_right(&headers(HOST, value));
        for host in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1",
            "127.8.9.10:80",
            "[::1]",
            "[::1]:8080",
            "box.local:8080",
        ] {
            assert!(right(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "192.168.0.1",
            "[::2]",
            "",
            "localhost, evil.example",
            "0.0.0.0",
        ] {
            assert!(!right(host), "{host}");
        }
        assert!(!rules.is_called_right(&HeaderMap::new()));
        assert!(Rules::default().is_called_right(&headers(HOST, "evil.example")));
    }
}
