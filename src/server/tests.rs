//! A second dialect, mounted as any other is: it has its row and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use axum::body::{to_bytes, Body};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use axum::Router;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{json, Value};
use tokio::runtime::{self, Runtime};

use super::generation::{Generation, Options, Tally, WholeAnswer, Wording};
use super::http::app::{App, Defaults, ModelCard, TemplateError};
use super::http::body::JsonBody;
use super::http::dialect::Dialect;
use super::http::error::ApiError;
use super::http::fields::wrong;
use super::http::guard::{ApiKey, Rules};
use super::http::router::router;
use super::openai;
use crate::engine::{Engine, EngineOptions, Finish, Token, TokenLogprobs};
use crate::kernels::KvType;
use crate::model::{Model, Source, StateOptions};
use crate::sampling::SamplerConfig;
use crate::tokenizer::{Special, Tokenizer};

static DIALECTS: [Dialect; 2] = [openai::DIALECT, LINES];

/// A dialect of one path, whose streams are lines of JSON.
const LINES: Dialect = Dialect {
    paths: &["/lines"],
    routes: || Router::new().route("/lines", post(write)).route("/lines/panic", post(panics)),
    key: |headers| Some(headers.get("x-lines-key")?.as_bytes()),
    error: |error| json!({"wrong": error.message, "at": error.field}),
};

async fn write(State(app): State<Arc<App>>, body: JsonBody) -> Result<Response, ApiError> {
    let generation = app.prepare(body, |app, fields| {
        let start = fields.text("start")?.ok_or_else(|| wrong("start", "a string"))?;
        let sampling = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
        let max_tokens = Some(fields.integer("tokens", 1..=2000)?.unwrap_or(4) as usize);
        let options = Options { sampling, max_tokens, ignore_eos: true, ..Options::default() };
        let prompt = app.tokenizer.encode_with_bos(start, Special::Plain);
        Generation::submit(app, &[prompt], &options, fields.flag("stream")?, Lines)
    });
    generation.await?.respond().await
}

async fn panics() {
    panic!("on purpose")
}

/// How it words answers.
pub struct Lines;

fn line(value: Value) -> Vec<String> {
    vec![format!("{value}\n")]
}

impl Wording for Lines {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";
    const KEEP_ALIVE: Option<&'static str> = Some("\n");

    fn whole(&mut self, answers: &[WholeAnswer], tally: &Tally) -> Value {
        json!({"wrote": answers[0].text, "tokens": tally.generated})
    }

    fn begin(&mut self, _: usize, _: &[TokenLogprobs], tally: &Tally) -> Vec<String> {
        line(json!({"read": tally.prompt()}))
    }

    fn text(&mut self, _: usize, text: &str, _: &[Token]) -> Vec<String> {
        line(json!({"wrote": text}))
    }

    fn end(&mut self, _: usize, finish: Finish, tally: &Tally, last: bool) -> Vec<String> {
        assert!(last && finish == Finish::Length);
        line(json!({"tokens": tally.generated}))
    }

    fn finish(&mut self, _: &Tally) -> Vec<String> {
        line(json!("done"))
    }

    fn fail(&mut self, error: &ApiError) -> Vec<String> {
        line((LINES.error)(error))
    }
}

/// Asks a router with both dialects and a real engine behind it.
struct Client {
    service: TowerToHyperService<Router>,
    runtime: Runtime,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Client {
    /// Runs a server while `test` asks it.
    fn with(rules: Rules, test: impl FnOnce(Self)) {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gemma2");
        let source = Source::open(Path::new(fixture)).unwrap();
        let tokenizer = Arc::new(Tokenizer::new(source.vocab().unwrap()).unwrap());
        let model = Model::load(&source, Some(1)).unwrap();
        let stop_ids = source.stop_ids(tokenizer.vocab());
        let state = StateOptions::new(256, KvType::F32);
        let options = EngineOptions { parallel: 1, queue: 1, state };
        let (engine, handle) = Engine::new(&model, &tokenizer, stop_ids.clone(), options);
        thread::scope(|scope| {
            scope.spawn(|| engine.run());
            let card = ModelCard {
                name: "tiny".into(),
                n_ctx_train: 1,
                n_embd: 1,
                size: 1,
                architecture: "gemma2",
                parameters: 1,
                file_type: "F32".into(),
            };
            let encode = |_: &[_]| Err(TemplateError("there is no template".into()));
            let tokenizer = Arc::clone(&tokenizer);
            let app =
                App::new(handle, tokenizer, stop_ids, Arc::new(encode), card, Defaults::default());
            let origins = vec!["https://lines.example".parse().unwrap()];
            let service =
                TowerToHyperService::new(router(Arc::new(app), rules, origins, &DIALECTS));
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            test(Self { service, runtime });
        });
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        self.runtime.block_on(async {
            let (head, body) = self.service.call(request).await.unwrap().into_parts();
            let bytes = to_bytes(body, usize::MAX).await.unwrap();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            Reply { status: head.status.as_u16(), headers: head.headers, text }
        })
    }

    /// Posts JSON to the dialect's path.
    fn write(&self, body: &Value) -> Reply {
        self.ask("POST", "/lines", &[JSON], &body.to_string())
    }
}

impl Reply {
    /// The body of a response of some status.
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/json");
        assert_eq!(self.headers["content-length"], self.text.len().to_string().as_str());
        serde_json::from_str(&self.text).unwrap()
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn a_dialect_answers_in_its_own_words() {
    Client::with(Rules::default(), |client| {
        let whole = client.write(&json!({"start": "And David said"})).json(200);
        assert_eq!(whole["tokens"], 4);
        let stream = client.write(&json!({"start": "And David said", "stream": true}));
        assert_eq!(stream.headers["content-type"], "application/x-ndjson");
        let lines: Vec<Value> =
            stream.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines[0]["read"].as_u64().unwrap() > 1, "{lines:?}");
        let text: String = lines.iter().filter_map(|line| line["wrote"].as_str()).collect();
        assert_eq!(whole["wrote"], text);
        assert_eq!(lines[lines.len() - 2..], [json!({"tokens": 4}), json!("done")]);
        // The same text by the default dialect.
        let body = json!({
            "prompt": "And David said", "max_tokens": 4, "temperature": 0, "ignore_eos": true,
        });
        let reply = client.ask("POST", "/v1/completions", &[JSON], &body.to_string()).json(200);
        assert_eq!(reply["choices"][0]["text"], text);
    });
}

#[test]
fn a_dialect_words_all_errors_below_its_paths() {
    Client::with(Rules::default(), |client| {
        let wrong = |reply: Reply, status, at: Option<&str>| {
            let error = reply.json(status);
            assert_eq!(error.as_object().unwrap().len(), 2, "{error}");
            assert!(error["wrong"].is_string() && error["at"].as_str() == at, "{error}");
        };
        // Of the fields, the dialect and the engine.
        wrong(client.write(&json!({"start": 1})), 400, Some("start"));
        wrong(client.write(&json!({})), 400, Some("start"));
        wrong(client.write(&json!({"start": "Selah ".repeat(500)})), 400, None);
        // Of transport.
        wrong(client.ask("POST", "/lines", &[JSON], "{"), 400, None);
        wrong(client.ask("POST", "/lines", &[], "{}"), 415, None);
        wrong(client.ask("POST", "/lines/panic", &[], ""), 500, None);
        wrong(client.ask("GET", "/lines/none", &[], ""), 404, None);
        let length = ("content-length", "9999999999");
        wrong(client.ask("POST", "/lines", &[JSON, length], ""), 413, None);
        let reply = client.ask("GET", "/lines", &[], "");
        assert_eq!(reply.headers["allow"], "POST");
        wrong(reply, 405, None);
        // Other paths are none of its business.
        for path in ["/", "/linesman", "/v1/lines", "/none"] {
            let reply = client.ask("DELETE", path, &[], "");
            let error: Value = serde_json::from_str(&reply.text).unwrap();
            assert_eq!(error["error"]["type"], "invalid_request_error", "{path}");
        }
    });
}

#[test]
fn a_dialect_has_its_own_way_to_show_a_key() {
    let rules = || Rules { keys: vec![ApiKey::new("secret").unwrap()], ..Rules::default() };
    Client::with(rules(), |client| {
        let body = json!({"start": "And"}).to_string();
        let ask = |header| client.ask("POST", "/lines", &[JSON, header], &body);
        ask(("x-lines-key", "secret")).json(200);
        for header in [("x-lines-key", "other"), ("authorization", "Bearer secret"), ("x-a", "b")] {
            assert!(ask(header).json(401)["wrong"].is_string(), "{header:?}");
        }
        let models = |header| client.ask("GET", "/v1/models", &[header], "").status;
        assert_eq!(models(("authorization", "Bearer secret")), 200);
        assert_eq!(models(("x-lines-key", "secret")), 401);
        let asks = [
            ("origin", "https://lines.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-lines-key"),
        ];
        let reply = client.ask("OPTIONS", "/lines", &asks, "");
        let allowed = reply.headers["access-control-allow-headers"].to_str().unwrap();
        assert_eq!(allowed, "x-lines-key");
        // An error that was worded at last has the headers that came before.
        let reply = client.ask("POST", "/lines", &asks[..1], "");
        assert_eq!(reply.headers["access-control-allow-origin"], "https://lines.example");
        reply.json(401);
    });
    let rules = Rules { loopback: Some("127.0.0.1".into()), ..Rules::default() };
    Client::with(rules, |client| {
        let evil = [("host", "evil.example")];
        assert!(client.ask("POST", "/lines", &evil, "").json(403)["wrong"].is_string());
        let reply = client.ask("GET", "/v1/models", &evil, "").json(403);
        assert_eq!(reply["error"]["code"], "invalid_host");
    });
}
