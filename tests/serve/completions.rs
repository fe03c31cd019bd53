//! `POST /v1/completions`.

use std::path::Path;

use lapidary::kernels::KvType;
use lapidary::model::{Model, Rows, Source, State, StateOptions};
use serde_json::{json, Value};

use crate::running::{model, Server};

const PROMPT: &str = "And it came to pass, when David was come to";

/// A greedy request for a few tokens.
fn greedy(extra: Value) -> Value {
    let mut body = json!({"prompt": PROMPT, "max_tokens": 12, "temperature": 0});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

fn streamed(chunks: &[Value], index: usize) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let own = choices.filter(|choice| choice["index"] == index);
    own.filter_map(|choice| choice["text"].as_str()).collect()
}

#[test]
fn a_text_goes_on_whole_or_in_parts() {
    let server = Server::start(&[]);
    let whole = server.complete(&greedy(json!({})));
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 12);
    let stream = greedy(json!({"stream": true}));
    let chunks = server.client.stream("/v1/completions", &stream).chunks();
    assert_eq!(streamed(&chunks, 0), text(&whole));
    // 16 tokens where nothing is said.
    let default = server.complete(&json!({"prompt": PROMPT, "ignore_eos": true}));
    assert_eq!(default["usage"]["completion_tokens"], 16);
}

#[test]
fn a_prompt_may_be_the_ids_of_its_tokens() {
    let server = Server::start(&[]);
    let expected = server.complete(&greedy(json!({})));
    let tokenize = json!({"content": PROMPT, "add_special": true});
    let ids = server.post("/tokenize", &tokenize).json(200)["tokens"].clone();
    let found = server.complete(&greedy(json!({"prompt": ids})));
    assert_eq!(
        (text(&found), &found["usage"]["prompt_tokens"]),
        (text(&expected), &expected["usage"]["prompt_tokens"])
    );
    server.post("/v1/completions", &greedy(json!({"prompt": [2, 99999]}))).error(400, None, None);
}

#[test]
fn several_prompts_have_several_answers_each() {
    let server = Server::start(&[]);
    let prompts = ["And David", "In the beginning", "Selah"];
    let body = greedy(json!({"prompt": prompts, "n": 2, "temperature": 1.2, "seed": 5}));
    let answer = server.complete(&body);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], i);
        let seed = 5 + i % 2;
        let alone = json!({"prompt": prompts[i / 2], "temperature": 1.2, "seed": seed});
        assert_eq!(choice["text"], text(&server.complete(&greedy(alone))), "{i}");
    }
    let stream =
        greedy(json!({"prompt": prompts, "n": 2, "temperature": 1.2, "seed": 5, "stream": true}));
    let chunks = server.client.stream("/v1/completions", &stream).chunks();
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!(streamed(&chunks, i), choice["text"].as_str().unwrap());
    }
}

/// The log-probability of each token but the first, and the likeliest token there, by a pass through
/// the model.
fn forward(ids: &[u32]) -> Vec<(f64, u32)> {
    let source = Source::open(&model()).unwrap();
    let model = Model::load(&source, Some(2)).unwrap();
    let mut state = State::new(model.config(), StateOptions::new(1024, KvType::F16));
    let mut found = Vec::new();
    let n_vocab = model.config().n_vocab;
    model
        .forward(&mut state, ids, Rows::All, |at, logits| {
            for (row, logits) in logits.chunks(n_vocab).enumerate() {
                let Some(next) = ids.get(at + row + 1) else { return };
                let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
                let likeliest =
                    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                let logprob = f64::from(logits[*next as usize]) - sum.ln();
                found.push((logprob, likeliest.unwrap() as u32));
            }
        })
        .unwrap();
    found
}

#[test]
fn an_echo_says_how_likely_the_prompt_was() {
    let server = Server::start(&[]);
    let tokenize = json!({"content": PROMPT, "add_special": true});
    let ids = server.post("/tokenize", &tokenize).json(200)["tokens"].clone();
    let ids: Vec<u32> = serde_json::from_value(ids).unwrap();
    // As lm-evaluation-harness asks.
    let body = greedy(
        json!({"prompt": [ids], "echo": true, "logprobs": 1, "max_tokens": 1, "seed": 1234}),
    );
    let answer = server.complete(&body);
    let choice = &answer["choices"][0];
    let logprobs = &choice["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    let (tokens, found, top) = (list("tokens"), list("token_logprobs"), list("top_logprobs"));
    assert_eq!(
        (tokens.len(), found.len(), top.len()),
        (ids.len() + 1, ids.len() + 1, ids.len() + 1)
    );
    assert_eq!((&found[0], &top[0]), (&Value::Null, &Value::Null));
    let spelling = |id: u32| {
        let pieces = server.post("/detokenize", &json!({"tokens": [id]})).json(200);
        pieces["content"].as_str().unwrap().to_owned()
    };
    for (i, (expected, likeliest)) in forward(&ids).into_iter().enumerate() {
        let found = found[i + 1].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-4, "{i}: {found} {expected}");
        let top = top[i + 1].as_object().unwrap();
        assert!(top.contains_key(&spelling(likeliest)), "{top:?}");
        assert!(top.contains_key(tokens[i + 1].as_str().unwrap()) && top.len() <= 2, "{top:?}");
    }
    // The text is all tokens but for BOS, and each stands where it begins.
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with(PROMPT), "{text}");
    let offsets: Vec<usize> =
        list("text_offset").iter().map(|n| n.as_u64().unwrap() as usize).collect();
    assert_eq!(offsets[..2], [0, 0]);
    for (i, token) in tokens.iter().enumerate().skip(1) {
        assert!(text[offsets[i]..].starts_with(token.as_str().unwrap()), "{i}: {token} {text}");
    }

    // Of the prompt alone, from a cache that has it, and in parts.
    let alone = server.complete(&greedy(json!({"echo": true, "logprobs": 1, "max_tokens": 0})));
    let choice = &alone["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(PROMPT), &json!("length")));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!(found[..ids.len()]));
    let stream = greedy(json!({"echo": true, "logprobs": 1, "stream": true}));
    let chunks = server.client.stream("/v1/completions", &stream).chunks();
    assert!(streamed(&chunks, 0).starts_with(PROMPT));
    assert_eq!(chunks[0]["choices"][0]["logprobs"]["token_logprobs"], json!(found[..ids.len()]));
    assert_eq!(chunks[1]["choices"][0]["logprobs"]["text_offset"][0], PROMPT.len());
}

#[test]
fn an_answer_stops_before_what_it_is_to_stop_at() {
    let server = Server::start(&[]);
    let longer = server.complete(&greedy(json!({"max_tokens": 40, "logprobs": 0})));
    let whole = text(&longer).to_owned();
    // From the middle of one token to the middle of a later one.
    let tokens = longer["choices"][0]["logprobs"]["tokens"].as_array().unwrap();
    let lengths: Vec<usize> = tokens.iter().map(|t| t.as_str().unwrap().len()).collect();
    let begin: usize = lengths[..8].iter().sum::<usize>() - 1;
    let end: usize = lengths[..10].iter().sum::<usize>() + 1;
    let stop = &whole[begin..end];
    let expected = &whole[..whole.find(stop).unwrap()];
    for stop in [json!(stop), json!(["\u{1f600}", stop])] {
        let body = greedy(json!({"max_tokens": 40, "stop": stop}));
        let answer = server.complete(&body);
        assert_eq!(
            (text(&answer), &answer["choices"][0]["finish_reason"]),
            (expected, &json!("stop"))
        );
        let mut body = body;
        body["stream"] = json!(true);
        let chunks = server.client.stream("/v1/completions", &body).chunks();
        assert_eq!(streamed(&chunks, 0), expected);
    }
    // What only looks like the beginning of one is said after all.
    let body =
        greedy(json!({"max_tokens": 40, "stop": format!("{}\u{1f600}", &whole[begin..end])}));
    assert_eq!(text(&server.complete(&body)), whole);
}

#[test]
fn tokens_are_wanted_and_unwanted() {
    let server = Server::start(&[]);
    let id = |text: &str| {
        let tokens =
            server.post("/tokenize", &json!({"content": text})).json(200)["tokens"].clone();
        tokens[0].to_string()
    };
    let wanted = greedy(json!({"logit_bias": {id("x"): 100}, "max_tokens": 3}));
    assert_eq!(text(&server.complete(&wanted)), "xxx");
    // What was said often enough leaves room for others.
    let two = |extra: Value| {
        let mut body = greedy(json!({"logit_bias": {id("x"): 100, id("y"): 90}, "max_tokens": 20}));
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        text(&server.complete(&body)).to_owned()
    };
    assert_eq!(two(json!({})), "x".repeat(20));
    for penalty in ["presence_penalty", "frequency_penalty"] {
        let found = two(json!({penalty: 2}));
        assert_eq!(found.contains('y'), penalty == "frequency_penalty", "{penalty}: {found}");
    }
    let first = server.complete(&greedy(json!({"max_tokens": 1, "logprobs": 1})));
    let likeliest = first["choices"][0]["logprobs"]["tokens"][0].as_str().unwrap();
    let unwanted = greedy(json!({"logit_bias": {id(likeliest): -100}, "max_tokens": 1}));
    assert_ne!(text(&server.complete(&unwanted)), text(&first));
}

#[test]
fn a_request_that_makes_no_sense_is_refused_by_name() {
    let server = Server::start(&[]);
    for (extra, param, code) in [
        (json!({"prompt": null}), "prompt", None),
        (json!({"prompt": []}), "prompt", None),
        (json!({"suffix": "x"}), "suffix", Some("unsupported_parameter")),
        (json!({"best_of": 3}), "best_of", Some("unsupported_parameter")),
        (json!({"max_tokens": 0}), "max_tokens", None),
        (json!({"max_tokens": "many"}), "max_tokens", None),
        (json!({"logprobs": 21}), "logprobs", None),
        (json!({"logprobs": true}), "logprobs", None),
        (json!({"echo": "yes"}), "echo", None),
        (json!({"stop": [""]}), "stop", None),
        (json!({"logit_bias": {"2048": 1}}), "logit_bias", None),
        (json!({"seed": "x"}), "seed", None),
        (json!({"stream_options": {}}), "stream_options", None),
    ] {
        let reply = server.post("/v1/completions", &greedy(extra));
        let message = reply.error(400, Some(param), code);
        assert!(message.contains(param), "{message}");
    }
    let long = greedy(json!({"prompt": "Selah ".repeat(2000)}));
    let reply = server.post("/v1/completions", &long);
    reply.error(400, None, Some("context_length_exceeded"));
    // Fields of no consequence, and null.
    let harmless = json!({"user": "u", "model": "gpt-4", "metadata": {"a": "b"}, "store": false, "stop": null, "suffix": null});
    server.complete(&greedy(harmless));
}

/// A server of Gemma 3, whose layers have two RoPE bases and norms of queries and keys.
#[test]
fn another_architecture_is_served() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro-gemma3");
    let server = Server::start_on(Path::new(model), &["--parallel", "2"], &[]);
    let request = json!({"prompt": "And it came", "max_tokens": 8, "temperature": 0});
    let (first, again) = (server.complete(&request), server.complete(&request));
    assert_eq!(first["usage"]["completion_tokens"], 8);
    assert_eq!(first["choices"], again["choices"]);
}
