//! The tokens that may be picked, filtered by top-k, top-p and min-p.

use std::cmp::Ordering;

/// How many candidates top-p sorts at first. It is usually enough; if not, it is doubled.
const FIRST_SORTED: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// The likeliest comes first; among equals, the one with the lowest id. No two compare equal, so
    /// the candidates that are kept, and their order, do not depend on how a sort treats equals.
    fn by_rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// The tokens that may still be picked; never empty. All logits are finite.
pub(super) struct Candidates(Vec<Candidate>);

impl Candidates {
    /// All tokens except the impossible ones (`f32::MIN`), which the highest temperatures would make
    /// possible. If all are impossible, all are kept.
    pub(super) fn new(logits: &[f32]) -> Self {
        let all = (0..).zip(logits).map(|(id, logit)| Candidate { id, logit: *logit });
        let possible: Vec<_> = all.clone().filter(|c| c.logit > f32::MIN).collect();
        Self(if possible.is_empty() { all.collect() } else { possible })
    }

    /// Keeps the `k` likeliest; 0 keeps all.
    pub(super) fn top_k(&mut self, k: usize) {
        if k > 0 && k < self.0.len() {
            self.sort_first(k);
            self.0.truncate(k);
        }
    }

    /// Keeps the likeliest, as few as reach a total probability of `p`; 1 keeps all.
    pub(super) fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let max = self.max();
        let weight = |c: &Candidate| f64::from(c.logit - max).exp();
        let target = f64::from(p) * self.0.iter().map(weight).sum::<f64>();
        let mut sorted = FIRST_SORTED.min(self.0.len());
        loop {
            self.sort_first(sorted);
            let mut sum = 0.0;
            let enough = self.0[..sorted].iter().position(|c| {
                sum += weight(c);
                sum >= target
            });
            if let Some(last) = enough {
                return self.0.truncate(last + 1);
            }
            if sorted == self.0.len() {
                // The sum of all is below the target only because of rounding.
                return;
            }
            sorted = (sorted * 2).min(self.0.len());
        }
    }

    /// Keeps those that are at least `p` times as likely as the likeliest.
    pub(super) fn min_p(&mut self, p: f32) {
        let max = self.max();
        self.0.retain(|c| (c.logit - max).exp() >= p);
    }

    /// Picks the candidate at `unit`, from 0 to below 1, of the cumulative probability.
    pub(super) fn draw(&self, temperature: f32, unit: f64) -> u32 {
        let max = self.max();
        let weight = |c: &Candidate| (f64::from(c.logit - max) / f64::from(temperature)).exp();
        let mut left = unit * self.0.iter().map(weight).sum::<f64>();
        for candidate in &self.0 {
            left -= weight(candidate);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave a little after the last candidate; any choice is as good as another.
        self.best().id
    }

    /// Puts the `n` likeliest first, in order, without sorting the others.
    fn sort_first(&mut self, n: usize) {
        if n < self.0.len() {
            self.0.select_nth_unstable_by(n, Candidate::by_rank);
        }
        self.0[..n].sort_unstable_by(Candidate::by_rank);
    }

    fn best(&self) -> Candidate {
        let first = self.0[0];
        self.0.iter().fold(first, |a, b| if b.by_rank(&a).is_lt() { *b } else { a })
    }

    fn max(&self) -> f32 {
        self.best().logit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(candidates: &Candidates) -> Vec<u32> {
        candidates.0.iter().map(|c| c.id).collect()
    }

    /// Candidates with these probabilities.
    fn of(probabilities: &[f32]) -> Candidates {
        Candidates::new(&probabilities.iter().map(|p| p.ln()).collect::<Vec<_>>())
    }

    #[test]
    fn top_k_keeps_the_likeliest_and_the_lowest_ids_of_equals() {
        for (k, kept) in [
            (0, vec![0, 1, 2, 3, 4]),
            (1, vec![3]),
            (2, vec![3, 1]),
            (3, vec![3, 1, 2]),
            (5, vec![0, 1, 2, 3, 4]),
            (9, vec![0, 1, 2, 3, 4]),
        ] {
            let mut candidates = Candidates::new(&[0.0, 2.0, 2.0, 3.0, 2.0]);
            candidates.top_k(k);
            assert_eq!(ids(&candidates), kept, "k = {k}");
        }
    }

    #[test]
    fn top_p_keeps_the_token_that_reaches_the_sum() {
        for (p, kept) in [
            (0.01, vec![2]),
            (0.49, vec![2]),
            (0.51, vec![2, 0]),
            (0.74, vec![2, 0]),
            (0.76, vec![2, 0, 3]),
            (0.99, vec![2, 0, 3, 1]),
            (1.0, vec![0, 1, 2, 3]),
        ] {
            let mut candidates = of(&[0.25, 0.1, 0.5, 0.15]);
            candidates.top_p(p);
            assert_eq!(ids(&candidates), kept, "p = {p}");
        }
    }

    #[test]
    fn top_p_sorts_more_candidates_if_the_first_are_not_enough() {
        let mut candidates = of(&vec![1e-3; 1000]);
        candidates.top_p(0.5005);
        assert_eq!(ids(&candidates), (0..501).collect::<Vec<_>>());
    }

    #[test]
    fn min_p_is_relative_to_the_likeliest() {
        for (p, kept) in [
            (0.0, vec![0, 1, 2, 3]),
            (0.19, vec![0, 1, 2, 3]),
            (0.21, vec![0, 2, 3]),
            (0.51, vec![2]),
            (1.0, vec![2]),
        ] {
            let mut candidates = of(&[0.25, 0.1, 0.5, 0.15]);
            candidates.min_p(p);
            assert_eq!(ids(&candidates), kept, "p = {p}");
        }
    }

    #[test]
    fn draw_follows_the_cumulative_probability() {
        let candidates = of(&[0.25, 0.125, 0.625]);
        for (unit, id) in [(0.0, 0), (0.24, 0), (0.26, 1), (0.37, 1), (0.38, 2), (0.999_999, 2)] {
            assert_eq!(candidates.draw(1.0, unit), id, "at {unit}");
        }
    }
}
