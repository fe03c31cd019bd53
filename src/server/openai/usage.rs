//! What answers took: OpenAI's `usage`, and beside it llama.cpp's `timings`.

use std::time::Duration;

use serde_json::{json, Value};

use crate::server::generation::Tally;

/// In OpenAI's words.
pub fn usage(tally: &Tally) -> Value {
    json!({
        "prompt_tokens": tally.prompt(),
        "completion_tokens": tally.generated,
        "total_tokens": tally.prompt() + tally.generated,
        "prompt_tokens_details": {"cached_tokens": tally.cached},
    })
}

/// In llama.cpp's words
/// (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server#timings-and-context-usage>). As
/// there, `draft_n` and `draft_n_accepted` are left out if nothing was drafted.
pub fn timings(tally: &Tally) -> Value {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let mut timings = json!({
        "cache_n": tally.cached,
        "prompt_n": tally.evaluated,
        "prompt_ms": milliseconds(tally.prompt_time),
        "prompt_per_second": per_second(tally.evaluated, tally.prompt_time),
        "predicted_n": tally.generated,
        "predicted_ms": milliseconds(tally.decode_time),
        "predicted_per_second": per_second(tally.generated, tally.decode_time),
    });
    if tally.drafted > 0 {
        timings["draft_n"] = json!(tally.drafted);
        timings["draft_n_accepted"] = json!(tally.accepted);
    }
    timings
}

/// Tokens per second, if there are tokens and time.
fn per_second(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_said_in_both_forms() {
        let mut tally = Tally::new(vec![10, 20], 2);
        (tally.cached, tally.evaluated, tally.generated) = (5, 27, 10);
        tally.decode_time = Duration::from_secs(2);
        let expected = json!({
            "prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 5},
        });
        assert_eq!(usage(&tally), expected);
        let mut expected = json!({
            "cache_n": 5, "prompt_n": 27, "prompt_ms": 0.0, "prompt_per_second": null,
            "predicted_n": 10, "predicted_ms": 2000.0, "predicted_per_second": 5.0,
        });
        assert_eq!(timings(&tally), expected);
        (tally.drafted, tally.accepted) = (8, 6);
        (expected["draft_n"], expected["draft_n_accepted"]) = (json!(8), json!(6));
        assert_eq!(timings(&tally), expected);
    }
}
