//! What answers took, in tokens and time.

use std::time::Duration;

use serde_json::{json, Value};

use crate::engine::Event;

/// The tokens and the time of all answers to one request.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Tokens of each prompt.
    prompts: Vec<usize>,
    /// Answers to each prompt.
    n: usize,
    /// Tokens of the prompts that were in the cache.
    cached: usize,
    /// Tokens of prompts that were evaluated, for all answers.
    evaluated: usize,
    /// Tokens of the answers.
    completion: usize,
    /// The longest that a prompt took.
    prompt_time: Duration,
    /// The longest that an answer took after its prompt.
    decode_time: Duration,
}

impl Tally {
    /// Nothing done yet, of `n` answers to each of the prompts of so many tokens.
    pub fn new(prompts: Vec<usize>, n: usize) -> Self {
        Self {
            prompts,
            n,
            cached: 0,
            evaluated: 0,
            completion: 0,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
        }
    }

    /// Adds what happened to an answer. A prompt counts once, however many answers it has.
    pub fn count(&mut self, index: usize, event: &Event) {
        match event {
            Event::Prompt { cached, .. } => {
                if index.is_multiple_of(self.n) {
                    self.cached += cached;
                }
                self.evaluated += self.prompts[index / self.n].saturating_sub(*cached);
            }
            Event::Done(done) => {
                self.completion += done.tokens;
                self.prompt_time = self.prompt_time.max(done.prompt_time);
                self.decode_time = self.decode_time.max(done.decode_time);
            }
            Event::Text { .. } | Event::Failed(_) => {}
        }
    }

    /// In OpenAI's words.
    pub fn usage(&self) -> Value {
        let prompt: usize = self.prompts.iter().sum();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": self.completion,
            "total_tokens": prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }

    /// In llama.cpp's words
    /// (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server#timings-and-context-usage>).
    pub fn timings(&self) -> Value {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "cache_n": self.cached,
            "prompt_n": self.evaluated,
            "prompt_ms": milliseconds(self.prompt_time),
            "prompt_per_second": speed(self.evaluated, self.prompt_time),
            "predicted_n": self.completion,
            "predicted_ms": milliseconds(self.decode_time),
            "predicted_per_second": speed(self.completion, self.decode_time),
        })
    }
}

/// Tokens per second, if that can be said.
fn speed(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Done, Finish};

    #[test]
    fn a_prompt_counts_once_and_answers_each() {
        let mut tally = Tally::new(vec![10, 20], 2);
        for (index, cached) in [(0, 0), (1, 9), (2, 5), (3, 19)] {
            tally.count(index, &Event::Prompt { cached, logprobs: Vec::new() });
        }
        for (index, tokens) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            let time = Duration::from_millis(500 * tokens as u64);
            let finish = Finish::Stop;
            let done = Done { finish, tokens, queued: time, prompt_time: time, decode_time: time };
            tally.count(index, &Event::Done(done));
        }
        let usage = tally.usage();
        assert_eq!(
            (&usage["prompt_tokens"], &usage["completion_tokens"]),
            (&json!(30), &json!(10))
        );
        assert_eq!(usage["total_tokens"], 40);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 5);
        let timings = tally.timings();
        assert_eq!((&timings["prompt_n"], &timings["predicted_n"]), (&json!(27), &json!(10)));
        assert_eq!(timings["predicted_per_second"], 5.0);
        assert_eq!(Tally::new(vec![1], 1).timings()["predicted_per_second"], Value::Null);
    }
}
