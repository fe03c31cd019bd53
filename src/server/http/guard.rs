//! Who may use the server: the key that a request shows, and the name that it calls the server by.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use subtle::{Choice, ConstantTimeEq};

use super::dialect::Dialect;
use super::error::{ApiError, ErrorKind};
use super::page;
use crate::server::limits::MAX_KEY;

/// A key that clients have to show. All keys have the same length in memory, so that a comparison takes
/// the same time for all of them.
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
    /// The keys, one of which a request has to show. If there are none, anybody may use the server.
    pub keys: Vec<ApiKey>,
    /// The host that the server was told to listen on, if only this machine can reach it. A request may
    /// then call it by no other name, because a web page can make its own host name resolve to this
    /// machine (<https://en.wikipedia.org/wiki/DNS_rebinding>).
    pub loopback: Option<String>,
    /// Other names of the server. If there are any, or if only this machine can reach it, it has no others.
    pub hosts: Vec<String>,
}

/// What a container calls the machine that it runs on
/// (<https://docs.docker.com/desktop/features/networking/#i-want-to-connect-from-a-container-to-a-service-on-the-host>).
const OF_CONTAINERS: &str = "host.docker.internal";

impl Rules {
    fn allows_key(&self, shown: Option<&[u8]>) -> bool {
        if self.keys.is_empty() {
            return true;
        }
        let Some(shown) = shown.and_then(ApiKey::pad) else { return false };
        // All keys are compared, so that the time does not tell which one it was.
        self.keys.iter().fold(Choice::from(0), |known, key| known | key.equals(&shown)).into()
    }

    fn allows_host(&self, headers: &HeaderMap) -> bool {
        if self.loopback.is_none() && self.hosts.is_empty() {
            return true;
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
        authority.is_some_and(|authority| {
            let host = authority.host().to_ascii_lowercase();
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let mut own = self.loopback.iter().chain(&self.hosts);
            // Browsers and systems resolve these names to this machine, whatever a page's server says
            // (RFC 6761, 6.3).
            host == "localhost"
                || host.ends_with(".localhost")
                || host == OF_CONTAINERS
                || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
                || own.any(|own| bare.eq_ignore_ascii_case(own))
        })
    }
}

/// The key of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// Characters of a wrong name that an error shows.
const MAX_SHOWN: usize = 100;

/// What requests are checked against.
pub struct Guard {
    /// What they have to show.
    pub rules: Rules,
    /// The dialects, which know how a key is shown.
    pub dialects: &'static [Dialect],
}

/// Refuses requests that call the server by a name that is not its own.
pub async fn host(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !guard.rules.allows_host(request.headers()) {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let host: String = host.unwrap_or_default().chars().take(MAX_SHOWN).collect();
        let message = format!(
            "the Host header {host:?} is no name of this server; the option --allowed-host NAME of \
             `lapidary serve` makes it one"
        );
        return Err(ApiError::new(ErrorKind::InvalidHost, message));
    }
    Ok(next.run(request).await)
}

/// Refuses requests without a key, except those that reveal nothing: whether the server is there, and
/// the page, which asks its reader for the key.
pub async fn key(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let is_open = path == "/health" || page::file(path).is_some();
    let key = Dialect::of_path(guard.dialects, path).key;
    if !is_open && !guard.rules.allows_key(key(request.headers())) {
        let message = "the request has to show a key that this server knows";
        return Err(ApiError::new(ErrorKind::InvalidKey, message));
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
        let rules = Rules { keys, ..Rules::default() };
        let knows = |value: &str| rules.allows_key(bearer(&headers(AUTHORIZATION, value)));
        assert!(knows("Bearer secret") && knows("bearer other") && knows("Bearer  secret"));
        let long = format!("Bearer {}", "secret".repeat(100));
        let wrong =
            ["secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret"];
        assert!(wrong.iter().chain([&long.as_str()]).all(|value| !knows(value)));
        assert!(!knows("Bearer secret\u{e9}") && !rules.allows_key(bearer(&HeaderMap::new())));
        assert!(Rules::default().allows_key(None));
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
    fn a_server_for_this_machine_has_no_other_names() {
        let hosts = vec!["lapidary.example".to_owned()];
        let rules = Rules { keys: Vec::new(), loopback: Some("box.local".into()), hosts };
        let right = |value: &str| rules.allows_host(&headers(HOST, value));
        for host in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1",
            "127.8.9.10:80",
            "[::1]",
            "[::1]:8080",
            "box.local:8080",
            "chat.localhost",
            "host.docker.internal:8080",
            "Lapidary.example",
        ] {
            assert!(right(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "evillocalhost",
            "www.lapidary.example",
            "127.0.0.1.nip.io",
            "192.168.0.1",
            "[::2]",
            "",
            "localhost, evil.example",
            "0.0.0.0",
        ] {
            assert!(!right(host), "{host}");
        }
        assert!(!rules.allows_host(&HeaderMap::new()));
        let rules = Rules { loopback: None, ..rules };
        assert!(rules.allows_host(&headers(HOST, "lapidary.example")));
        assert!(!rules.allows_host(&headers(HOST, "evil.example")));
        assert!(Rules::default().allows_host(&headers(HOST, "evil.example")));
    }
}
