//! `POST /v1/chat/completions`.

use std::process::Command;

use serde_json::{json, Value};
use tempfile::TempDir;

use crate::running::{model, Server};

const MESSAGE: &str = "And David said unto";

/// A greedy request for a few tokens.
fn greedy(extra: Value) -> Value {
    let mut body = json!({
        "model": "tiny",
        "messages": [{"role": "user", "content": MESSAGE}],
        "max_tokens": 8,
        "temperature": 0,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The texts of a stream's chunks, by choice.
fn streamed(chunks: &[Value], index: usize) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let own = choices.filter(|choice| choice["index"] == index);
    own.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

#[test]
fn an_answer_is_what_the_program_says_by_itself() {
    let server = Server::start(&[]);
    let answer = server.chat(&greedy(json!({})));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("run").arg(model()).args(["--chat", "--json", "-p", MESSAGE, "-n", "8"]);
    let output = command.args(["--temp", "0", "--threads", "2"]).output().unwrap();
    let expected: Value = serde_json::from_slice(&output.stdout).unwrap();

    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], expected["text"]);
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("length")));
    assert_eq!((&answer["object"], &choice["logprobs"]), (&json!("chat.completion"), &Value::Null));
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"), "{answer}");
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("lapidary-"), "{answer}");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 8);
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], prompt + 8);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let timings = &answer["timings"];
    assert_eq!((&timings["prompt_n"], &timings["predicted_n"]), (&json!(prompt), &json!(8)));
    assert!(timings["predicted_per_second"].as_f64().unwrap() > 0.0, "{timings}");
    assert!(timings["prompt_per_second"].as_f64().unwrap() > 0.0, "{timings}");
}

#[test]
fn a_stream_is_the_answer_in_parts() {
    let server = Server::start(&[]);
    let whole = server.chat(&greedy(json!({})));
    let body = greedy(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = server.client.stream("/v1/chat/completions", &body).chunks();
    assert_eq!(streamed(&chunks, 0), whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert!(chunks.len() > 6, "{chunks:?}");
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
    assert!(last["timings"]["predicted_per_second"].is_f64(), "{last}");
    for chunk in rest {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["usage"]), (&last["id"], &Value::Null));
    }
    let first = json!({"role": "assistant", "content": ""});
    assert_eq!(rest[0]["choices"][0]["delta"], first);
    let reasons: Vec<_> = rest.iter().map(|c| &c["choices"][0]["finish_reason"]).collect();
    let (last, others) = reasons.split_last().unwrap();
    assert!(*last == "length" && others.iter().all(|reason| reason.is_null()), "{reasons:?}");

    // Without being asked, there is no usage, and the last chunk says how fast it went.
    let body = greedy(json!({"stream": true}));
    let chunks = server.client.stream("/chat/completions", &body).chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "{chunks:?}");
    let timed: Vec<_> = chunks.iter().map(|chunk| chunk.get("timings").is_some()).collect();
    assert_eq!(timed.iter().position(|timed| *timed), Some(chunks.len() - 1));
}

#[test]
fn log_probabilities_come_with_the_tokens() {
    let server = Server::start(&[]);
    let body = greedy(json!({"logprobs": true, "top_logprobs": 3}));
    let answer = server.chat(&body);
    let choice = &answer["choices"][0];
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 8);
    let mut bytes = Vec::new();
    for token in content {
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: it was the likeliest.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        let logprobs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] <= 0.0, "{logprobs:?}");
    }
    assert_eq!(bytes, choice["message"]["content"].as_str().unwrap().as_bytes());

    let body = greedy(json!({"logprobs": true, "top_logprobs": 3, "stream": true}));
    let chunks = server.client.stream("/v1/chat/completions", &body).chunks();
    let in_parts = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(&in_parts.flatten().cloned().collect::<Vec<_>>(), content);
    let without = server.chat(&greedy(json!({"logprobs": true})));
    let content = without["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(content.iter().all(|token| token["top_logprobs"] == json!([])), "{content:?}");
}

#[test]
fn choices_differ_and_a_seed_repeats_them() {
    let server = Server::start(&[]);
    let body = greedy(json!({"n": 3, "temperature": 1.5, "seed": 42}));
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        assert!(choices.iter().enumerate().all(|(i, choice)| choice["index"] == i), "{choices:?}");
        let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
        choices.iter().map(text).collect()
    };
    let first = server.chat(&body);
    let choices = texts(&first);
    assert_eq!(choices.len(), 3);
    assert!(choices[0] != choices[1] && choices[1] != choices[2], "{choices:?}");
    assert_eq!(texts(&server.chat(&body)), choices);
    // A prompt counts once.
    let one = server.chat(&greedy(json!({"temperature": 1.5, "seed": 42})));
    assert_eq!(texts(&one), choices[..1]);
    assert_eq!(first["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    assert_eq!(
        texts(&server.chat(&greedy(json!({"temperature": 1.5, "seed": 43})))),
        choices[1..2]
    );

    let body = greedy(json!({"n": 3, "temperature": 1.5, "seed": 42, "stream": true}));
    let chunks = server.client.stream("/v1/chat/completions", &body).chunks();
    let in_parts: Vec<String> = (0..3).map(|index| streamed(&chunks, index)).collect();
    assert_eq!(in_parts, choices);
}

#[test]
fn what_the_model_is_told_first_goes_to_the_first_message() {
    let server = Server::start(&[]);
    let answer = |messages: Value| {
        let answer = server.chat(&greedy(json!({"messages": messages})));
        let content = answer["choices"][0]["message"]["content"].clone();
        (content, answer["usage"]["prompt_tokens"].clone())
    };
    let folded = answer(json!([{"role": "user", "content": "Be brief.\n\nSpeak."}]));
    for role in ["system", "developer"] {
        let messages = json!([
            {"role": role, "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Speak."}]},
        ]);
        assert_eq!(answer(messages), folded);
    }
}

#[test]
fn a_server_has_defaults_for_requests_that_say_nothing() {
    let server = Server::start(&["--system", "Be brief.", "--temp", "0"]);
    let ask = |messages: Value| {
        let answer = server.chat(&json!({"messages": messages, "max_tokens": 8}));
        (
            answer["choices"][0]["message"]["content"].clone(),
            answer["usage"]["prompt_tokens"].clone(),
        )
    };
    let own = ask(json!([{"role": "user", "content": "Speak."}]));
    let given = |text: &str| json!([{"role": "system", "content": text}, {"role": "user", "content": "Speak."}]);
    assert_eq!(ask(given("Be brief.")), own);
    // A conversation's own counts, and not both.
    let other = ask(given("Be long and brief."));
    assert!(other.1.as_u64() > own.1.as_u64(), "{other:?} {own:?}");
}

#[test]
fn a_next_turn_is_read_from_where_it_is_new() {
    let server = Server::start(&[]);
    let first = server.chat(&greedy(json!({})));
    let messages = json!([
        {"role": "user", "content": MESSAGE},
        {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
        {"role": "user", "content": "And then?"},
    ]);
    let second = server.chat(&greedy(json!({"messages": messages})));
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    // At least what the first prompt had.
    assert!(cached + 1 >= first["usage"]["prompt_tokens"].as_u64().unwrap(), "{second}");
}

#[test]
fn a_conversation_that_makes_no_sense_is_refused() {
    let server = Server::start(&[]);
    let error = |extra: Value, param: &str, code: Option<&str>| {
        server.post("/v1/chat/completions", &greedy(extra)).error(400, Some(param), code)
    };
    let unsupported = Some("unsupported_parameter");
    let image =
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let message = error(json!({"messages": image}), "messages[0].content[0].type", unsupported);
    assert!(message.contains("image_url"), "{message}");
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    error(json!({"tools": tools}), "tools", unsupported);
    error(json!({"messages": null}), "messages", None);
    error(json!({"max_completion_tokens": 0}), "max_tokens", None);
    error(json!({"temperature": 3}), "temperature", None);
    error(json!({"n": 17}), "n", None);
    error(json!({"top_logprobs": 2}), "top_logprobs", None);
    // The template's own words.
    let answered = json!([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]);
    let message = error(json!({"messages": answered}), "messages", None);
    assert!(message.contains("must alternate"), "{message}");
    let long = json!([{"role": "user", "content": "Selah ".repeat(2000)}]);
    let reply = server.post("/v1/chat/completions", &greedy(json!({"messages": long})));
    let message = reply.error(400, None, Some("context_length_exceeded"));
    assert!(message.contains("1024"), "{message}");
}

#[test]
fn an_answer_is_json_where_that_is_asked_for() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object",
        "properties": {"name": {"enum": ["David", "Saul"]}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let named = json!({"name": "person", "strict": true, "schema": schema});
    let schema = json!({"type": "json_schema", "json_schema": named});
    for seed in 0..4 {
        let extra =
            json!({"response_format": schema, "max_tokens": 200, "temperature": 1, "seed": seed});
        let answer = server.chat(&greedy(extra));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
        let text = choice["message"]["content"].as_str().unwrap();
        let person: Value = serde_json::from_str(text).unwrap();
        assert!(person["name"] == "David" || person["name"] == "Saul", "{person}");
        assert!(person["age"].is_i64() && person.as_object().unwrap().len() == 2, "{person}");
    }
    // The model was not trained for it, and may go on for as long as it is let.
    let object = json!({"response_format": {"type": "json_object"}, "max_tokens": 50});
    let answer = server.chat(&greedy(object));
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.trim_start().starts_with('{'), "{text}");
    let text = json!({"response_format": {"type": "text"}});
    assert_eq!(server.chat(&greedy(text))["choices"], server.chat(&greedy(json!({})))["choices"]);

    let refused = |format: Value, param: &str| {
        let body = greedy(json!({"response_format": format}));
        server.post("/v1/chat/completions", &body).error(400, Some(param), None)
    };
    refused(json!({"type": "xml"}), "response_format.type");
    let flawed = json!({"name": "n", "schema": {"type": "number", "multipleOf": "x"}});
    let flawed = json!({"type": "json_schema", "json_schema": flawed});
    refused(flawed, "response_format");
}

/// A template that is not Gemma's is rendered by a process of the same program, whose file an update
/// replaces.
#[cfg(target_os = "linux")]
#[test]
fn chat_goes_on_after_the_programs_file_was_replaced() {
    let dir = TempDir::new().unwrap();
    let (program, template) = (dir.path().join("lapidary"), dir.path().join("template.jinja"));
    std::fs::copy(env!("CARGO_BIN_EXE_lapidary"), &program).unwrap();
    std::fs::write(&template, "{{ messages[0].content }}").unwrap();
    let options = ["--chat-template", template.to_str().unwrap()];
    let server = Server::start_program(&program, &model(), &options, &[]);
    let before = server.chat(&greedy(json!({})));
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "another").unwrap();
    assert_eq!(server.chat(&greedy(json!({})))["choices"], before["choices"]);
}

/// A template that cannot be used, such as one for Ollama, harms only chats.
#[test]
fn an_unusable_template_leaves_completions() {
    let deep = format!("{{{{ {}1 }}}}", "-".repeat(30_000));
    for (template, cause) in
        [("{{ .Prompt }}", "cannot be parsed"), ("{{ if .System }}", "fails"), (&deep, "tokens")]
    {
        let model = TempDir::new().unwrap();
        let tiny =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-gemma2");
        for entry in tiny.read_dir().unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), model.path().join(entry.file_name())).unwrap();
        }
        let config = model.path().join("tokenizer_config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json["chat_template"] = template.into();
        std::fs::write(&config, json.to_string()).unwrap();

        let server = Server::start_on(model.path(), &[], &[]);
        let refused = server.post("/v1/chat/completions", &greedy(json!({}))).json(400);
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("chat template") && message.contains(cause), "{message}");
        server.complete(&json!({"model": "tiny", "prompt": MESSAGE, "max_tokens": 2}));
    }
}
