//! A generated token, with its log-probabilities.

use crate::kernels::{log_sum_exp, Isa};

/// A token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probabilities, if they were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// The log-probabilities of a token and of the likeliest tokens at its position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub id: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens with their log-probabilities, in descending order; as many as were
    /// asked for.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// The log-probabilities of token `id` and of the `n` likeliest tokens, from the logits,
    /// `[n_vocab]`. Of equally likely tokens, the one with the lowest id comes first.
    pub fn new(isa: Isa, logits: &[f32], id: u32, n: usize) -> Self {
        let sum = log_sum_exp(isa, logits);
        let logprob = |logit: f32| (f64::from(logit) - sum) as f32;
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
        for (id, logit) in (0..).zip(logits) {
            if top.len() < n || top.last().is_some_and(|(_, least)| logit > least) {
                let at = top.partition_point(|(_, other)| other >= logit);
                top.insert(at, (id, *logit));
                top.truncate(n);
            }
        }
        top.iter_mut().for_each(|(_, logit)| *logit = logprob(*logit));
        Self { id, logprob: logprob(logits[id as usize]), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_those_of_a_softmax() {
        let logits: Vec<f32> = [0.5, 0.125, 0.25, 0.125].map(f32::ln).to_vec();
        let found = TokenLogprobs::new(Isa::SCALAR, &logits, 2, 3);
        let near = |found: f32, p: f32| (found - p.ln()).abs() < 1e-6;
        assert!(near(found.logprob, 0.25), "{found:?}");
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 2, 1]);
        assert!(found.top.iter().zip([0.5, 0.25, 0.125]).all(|((_, x), p)| near(*x, p)));
        assert!(TokenLogprobs::new(Isa::SCALAR, &logits, 0, 0).top.is_empty());
        assert_eq!(TokenLogprobs::new(Isa::SCALAR, &logits, 0, 9).top.len(), 4);
    }
}
