//! Plans what a pass over the weights evaluates: the next token of every answer, and as many tokens
//! of prompts as the answers can wait for.

use std::time::Duration;

/// Longest pass in seconds while answers wait for their next token. A reader hardly notices such a
/// pause.
const MAX_SECONDS_ANSWERING: f64 = 0.25;

/// Longest pass in seconds while no answer waits. Between two passes an answer may start or a
/// request may be cancelled.
const MAX_SECONDS: f64 = 2.0;

/// Fewest tokens of prompts in a pass, however long they take: the pass reads all weights even for
/// a single token.
const MIN_TOKENS_ANSWERING: usize = 16;

/// The same while no answer waits. Passes with fewer tokens than this take longer per token.
const MIN_TOKENS: usize = 128;

/// Weight of the last pass in the moving average.
const SMOOTHING: f64 = 0.3;

/// What a slot has to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub slot: usize,
    /// Tokens to evaluate, at least one.
    pub tokens: usize,
    /// Whether its prompt has been evaluated, so that only the token that was sampled last is
    /// missing.
    pub answering: bool,
}

/// How long the evaluation of prompts takes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds per token, as a moving average; `None` before the first measurement.
    token: Option<f64>,
}

impl Pace {
    /// Adds a pass of `tokens` tokens to the average. Small passes say nothing about prompts and
    /// are ignored.
    pub fn add(&mut self, tokens: usize, time: Duration) {
        if tokens < MIN_TOKENS_ANSWERING {
            return;
        }
        let new = time.as_secs_f64() / tokens as f64;
        self.token = Some(self.token.map_or(new, |old| old + SMOOTHING * (new - old)));
    }

    /// Number of tokens of prompts that the next pass evaluates, at most a ubatch.
    fn budget(&self, answering: bool, n_ubatch: usize) -> usize {
        let (time, min) = if answering {
            (MAX_SECONDS_ANSWERING, MIN_TOKENS_ANSWERING)
        } else {
            (MAX_SECONDS, MIN_TOKENS)
        };
        let tokens = match self.token {
            Some(token) => (time / token) as usize,
            None => min,
        };
        tokens.clamp(min.min(n_ubatch), n_ubatch)
    }
}

/// The slots of the next pass in order, each with the number of its tokens to evaluate. `pass`, the
/// number of the pass, decides which prompt comes first, so that each comes first in turn.
pub(super) fn plan(
    needs: &[Need],
    pace: &Pace,
    n_ubatch: usize,
    pass: usize,
) -> Vec<(usize, usize)> {
    let (answering, mut prompts): (Vec<Need>, Vec<Need>) =
        needs.iter().partition(|need| need.answering);
    let mut budget = pace.budget(!answering.is_empty(), n_ubatch);
    let mut planned: Vec<(usize, usize)> = answering.iter().map(|need| (need.slot, 1)).collect();
    if !prompts.is_empty() {
        let first = pass % prompts.len();
        prompts.rotate_left(first);
    }
    for Need { slot, tokens, .. } in prompts {
        let n = tokens.min(budget);
        if n > 0 {
            planned.push((slot, n));
            budget -= n;
        }
    }
    planned.sort_unstable();
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(slot: usize, tokens: usize) -> Need {
        Need { slot, tokens, answering: false }
    }

    fn answer(slot: usize) -> Need {
        Need { slot, tokens: 1, answering: true }
    }

    fn pace(tokens_per_second: f64) -> Pace {
        Pace { token: Some(1.0 / tokens_per_second) }
    }

    #[test]
    fn every_answer_advances_and_prompts_share_the_rest_of_the_pass() {
        let needs = [answer(0), prompt(1, 300), answer(2), prompt(3, 30)];
        // 0.25 s at 400 tokens per second.
        let found = plan(&needs, &pace(400.5), 512, 0);
        assert_eq!(found, [(0, 1), (1, 100), (2, 1)]);
        let found = plan(&needs, &pace(400.5), 512, 1);
        assert_eq!(found, [(0, 1), (1, 70), (2, 1), (3, 30)]);
    }

    #[test]
    fn without_answers_a_prompt_gets_more_but_at_most_a_ubatch() {
        let needs = [prompt(0, 1000)];
        assert_eq!(plan(&needs, &pace(100.5), 512, 7), [(0, 201)]);
        assert_eq!(plan(&needs, &pace(1e6), 512, 7), [(0, 512)]);
        assert_eq!(plan(&needs, &pace(1.0), 512, 7), [(0, MIN_TOKENS)]);
        assert_eq!(plan(&needs, &pace(1.0), 32, 7), [(0, 32)]);
        assert_eq!(plan(&needs, &Pace::default(), 512, 7), [(0, MIN_TOKENS)]);
        // However slow the machine is, a prompt advances while others answer.
        assert_eq!(
            plan(&[answer(1), prompt(0, 90)], &pace(1.0), 512, 0),
            [(0, MIN_TOKENS_ANSWERING), (1, 1)]
        );
    }

    #[test]
    fn every_prompt_advances_in_turn() {
        let needs = [answer(0), prompt(1, 5000), prompt(2, 5000), prompt(3, 5000)];
        let mut read = [0; 4];
        for pass in 0..9 {
            for (slot, n) in plan(&needs, &pace(100.0), 512, pass) {
                read[slot] += n;
            }
        }
        assert_eq!(read, [9, 75, 75, 75]);
    }

    #[test]
    fn the_pace_follows_the_measured_times() {
        let mut pace = Pace::default();
        pace.add(MIN_TOKENS_ANSWERING - 1, Duration::from_secs(9));
        assert_eq!(pace.token, None, "a pass that reads the weights for little says nothing");
        pace.add(100, Duration::from_secs(1));
        assert_eq!(pace.token, Some(0.01));
        for _ in 0..30 {
            pace.add(100, Duration::from_secs(2));
        }
        assert!((pace.token.unwrap() - 0.02).abs() < 1e-5);
    }
}
