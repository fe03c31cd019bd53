//! `lapidary serve` with `--draft` and `--lookup`.

use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{json, Value};

use crate::running::{model, Server};

/// Requests of all sorts.
fn bodies() -> Vec<(&'static str, Value)> {
    let (texts, chats) = ("/v1/completions", "/v1/chat/completions");
    let prompt = "And it came to pass, when David said unto";
    let schema = json!({
        "type": "object",
        "properties": {"name": {"enum": ["David", "Saul"]}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let messages = json!([{"role": "user", "content": "And David said unto"}]);
    let text = |more: Value| {
        let mut body = json!({"prompt": prompt, "max_tokens": 50, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (texts, body)
    };
    let chat = |seed: u64| {
        let body = json!({
            "messages": messages, "max_tokens": 200, "temperature": 1, "seed": seed,
            "response_format": format,
        });
        (chats, body)
    };
    vec![
        text(json!({})),
        text(json!({"temperature": 0.8, "seed": 1, "stop": [" the", ","]})),
        text(json!({"temperature": 0.8, "seed": 2, "logprobs": 3, "echo": true})),
        text(json!({"temperature": 0.8, "seed": 3, "n": 3, "frequency_penalty": 0.5})),
        text(json!({"ignore_eos": true, "max_tokens": 90})),
        chat(1),
        chat(2),
    ]
}

/// All answers, asked for at the same time.
fn choices(server: &Server) -> Vec<Value> {
    let asked = bodies();
    thread::scope(|scope| {
        let answers =
            asked.iter().map(|(path, body)| scope.spawn(|| server.post(path, body).json(200)));
        let answers: Vec<_> = answers.collect();
        answers.into_iter().map(|answer| answer.join().unwrap()["choices"].clone()).collect()
    })
}

#[test]
fn answers_are_the_same_with_drafts_and_without() {
    let draft = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drafting.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("convert").arg(model()).arg("-o").arg(&draft).args(["-q", "Q2_K", "--force"]);
    assert!(command.output().unwrap().status.success());
    let draft = draft.to_str().unwrap();
    let expected = choices(&Server::start(&["--parallel", "4"]));
    for (drafter, tokens, parallel) in [
        (&["--draft", draft][..], "3", "4"),
        (&["--draft", draft], "8", "1"),
        (&["--draft", draft], "auto", "4"),
        (&["--lookup"], "8", "4"),
        (&["--lookup"], "auto", "1"),
    ] {
        let options = ["--draft-tokens", tokens, "--parallel", parallel];
        let server = Server::start(&[drafter, &options].concat());
        assert_eq!(choices(&server), expected, "{drafter:?} {options:?}");
        let [drafted, accepted, passes, steps] =
            ["drafted_tokens", "accepted_tokens", "draft_steps", "steps"]
                .map(|name| server.metric(&format!("lapidary_{name}_total")));
        assert!(accepted <= drafted && passes <= steps);
        if tokens != "auto" {
            assert!(accepted > 0.0 && passes > 0.0, "{drafter:?} {options:?}");
            let (path, body) = &bodies()[0];
            let timings = server.post(path, body).json(200)["timings"].clone();
            let [drafted, accepted] =
                ["draft_n", "draft_n_accepted"].map(|name| timings[name].as_u64().unwrap());
            assert!(drafted >= accepted && accepted > 0, "{timings}");
        }
    }
}
