//! What an answer is held to, by the names that all clients have for it; and where an answer begins.

use serde_json::{json, Value};

use crate::running::Server;

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The texts of answers of both endpoints to a request with `extra`.
fn answers(server: &Server, extra: Value) -> [String; 2] {
    let extra = with(json!({"max_tokens": 60, "temperature": 1, "seed": 7}), &extra);
    let chat = json!({"messages": [{"role": "user", "content": "And David said"}]});
    let chat = server.chat(&with(chat, &extra))["choices"][0].clone();
    let text =
        server.complete(&with(json!({"prompt": "And David said"}), &extra))["choices"][0].clone();
    assert_eq!((&chat["finish_reason"], &text["finish_reason"]), (&json!("stop"), &json!("stop")));
    [&chat["message"]["content"], &text["text"]].map(|text| text.as_str().unwrap().to_owned())
}

#[test]
fn an_answer_is_held_to_what_was_asked_for() {
    let server = Server::start(&[]);
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}},
        "required": ["age"], "additionalProperties": false});
    for extra in [
        json!({"response_format": {"type": "json_object", "value": schema}}),
        json!({"guided_json": schema}),
        json!({"json_schema": schema.to_string()}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"format": schema}),
    ] {
        for text in answers(&server, extra.clone()) {
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(value["age"].is_i64(), "{extra}: {text}");
        }
    }
    let digits = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    for extra in [
        json!({"guided_regex": "^[0-9]{4}$"}),
        json!({"regex": "[0-9]{4}"}),
        json!({"response_format": {"type": "regex", "value": "[0-9]{4}"}}),
        json!({"grammar": "root ::= two two\ntwo ::= [0-9] [0-9]"}),
        json!({"guided_grammar": "start: /[0-9]/{4}"}),
    ] {
        for text in answers(&server, extra.clone()) {
            assert!(digits(&text), "{extra}: {text}");
        }
    }
    for text in answers(&server, json!({"guided_choice": ["Saul", "Jonathan"]})) {
        assert!(["Saul", "Jonathan"].contains(&text.as_str()), "{text}");
    }
}

#[test]
fn what_is_not_supported_is_refused_at_both_endpoints() {
    let server = Server::start(&[]);
    let bodies = [
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}]})),
        ("/v1/completions", json!({"prompt": "x"})),
    ];
    for (path, body) in &bodies {
        for (name, value) in [
            ("min_tokens", json!(3)),
            ("stop_token_ids", json!([107])),
            ("mirostat", json!(2)),
            ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ] {
            let reply = server.post(path, &with(body.clone(), &json!({name: value})));
            reply.error(400, Some(name), Some("unsupported_parameter"));
        }
        for (name, value) in [
            ("guided_regex", json!("(")),
            ("grammar", json!("root ::= missing")),
            ("guided_choice", json!([])),
        ] {
            server.post(path, &with(body.clone(), &json!({name: value}))).error(
                400,
                Some(name),
                None,
            );
        }
        let nothing = json!({"tools": [], "min_tokens": 0, "grammar": "", "max_tokens": 1});
        server.post(path, &with(body.clone(), &nothing)).json(200);
    }
}

#[test]
fn an_answer_that_is_begun_goes_on() {
    let server = Server::start(&[]);
    let greedy = json!({"max_tokens": 12, "temperature": 0});
    let user = json!({"role": "user", "content": "And David said unto"});
    let begun = json!({"role": "assistant", "content": "And it came"});
    let chat = |messages: Value, extra: &Value| {
        let answer = server.chat(&with(with(json!({"messages": messages}), &greedy), extra));
        (
            answer["choices"][0]["message"]["content"].clone(),
            answer["usage"]["prompt_tokens"].clone(),
        )
    };
    let raw = |prompt: &str, extra: &Value| {
        let answer = server.complete(&with(with(json!({"prompt": prompt}), &greedy), extra));
        (answer["choices"][0]["text"].clone(), answer["usage"]["prompt_tokens"].clone())
    };
    let none = json!({});
    let markers = "<start_of_turn>user\nAnd David said unto<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(chat(json!([user]), &none), raw(markers, &none));
    let continued = chat(json!([user, begun]), &none);
    assert_eq!(continued, raw(&format!("<bos>{markers}And it came"), &none));
    let vllm = json!({"continue_final_message": true, "add_generation_prompt": false});
    assert_eq!(chat(json!([user, begun]), &vllm), continued);
    let new_turn = chat(json!([user, begun]), &json!({"continue_final_message": false}));
    assert!(new_turn.1.as_u64() > continued.1.as_u64(), "{new_turn:?}");
    // A user's message cannot begin an answer.
    let spelt = json!({"role": "user", "content": markers});
    let (_, marked) = raw(markers, &none);
    assert!(chat(json!([spelt]), &none).1.as_u64() > marked.as_u64());
    let (_, plain) = raw(markers, &json!({"parse_special": false}));
    assert!(plain.as_u64() > marked.as_u64());
}
