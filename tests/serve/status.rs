//! What a server says of itself, and texts to tokens and back.

use serde_json::{json, Value};

use crate::running::Server;

#[test]
fn it_says_what_it_serves_and_how_busy_it_is() {
    let server = Server::start(&["--parallel", "3", "--queue", "7"]);
    let health = server.get("/health").json(200);
    let expected = json!({"status": "ok", "parallel": 3, "busy": 0, "waiting": 0, "queue": 7});
    assert_eq!(health, expected);
    let models = server.get("/v1/models").json(200);
    assert_eq!((&models["object"], models["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let model = &models["data"][0];
    assert_eq!((&model["object"], &model["owned_by"]), (&json!("model"), &json!("lapidary")));
    assert!(model["created"].as_u64().unwrap() > 1_700_000_000, "{model}");
    assert_eq!((&model["meta"]["n_ctx"], &model["meta"]["n_vocab"]), (&json!(1024), &json!(2048)));
    let name = model["id"].as_str().unwrap();
    assert_eq!(&server.get(&format!("/v1/models/{name}")).json(200), model);
    let error = server.get("/v1/models/gpt-4");
    error.error(404, Some("model"), Some("model_not_found"));
}

#[test]
fn a_model_is_called_what_it_is_told_to_be() {
    let server = Server::start(&["--alias", "google/gemma-2"]);
    assert_eq!(server.get("/v1/models").json(200)["data"][0]["id"], "google/gemma-2");
    assert_eq!(server.get("/v1/models/google/gemma-2").json(200)["id"], "google/gemma-2");
    let answer = server.complete(&json!({"model": "any", "prompt": "And", "max_tokens": 1}));
    assert_eq!(answer["model"], "google/gemma-2");
}

#[test]
fn what_it_has_done_is_counted() {
    let server = Server::start(&[]);
    let greedy = json!({"prompt": "And David said", "max_tokens": 5, "temperature": 0});
    let usage = server.complete(&greedy)["usage"].clone();
    let tokens = |name: &str| usage[name].as_f64().unwrap();
    assert_eq!(server.metric("lapidary_prompt_tokens_total"), tokens("prompt_tokens"));
    assert_eq!(server.metric("lapidary_generated_tokens_total"), tokens("completion_tokens"));
    assert_eq!(server.metric("lapidary_requests_total"), 1.0);
    assert_eq!(server.metric("lapidary_finished_length_total"), 1.0);
    assert_eq!(server.metric("lapidary_sequences"), 4.0);
    assert!(server.metric("lapidary_decode_seconds_total") > 0.0);
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(reply.text(200).ends_with("# EOF\n"));
}

#[test]
fn requests_are_logged_if_that_is_asked_for() {
    let server = Server::start(&["--log"]);
    server.get("/health").json(200);
    server.post("/v1/completions", &json!({"prompt": []})).error(400, Some("prompt"), None);
    server.get("/\u{1b}[31m");
    server.signal("TERM");
    let (_, said) = server.end();
    let lines: Vec<_> = said.lines().filter(|line| line.ends_with(" ms")).collect();
    let ends = ["GET /health 200", "POST /v1/completions 400"];
    for (line, end) in lines.iter().zip(ends) {
        assert!(line.contains(end), "{said}");
    }
    assert!(lines.len() >= 2 && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn texts_become_tokens_and_tokens_texts() {
    let server = Server::start(&[]);
    let tokens = |body: Value| server.post("/tokenize", &body).json(200)["tokens"].clone();
    let text = "Ephraim said, \u{1f600} <start_of_turn>";
    let plain = tokens(json!({"content": text, "parse_special": false}));
    let with_bos = json!({"prompt": text, "add_special": true, "parse_special": false});
    let with_bos = tokens(with_bos);
    assert_eq!(with_bos.as_array().unwrap()[1..], plain.as_array().unwrap()[..]);
    assert_eq!(with_bos[0], 2);
    let parsed = tokens(json!({"content": text}));
    assert!(parsed.as_array().unwrap().len() < plain.as_array().unwrap().len());
    for tokens in [plain, parsed] {
        assert_eq!(
            server.post("/detokenize", &json!({"tokens": tokens})).json(200)["content"],
            text
        );
    }
    let pieces = tokens(json!({"content": "a\u{1f600}", "with_pieces": true}));
    let spelt = |piece: &Value| match piece["piece"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            piece["piece"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect()
        }
    };
    let bytes: Vec<u8> = pieces.as_array().unwrap().iter().flat_map(spelt).collect();
    assert_eq!(bytes, "a\u{1f600}".as_bytes());

    server.post("/tokenize", &json!({"content": 1})).error(400, Some("content"), None);
    server.post("/tokenize", &json!({})).error(400, Some("content"), None);
    server.post("/detokenize", &json!({"tokens": [2048]})).error(400, Some("tokens"), None);
    server.post("/detokenize", &json!({"tokens": ["a"]})).error(400, Some("tokens"), None);
    server.post("/detokenize", &json!({})).error(400, Some("tokens"), None);
}

#[test]
fn there_is_nothing_elsewhere() {
    let server = Server::start(&[]);
    for path in ["/v1", "/v1/embeddings", "/etc/passwd", "/../Cargo.toml", "/%2e%2e/x", "//"] {
        server.get(path).error(404, None, Some("not_found"));
    }
    for (method, path) in [("GET", "/v1/completions"), ("POST", "/health"), ("PUT", "/tokenize")] {
        let reply = server.client.request(method, path, &[], b"");
        reply.error(405, None, None);
        assert!(reply.header("allow").is_some(), "{path}");
    }
}

#[test]
fn people_are_shown_a_page() {
    let server = Server::start(&["--api-key", "secret"]);
    let page = server.get("/");
    assert!(page.text(200).starts_with("<!doctype html>"));
    for (path, content_type) in
        [("/", "text/html"), ("/style.css", "text/css"), ("/chat.js", "text/javascript")]
    {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("content-type").unwrap().starts_with(content_type), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
    }
    // Its scripts, and theirs, are there.
    let mut scripts = vec!["chat.js".to_owned(), "theme.js".to_owned()];
    let mut read = 0;
    while let Some(script) = scripts.get(read).cloned() {
        let text = server.get(&format!("/{script}")).text(200);
        let imports = text.split(" from './").skip(1).filter_map(|rest| rest.split('\'').next());
        for import in imports {
            if !scripts.iter().any(|known| known == import) {
                scripts.push(import.to_owned());
            }
        }
        read += 1;
    }
    assert!(read > 10, "{scripts:?}");
    server.get("/v1/models").error(401, None, Some("invalid_api_key"));
}
