//! What answers took, in tokens and time.

use std::time::Duration;

use crate::engine::Event;

/// The tokens and the time of all answers to one request.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Tokens of each prompt.
    prompts: Vec<usize>,
    /// Answers to each prompt.
    n: usize,
    /// Tokens of the prompts that were in the cache. A prompt counts once.
    pub cached: usize,
    /// Tokens of prompts that were evaluated, for each answer anew.
    pub evaluated: usize,
    /// Tokens of the answers.
    pub generated: usize,
    /// Tokens that were drafted for the answers.
    pub drafted: usize,
    /// How many of these were accepted.
    pub accepted: usize,
    /// The longest time that a prompt took.
    pub prompt_time: Duration,
    /// The longest time that an answer took after its prompt.
    pub decode_time: Duration,
}

impl Tally {
    /// Nothing done yet, of `n` answers to each of the prompts, whose tokens are counted in `prompts`.
    pub fn new(prompts: Vec<usize>, n: usize) -> Self {
        Self {
            prompts,
            n,
            cached: 0,
            evaluated: 0,
            generated: 0,
            drafted: 0,
            accepted: 0,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
        }
    }

    /// Tokens of the prompts. A prompt counts once, however many answers it has.
    pub fn prompt(&self) -> usize {
        self.prompts.iter().sum()
    }

    /// Adds what happened to an answer.
    pub fn count(&mut self, index: usize, event: &Event) {
        match event {
            Event::Prompt { cached, .. } => {
                if index.is_multiple_of(self.n) {
                    self.cached += cached;
                }
                self.evaluated += self.prompts[index / self.n].saturating_sub(*cached);
            }
            Event::Done(done) => {
                self.generated += done.tokens;
                self.drafted += done.drafted;
                self.accepted += done.accepted;
                self.prompt_time = self.prompt_time.max(done.prompt_time);
                self.decode_time = self.decode_time.max(done.decode_time);
            }
            Event::Text { .. } | Event::Failed(_) => {}
        }
    }
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
            let done = Done {
                finish: Finish::Stop,
                tokens,
                queued: time,
                prompt_time: time,
                decode_time: time,
                drafted: tokens,
                accepted: tokens / 2,
            };
            tally.count(index, &Event::Done(done));
        }
        assert_eq!((tally.prompt(), tally.cached), (30, 5));
        assert_eq!((tally.evaluated, tally.generated), (27, 10));
        assert_eq!((tally.drafted, tally.accepted), (10, 4));
        let longest = Duration::from_secs(2);
        assert_eq!((tally.prompt_time, tally.decode_time), (longest, longest));
    }
}
