//! Who may ask, how, and how much.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::client::Client;
use crate::running::{Server, PATIENCE};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn a_key_is_asked_for_everywhere_but_at_the_door() {
    let server = Server::start_with(&["--api-key", "first"], &[("LAPIDARY_API_KEY", "second")]);
    let bare = &server.client;
    let body = json!({"prompt": "And", "max_tokens": 1});
    for key in ["first", "second"] {
        let client = bare.clone().with("Authorization", &format!("Bearer {key}"));
        client.post("/v1/completions", &body).json(200);
        client.request("GET", "/v1/models", &[], b"").json(200);
    }
    let wrong = bare.clone().with("Authorization", "Bearer third");
    for client in [bare, &wrong] {
        for path in ["/v1/models", "/metrics", "/nowhere"] {
            let reply = client.request("GET", path, &[], b"");
            reply.error(401, None, Some("invalid_api_key"));
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
        for path in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"] {
            client.post(path, &body).error(401, None, Some("invalid_api_key"));
        }
        client.request("GET", "/health", &[], b"").json(200);
    }
}

#[test]
fn a_server_for_this_machine_has_no_other_name() {
    let server = Server::start(&[]);
    let port = server.client.address.port();
    let get = |host: &str| server.client.request("GET", "/health", &[("Host", host)], b"");
    for host in ["localhost", "127.0.0.1", "[::1]", "chat.localhost", "host.docker.internal"] {
        get(&format!("{host}:{port}")).json(200);
    }
    for host in [format!("rebound.example:{port}"), "192.168.1.1".to_owned(), String::new()] {
        let message = get(&host).error(403, None, Some("invalid_host"));
        assert!(message.contains("--allowed-host") && message.contains(&host), "{message}");
    }
    let server = Server::start(&["--allowed-host", "box.example"]);
    let get = |host: &str| server.client.request("GET", "/health", &[("Host", host)], b"");
    get("box.example").json(200);
    get("other.example").error(403, None, Some("invalid_host"));
    // For others it has names that it does not know.
    let server = Server::start(&["--host", "0.0.0.0"]);
    let client = Client::new(([127, 0, 0, 1], server.client.address.port()).into());
    client.request("GET", "/health", &[("Host", "box.example")], b"").json(200);
}

#[test]
fn only_json_is_read_and_only_so_much() {
    let server = Server::start(&[]);
    let post = |headers: &[(&str, &str)], body: &[u8]| {
        server.client.request("POST", "/v1/completions", headers, body)
    };
    let body = json!({"prompt": "And", "max_tokens": 1}).to_string();
    post(&[("Content-Type", "application/json; charset=utf-8")], body.as_bytes()).json(200);
    for other in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        post(&[("Content-Type", other)], body.as_bytes()).error(415, None, None);
    }
    post(&[], body.as_bytes()).error(415, None, None);
    for flawed in ["", "{", "[]", "\"x\"", "{\"prompt\": \"\u{0}\"}"] {
        post(&[JSON], flawed.as_bytes()).error(400, None, None);
    }
    post(&[JSON], b"{\"prompt\": \"\xff\"}").error(400, None, None);
    post(&[JSON], "[".repeat(1 << 20).as_bytes()).error(400, None, None);
    // What it is told of in advance is not read at all.
    let length = (5 << 20).to_string();
    post(&[JSON, ("Content-Length", &length)], b"").error(413, None, None);
    // What it is not told of is read that far.
    let chunks = format!("100000\r\n{}\r\n", " ".repeat(1 << 20)).repeat(4) + "1\r\n \r\n";
    let chunked = [JSON, ("Transfer-Encoding", "chunked")];
    post(&chunked, (chunks + "0\r\n\r\n").as_bytes()).error(413, None, None);
}

#[test]
fn pages_of_other_origins_are_let_in_by_name_only() {
    let asks = [
        ("Origin", "https://chat.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,authorization,x-stainless-os"),
    ];
    let allowed = |server: &Server, headers: &[(&str, &str)]| {
        let reply = server.client.request("OPTIONS", "/v1/completions", headers, b"");
        reply.header("access-control-allow-origin").map(str::to_owned)
    };
    let server = Server::start(&[]);
    assert_eq!(allowed(&server, &asks), None);
    let options =
        ["--cors", "https://chat.example", "--cors", "http://localhost:3000", "--api-key", "k"];
    let server = Server::start(&options);
    assert_eq!(allowed(&server, &asks).as_deref(), Some("https://chat.example"));
    let reply = server.client.request("OPTIONS", "/v1/completions", &asks, b"");
    assert_eq!(reply.header("access-control-allow-headers"), Some(asks[2].1));
    let evil = [("Origin", "https://evil.example"), asks[1], asks[2]];
    assert_eq!(allowed(&server, &evil), None);
    let reply = server.client.request("GET", "/health", &asks[..1], b"");
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://chat.example"));
}

#[test]
fn localhost_is_both_loopback_addresses() {
    let server = Server::start(&["--host", "localhost"]);
    let port = server.client.address.port();
    Client::new((Ipv4Addr::LOCALHOST, port).into()).request("GET", "/health", &[], b"").json(200);
    // A container may have no IPv6.
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let client = Client::new((Ipv6Addr::LOCALHOST, port).into());
        client.request("GET", "/health", &[], b"").json(200);
    }
}

/// What comes of bytes, until the server ends the connection.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.client.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may have ended by then.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn what_is_no_http_ends_its_connection_and_nothing_else() {
    let server = Server::start(&[]);
    let many = "x: y\r\n".repeat(100);
    let long = "x".repeat(200_000);
    for flawed in [
        "hello\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned() + "\r\n\r\n",
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nx: {long}\r\n\r\n"),
        "GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(),
    ] {
        let reply = raw(&server, flawed.as_bytes());
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
    }
    server.get("/health").json(200);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let server = Server::start(&[]);
    let silent: Vec<_> =
        (0..100).map(|_| TcpStream::connect(server.client.address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(50));
    server.get("/health").json(200);
    drop(silent);
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    for options in [
        ["--parallel", "0"],
        ["--queue", "0"],
        ["--port", "65536"],
        ["--api-key", ""],
        ["--api-key", "a b"],
        ["--cors", "*"],
        ["--cors", "chat.example"],
        ["--cors", "://chat.example"],
        ["--allowed-host", "box.example:80"],
        ["--allowed-host", "*"],
        ["--temp", "hot"],
        ["--cors", "https://chat.example/path"],
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lapidary"));
        let output = command.args(["serve", "none.gguf"]).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}");
    }
}
