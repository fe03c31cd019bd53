//! Server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use serde_json::Value;

/// The content type of a stream of events.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// A comment, which clients ignore.
pub const KEEP_ALIVE: &str = ":\n\n";

/// An event without a name. `data` has no line feeds.
pub fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// An event with JSON, which is written without line feeds.
pub fn json_event(data: &Value) -> String {
    event(&data.to_string())
}
