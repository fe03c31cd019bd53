//! More requests than there is room for, clients that go away, and the end.

use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::client::Client;
use crate::running::Server;

/// Room for answers that go on as long as anybody waits.
const ENDLESS: [&str; 2] = ["--ctx", "1000000"];

fn endless(extra: Value) -> Value {
    let mut body = json!({"prompt": "And", "max_tokens": -1, "ignore_eos": true});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn server(options: &[&str]) -> Server {
    Server::start(&[&ENDLESS, options].concat())
}

#[test]
fn a_client_that_goes_away_leaves_room_for_others() {
    let server = server(&["--parallel", "1"]);
    let mut stream = server.client.stream("/v1/completions", &endless(json!({"stream": true})));
    assert!(stream.event().is_some());
    server.wait_until("busy", 1);
    drop(stream);
    server.wait_until("busy", 0);

    // The same where the answer is sent whole, also while it waits.
    let whole = endless(json!({})).to_string();
    let json = [("Content-Type", "application/json")];
    let open = || server.client.open("POST", "/v1/completions", &json, whole.as_bytes());
    let (first, second) = (open(), open());
    server.wait_until("waiting", 1);
    drop(second);
    server.wait_until("waiting", 0);
    server.wait_until("busy", 1);
    drop(first);
    server.wait_until("busy", 0);
    let short = json!({"prompt": "And", "max_tokens": 2, "ignore_eos": true});
    assert_eq!(server.complete(&short)["usage"]["completion_tokens"], 2);
    assert_eq!(server.metric("lapidary_cancelled_total"), 3.0);
}

#[test]
fn who_comes_when_the_queue_is_full_is_told_to_come_again() {
    let server = server(&["--parallel", "1", "--queue", "2"]);
    let stream = || server.client.stream("/v1/completions", &endless(json!({"stream": true})));
    let mut running = stream();
    assert!(running.event().is_some());
    let waiting = [stream(), stream()];
    server.wait_until("waiting", 2);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "And", "max_tokens": 1})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "And"}]})),
    ] {
        let reply = server.post(path, &body);
        reply.error(429, None, Some("queue_full"));
        assert_eq!(reply.json(429)["error"]["type"], "rate_limit_error");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    // What does not need the model is answered.
    server.post("/tokenize", &json!({"content": "And"})).json(200);
    // More than could ever wait.
    let many = json!({"prompt": "And", "max_tokens": 1, "n": 16});
    server.post("/v1/completions", &many).error(400, Some("n"), None);
    drop((running, waiting));
    server.wait_until("waiting", 0);
    server.wait_until("busy", 0);
    server.complete(&json!({"prompt": "And", "max_tokens": 1}));
}

#[test]
fn requests_that_come_together_are_answered_as_they_would_be_alone() {
    let server = Server::start(&["--parallel", "3"]);
    let body = |i: usize| {
        let prompt = "And David said ".repeat(1 + 5 * i);
        json!({"prompt": prompt, "max_tokens": 20, "temperature": 1, "seed": i, "ignore_eos": true})
    };
    let ask = |client: &Client, i| {
        let answer = client.post("/v1/completions", &body(i)).json(200);
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let alone: Vec<String> = (0..8).map(|i| ask(&server.client, i)).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn({
                    let (ask, client) = (&ask, &server.client);
                    move || ask(client, i)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

/// A body of lists in lists would take a hundred times its length.
#[cfg(target_os = "linux")]
#[test]
fn a_body_takes_bounded_memory() {
    let server = Server::start(&[]);
    server.post("/tokenize", &json!({"content": "And"})).json(200);
    let before = server.anonymous_memory();
    let lists = "[".repeat(120) + &"]".repeat(120) + ",";
    let body = format!("{{\"content\": [{}0]}}", lists.repeat(17_000));
    let json = [("Content-Type", "application/json")];
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let reply = server.client.request("POST", "/tokenize", &json, body.as_bytes());
                let message = reply.error(400, None, None);
                assert!(message.contains("too many values"), "{message}");
            });
        }
    });
    let taken = server.anonymous_memory().saturating_sub(before);
    assert!(taken <= lapidary::server::REQUESTS as u64, "{taken}");
}

#[test]
fn small_requests_do_not_wait_for_slow_bodies() {
    let server = Server::start(&[]);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let json = [("Content-Type", "application/json"), ("Content-Length", "4000000")];
            server.client.open("POST", "/v1/completions", &json, &[b' '; 300_000])
        })
        .collect();
    server.complete(&json!({"prompt": "And", "max_tokens": 1}));
    drop(slow);
}

#[test]
fn it_ends_when_it_is_asked_to() {
    for (signal, name) in [(15, "TERM"), (2, "INT")] {
        let server = server(&["--parallel", "1"]);
        let mut stream = server.client.stream("/v1/completions", &endless(json!({"stream": true})));
        assert!(stream.event().is_some());
        let whole = endless(json!({})).to_string();
        let json = [("Content-Type", "application/json")];
        let waiting = server.client.open("POST", "/v1/completions", &json, whole.as_bytes());
        server.wait_until("waiting", 1);
        // Idle connections hold nothing up.
        let idle = std::net::TcpStream::connect(server.client.address).unwrap();
        let asked = Instant::now();
        server.signal(name);
        // Whoever waits is told.
        let reply = crate::client::Response::read_head(waiting).read();
        reply.error(503, None, Some("shutting_down"));
        let last = std::iter::from_fn(|| stream.event()).last().unwrap();
        let last: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(last["error"]["code"], "shutting_down");
        let (status, said) = server.end();
        assert_eq!(status.code(), Some(128 + signal), "{said}");
        assert!(asked.elapsed() < Duration::from_secs(10));
        drop(idle);
    }
}
