//! What a pass over the weights evaluates: the next token of every answer, and of prompts as much as
//! answers can wait for.

use std::time::Duration;

/// How long a pass may take for prompts while answers wait for their next token: a pause that a reader
/// hardly notices.
const SHORT: f64 = 0.25;

/// How long it may take while none does: an answer may begin, or a request go away, in between.
const LONG: f64 = 2.0;

/// Fewer tokens of a prompt than this are not worth a pass, whatever it takes: with them, and with fewer,
/// the weights are read once.
const FEW: usize = 16;

/// The same while no answer waits: below this, reading gets slower by the token.
const FEW_ALONE: usize = 128;

/// How much the last pass says of the next.
const NEWS: f64 = 0.3;

/// What a slot has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub slot: usize,
    /// Tokens to evaluate, at least one.
    pub tokens: usize,
    /// Whether its prompt was read, and all that is missing is the token that was picked last.
    pub answering: bool,
}

/// How long prompts take.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds for each token, once there was one.
    token: Option<f64>,
}

impl Pace {
    /// Learns from a pass of `tokens`.
    pub fn learn(&mut self, tokens: usize, time: Duration) {
        if tokens < FEW {
            return;
        }
        let new = time.as_secs_f64() / tokens as f64;
        self.token = Some(self.token.map_or(new, |old| old + NEWS * (new - old)));
    }

    /// Tokens of prompts that the next pass takes, at most a ubatch.
    fn budget(&self, answering: bool, n_ubatch: usize) -> usize {
        let (time, few) = if answering { (SHORT, FEW) } else { (LONG, FEW_ALONE) };
        let tokens = match self.token {
            Some(token) => (time / token) as usize,
            None => few,
        };
        tokens.clamp(few.min(n_ubatch), n_ubatch)
    }
}

/// The slots, in order, and how many of their tokens the next pass takes. Prompts take turns: `turn`
/// counts passes.
pub(super) fn plan(
    needs: &[Need],
    pace: &Pace,
    n_ubatch: usize,
    turn: usize,
) -> Vec<(usize, usize)> {
    let (answering, mut prompts): (Vec<Need>, Vec<Need>) =
        needs.iter().partition(|need| need.answering);
    let mut budget = pace.budget(!answering.is_empty(), n_ubatch);
    let mut planned: Vec<(usize, usize)> = answering.iter().map(|need| (need.slot, 1)).collect();
    if !prompts.is_empty() {
        let first = turn % prompts.len();
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
    fn every_answer_goes_on_and_prompts_share_what_is_left() {
        let needs = [answer(0), prompt(1, 300), answer(2), prompt(3, 30)];
        // 0.25 s at 400 tokens a second.
        let found = plan(&needs, &pace(400.5), 512, 0);
        assert_eq!(found, [(0, 1), (1, 100), (2, 1)]);
        let found = plan(&needs, &pace(400.5), 512, 1);
        assert_eq!(found, [(0, 1), (1, 70), (2, 1), (3, 30)]);
    }

    #[test]
    fn without_answers_a_prompt_gets_more_but_never_more_than_a_ubatch() {
        let needs = [prompt(0, 1000)];
        assert_eq!(plan(&needs, &pace(100.5), 512, 7), [(0, 201)]);
        assert_eq!(plan(&needs, &pace(1e6), 512, 7), [(0, 512)]);
        assert_eq!(plan(&needs, &pace(1.0), 512, 7), [(0, FEW_ALONE)]);
        assert_eq!(plan(&needs, &pace(1.0), 32, 7), [(0, 32)]);
        assert_eq!(plan(&needs, &Pace::default(), 512, 7), [(0, FEW_ALONE)]);
        // However slow, a prompt comes on while others answer.
        assert_eq!(plan(&[answer(1), prompt(0, 90)], &pace(1.0), 512, 0), [(0, FEW), (1, 1)]);
    }

    #[test]
    fn no_prompt_is_passed_over_for_ever() {
        let needs = [answer(0), prompt(1, 5000), prompt(2, 5000), prompt(3, 5000)];
        let mut read = [0; 4];
        for turn in 0..9 {
            for (slot, n) in plan(&needs, &pace(100.0), 512, turn) {
                read[slot] += n;
            }
        }
        assert_eq!(read, [9, 75, 75, 75]);
    }

    #[test]
    fn the_pace_follows_what_passes_take() {
        let mut pace = Pace::default();
        pace.learn(FEW - 1, Duration::from_secs(9));
        assert_eq!(pace.token, None, "a pass that reads the weights for little says nothing");
        pace.learn(100, Duration::from_secs(1));
        assert_eq!(pace.token, Some(0.01));
        for _ in 0..30 {
            pace.learn(100, Duration::from_secs(2));
        }
        assert!((pace.token.unwrap() - 0.02).abs() < 1e-5);
    }
}
