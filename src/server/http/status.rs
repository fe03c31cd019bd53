//! What the server says of itself: `/health`, as llama.cpp's server has it, and `/metrics`.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::Json;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{text, DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{json, Value};

use super::app::App;
use super::error::ApiError;
use crate::engine::Status;

/// That the server runs, and how busy it is.
pub async fn health(State(app): State<Arc<App>>) -> Json<Value> {
    let Status { parallel, busy, waiting, queue, .. } = app.handle.status();
    Json(json!({
        "status": "ok",
        "parallel": parallel,
        "busy": busy,
        "waiting": waiting,
        "queue": queue,
    }))
}

/// Numbers for Prometheus (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
pub async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let mut registry = Registry::with_prefix("lapidary");
    registry.register_collector(Box::new(Snapshot(app.handle.status())));
    let mut body = String::new();
    let failed = |_| ApiError::internal("the metrics could not be written");
    text::encode(&mut body, &registry).map_err(failed)?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], body))
}

/// The state of the engine at one moment.
#[derive(Debug)]
struct Snapshot(Status);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Status { parallel, busy, waiting, queue, totals } = &self.0;
        let gauges = [
            ("sequences", "Answers that can be made at a time", *parallel),
            ("sequences_busy", "Answers that are being made", *busy),
            ("queue", "Requests that may wait", *queue),
            ("queue_waiting", "Requests that wait", *waiting),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            one(&mut encoder, name, help, None, &gauge)?;
        }
        let counters = [
            (
                "prompt_tokens",
                "Tokens of prompts, those in the cache included",
                totals.prompt_tokens,
            ),
            ("cached_tokens", "Tokens of prompts that were in the cache", totals.cached_tokens),
            ("generated_tokens", "Tokens of answers", totals.generated_tokens),
            ("steps", "Passes over the model's weights", totals.steps),
            ("draft_steps", "Passes that evaluated drafted tokens", totals.draft_steps),
            ("drafted_tokens", "Tokens that were drafted", totals.drafted_tokens),
            (
                "accepted_tokens",
                "Drafted tokens that became answers' tokens",
                totals.accepted_tokens,
            ),
            (
                "draft_failures",
                "Drafters that were given up because their values are NaN or infinite",
                totals.draft_failures,
            ),
            ("requests", "Answers that were taken on", totals.requests),
            ("finished_stop", "Answers that came to their end", totals.finished_stop),
            ("finished_length", "Answers that came to their length", totals.finished_length),
            ("cancelled", "Answers whose clients went away", totals.cancelled),
            ("failed", "Answers that could not be made", totals.failed),
            ("refused", "Requests that were refused because too many waited", totals.refused),
        ];
        for (name, help, value) in counters {
            one(&mut encoder, name, help, None, &ConstCounter::new(value))?;
        }
        let seconds = [
            ("prompt", "Time in passes that read prompts", totals.prompt_seconds),
            ("decode", "Time in the other passes", totals.decode_seconds),
        ];
        for (name, help, value) in seconds {
            one(&mut encoder, name, help, Some(&Unit::Seconds), &ConstCounter::new(value))?;
        }
        Ok(())
    }
}

fn one(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}
