//! Ollama's API.

use serde_json::{json, Value};

use crate::running::Server;

/// A greedy request for a few tokens.
fn greedy(extra: Value) -> Value {
    let options = json!({"temperature": 0, "num_predict": 8});
    let mut body = json!({"model": "gemma", "stream": false, "options": options});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn messages() -> Value {
    json!([{"role": "user", "content": "And David said unto"}])
}

/// The lines of a stream.
fn lines(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let reply = server.post(path, body);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    reply.text(200).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_answer_is_that_of_the_other_dialects() {
    let server = Server::start(&[]);
    let chat = server.chat(&json!({"messages": messages(), "max_tokens": 8, "temperature": 0}));
    let expected = &chat["choices"][0]["message"]["content"];
    let found = server.post("/api/chat", &greedy(json!({"messages": messages()}))).json(200);
    assert_eq!(&found["message"]["content"], expected);
    assert_eq!((&found["done"], &found["done_reason"]), (&json!(true), &json!("length")));
    assert_eq!(found["eval_count"], 8);
    assert_eq!(found["prompt_eval_count"], chat["usage"]["prompt_tokens"]);
    for time in ["total_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(found[time].as_u64().unwrap() > 0, "{found}");
    }
    let body = greedy(json!({"prompt": "And David said unto"}));
    assert_eq!(&server.post("/api/generate", &body).json(200)["response"], expected);

    let text = server.complete(&json!({"prompt": "And David", "max_tokens": 8, "temperature": 0}));
    let body = greedy(json!({"prompt": "And David", "raw": true}));
    let found = server.post("/api/generate", &body).json(200);
    assert_eq!(found["response"], text["choices"][0]["text"]);
}

#[test]
fn a_stream_is_the_default_and_has_an_object_a_line() {
    let server = Server::start(&[]);
    let body = greedy(json!({"messages": messages()}));
    let whole = server.post("/api/chat", &body).json(200);
    let found =
        lines(&server, "/api/chat", &greedy(json!({"messages": messages(), "stream": null})));
    let (last, parts) = found.split_last().unwrap();
    assert!(parts.len() > 4 && parts.iter().all(|part| part["done"] == false), "{parts:?}");
    let text: String =
        parts.iter().filter_map(|part| part["message"]["content"].as_str()).collect();
    assert_eq!(json!(text), whole["message"]["content"]);
    assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), &json!(8)));
    let body = greedy(json!({"prompt": "And", "stream": true}));
    assert!(lines(&server, "/api/generate", &body)[0]["response"].is_string());
}

#[test]
fn what_is_asked_for_is_kept_or_refused_by_name() {
    let server = Server::start(&["--ctx", "256"]);
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}},
        "required": ["age"], "additionalProperties": false});
    let options =
        json!({"seed": 3, "num_predict": 80, "stop": ["zz"], "num_ctx": 128, "num_gpu": 1});
    let body =
        json!({"messages": messages(), "format": schema, "options": options, "stream": false});
    let found = server.post("/api/chat", &body).json(200);
    let value: Value = serde_json::from_str(found["message"]["content"].as_str().unwrap()).unwrap();
    assert!(value["age"].is_i64(), "{found}");

    let refused = |path: &str, extra: Value, name: &str| {
        let error = server.post(path, &greedy(extra)).json(400);
        assert!(error["error"].as_str().unwrap().contains(name), "{error}");
    };
    let image = json!([{"role": "user", "content": "x", "images": ["aGk="]}]);
    refused("/api/chat", json!({"messages": image}), "messages[0].images");
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    refused("/api/chat", json!({"messages": messages(), "tools": tools}), "tools");
    for (name, value) in [
        ("mirostat", json!(1)),
        ("num_ctx", json!(4096)),
        ("temperature", json!(-1)),
        ("stop", json!([1])),
        ("seed", json!("x")),
    ] {
        let body = json!({"prompt": "x", "options": {name: value}});
        refused("/api/generate", body, &format!("options.{name}"));
    }
    for (name, value) in [("template", json!("{{ .Prompt }}")), ("context", json!([1, 2]))] {
        refused("/api/generate", json!({"prompt": "x", name: value}), name);
    }
    refused("/api/generate", json!({"prompt": "x", "raw": true, "system": "y"}), "system");
    refused("/api/generate", json!({"prompt": "x", "format": "xml"}), "format");
}

#[test]
fn the_model_is_there_and_loaded() {
    let server = Server::start(&["--alias", "tiny"]);
    let loaded = server.post("/api/generate", &json!({"model": "tiny"})).json(200);
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let loaded = server.post("/api/chat", &json!({"model": "tiny", "messages": []})).json(200);
    assert_eq!(loaded["done_reason"], "load");
    for path in ["/api/tags", "/api/ps"] {
        let model = server.get(path).json(200)["models"][0].clone();
        assert_eq!(
            (&model["name"], &model["details"]["family"]),
            (&json!("tiny"), &json!("gemma2"))
        );
        assert_eq!(model["details"]["quantization_level"], "F16");
    }
    let shown = server.post("/api/show", &json!({"model": "tiny"})).json(200);
    assert_eq!(shown["model_info"]["general.architecture"], "gemma2");
    assert_eq!(shown["capabilities"], json!(["completion"]));
    assert_eq!(server.get("/api/version").json(200)["version"], env!("CARGO_PKG_VERSION"));
    let missing = server.get("/api/none").json(404);
    assert!(missing["error"].is_string(), "{missing}");
}
