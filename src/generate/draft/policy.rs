//! How many tokens to draft: the numbers that promise the most tokens per second, from how many
//! were accepted before and how long passes take.

use super::KINDS;

/// A sequence that gets one token in the next pass, and may get more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// The probability that a drafted token is accepted if those before it were.
    pub acceptance: f64,
    /// Most tokens to draft.
    pub most: usize,
}

/// What drafting has to promise, in terms of the tokens per second without it. Less is not worth
/// the risk that the estimates are wrong.
const MIN_GAIN: f64 = 1.03;

/// Drafts that are less likely to be accepted than this are not considered.
const MIN_PROBABILITY: f64 = 0.02;

/// The number of tokens to draft for each of the sequences.
///
/// `pass` gives the seconds of a pass of some rows, and `rows` is the number of its rows without
/// drafts. `draft` gives the seconds that drafting one more token takes for some sequences at a
/// time. Tokens are added one by one, always the likeliest of all sequences to be accepted, and the
/// best number of them wins.
pub(super) fn choose(
    candidates: &[Candidate],
    rows: usize,
    pass: impl Fn(usize) -> f64,
    draft: impl Fn(usize) -> f64,
) -> Vec<usize> {
    let mut chosen = vec![0; candidates.len()];
    let mut tokens = candidates.len() as f64;
    let mut best = (tokens / pass(rows) * MIN_GAIN, chosen.clone());
    // The probability that a sequence's next token is accepted, and how many sequences have at least
    // one token, two, ….
    let mut next: Vec<f64> = candidates.iter().map(|c| c.acceptance).collect();
    let (mut drafting, mut have) = (0.0, Vec::<usize>::new());
    for added in 1.. {
        let open = (0..candidates.len()).filter(|i| chosen[*i] < candidates[*i].most);
        let likeliest = open.max_by(|a, b| next[*a].total_cmp(&next[*b]).then(b.cmp(a)));
        let Some(i) = likeliest.filter(|i| next[*i] >= MIN_PROBABILITY) else { break };
        let position = chosen[i];
        if have.len() == position {
            have.push(0);
        }
        let before = if have[position] == 0 { 0.0 } else { draft(have[position]) };
        have[position] += 1;
        drafting += draft(have[position]) - before;
        chosen[i] += 1;
        tokens += next[i];
        next[i] *= candidates[i].acceptance;
        let speed = tokens / (pass(rows + added) + drafting);
        if speed > best.0 {
            best = (speed, chosen.clone());
        }
    }
    best.1
}

/// How often drafted tokens were accepted: a mean in which older ones count less and less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    accepted: f64,
    compared: f64,
}

impl Rate {
    /// A first guess, which counts as much as `weight` tokens.
    pub fn new(guess: f64, weight: f64) -> Self {
        Self { accepted: guess * weight, compared: weight }
    }

    /// Adds tokens that were compared, of which all but perhaps the last were accepted. Each
    /// multiplies the weight of those before by `decay`.
    pub fn add(&mut self, compared: usize, accepted: usize, decay: f64) {
        for i in 0..compared {
            let hit = if i < accepted { 1.0 } else { 0.0 };
            self.accepted = self.accepted * decay + hit;
            self.compared = self.compared * decay + 1.0;
        }
    }

    pub fn value(&self) -> f64 {
        self.accepted / self.compared
    }
}

/// Tokens without drafts after which a sequence is given another look, the first time and at most.
/// The wait doubles from one to the other while drafting does not pay.
const FIRST_WAIT: usize = 64;
const LONGEST_WAIT: usize = 1024;

/// A look is skipped if the drafter has to read more than so many tokens for each that was waited
/// for.
const MOST_BEHIND: usize = 3;

/// Drafts of one token in a look.
const LOOKS: usize = 6;

/// What is known of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracker {
    /// By kind of offer.
    pub rates: [Rate; KINDS],
    /// The kind of its last draft.
    pub kind: usize,
    /// Tokens since its last draft.
    quiet: usize,
    /// Tokens to wait for before the next look.
    wait: usize,
    /// Drafts that are left in the current look.
    looks: usize,
}

impl Tracker {
    /// A new text, of which no more is known than of others.
    pub fn new(rates: [Rate; KINDS]) -> Self {
        Self { rates, kind: 0, quiet: 0, wait: FIRST_WAIT, looks: 0 }
    }

    /// The number of tokens to draft where `chosen` promises the most: the same, but now and then
    /// one in place of none, to see whether things have changed. Not if the drafter is so far
    /// `behind` that to read these tokens would cost too much.
    pub fn look(&mut self, chosen: usize, behind: usize) -> usize {
        if chosen > 0 {
            (self.quiet, self.wait, self.looks) = (0, FIRST_WAIT, 0);
            return chosen;
        }
        if self.looks == 0 {
            self.quiet += 1;
            if self.quiet <= self.wait {
                return 0;
            }
            self.looks = if behind <= MOST_BEHIND * self.wait { LOOKS } else { 0 };
            (self.quiet, self.wait) = (0, LONGEST_WAIT.min(2 * self.wait));
        }
        self.looks.min(1)
    }

    /// Counts a draft that was made.
    pub fn drafted(&mut self) {
        self.looks = self.looks.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(acceptance: f64, most: usize) -> Vec<Candidate> {
        vec![Candidate { acceptance, most }]
    }

    /// A pass where each row after the first costs `slope`.
    fn line(slope: f64) -> impl Fn(usize) -> f64 {
        move |rows| 1.0 + slope * (rows as f64 - 1.0)
    }

    #[test]
    fn the_number_that_gives_most_tokens_per_second_is_chosen() {
        for (acceptance, slope, draft) in [
            (0.6, 0.1, 0.05),
            (0.7, 0.2, 0.1),
            (0.8, 0.05, 0.02),
            (0.9, 0.3, 0.1),
            (0.95, 0.0, 0.1),
        ] {
            let speed = |k: usize| {
                let tokens: f64 = (0..=k as i32).map(|i| f64::powi(acceptance, i)).sum();
                tokens / (line(slope)(1 + k) + draft * k as f64)
            };
            let found = choose(&one(acceptance, 16), 1, line(slope), |_| draft)[0];
            assert!(found > 0 && (0..=16).all(|k| speed(k) <= speed(found)), "{found}");
            assert_eq!(choose(&one(acceptance, 1), 1, line(slope), |_| draft), [1]);
            assert_eq!(choose(&one(acceptance, 0), 1, line(slope), |_| draft), [0]);
        }
    }

    #[test]
    fn nothing_is_drafted_where_it_loses() {
        // Rows that cost as much as passes, a drafter that does, and drafts that are never right.
        assert_eq!(choose(&one(0.9, 16), 1, line(1.0), |_| 0.0), [0]);
        assert_eq!(choose(&one(0.9, 16), 1, line(0.0), |_| 1.0), [0]);
        assert_eq!(choose(&one(0.0, 16), 1, line(0.1), |_| 0.01), [0]);
        // What promises too little.
        assert_eq!(choose(&one(0.2, 16), 1, line(0.19), |_| 0.0), [0]);
    }

    /// A step in the costs, as between two kernels, is passed over if what follows is worth it.
    #[test]
    fn steps_in_the_costs_are_looked_beyond() {
        let steps = |rows: usize| if rows == 1 { 1.0 } else { 1.95 };
        assert_eq!(choose(&one(0.9, 8), 1, steps, |_| 0.0), [8]);
        let wall = |rows: usize| if rows <= 4 { 1.0 } else { 3.0 };
        assert_eq!(choose(&one(0.9, 8), 1, wall, |_| 0.0), [3]);
    }

    #[test]
    fn sequences_share_the_rows_of_a_pass() {
        let two = [0.9, 0.3].map(|acceptance| Candidate { acceptance, most: 8 });
        let chosen = choose(&two, 2, line(0.25), |_| 0.0);
        assert!(chosen[0] > 2 && chosen[1] == 0, "{chosen:?}");
        // Rows are cheap until there are eight, for all sequences together.
        let wall = |rows: usize| if rows <= 8 { 1.0 } else { 4.0 };
        let four = [Candidate { acceptance: 0.8, most: 8 }; 4];
        assert_eq!(choose(&four, 4, wall, |_| 0.0), [1; 4]);
        // A drafter that drafts for all in the time of one is worth it for four, not for one.
        let expensive = |_: usize| 0.9;
        assert_eq!(choose(&four[..1], 1, line(0.0), expensive), [0]);
        let cheap_together = |n: usize| 0.9 / n as f64;
        assert!(choose(&four, 4, line(0.0), cheap_together).iter().all(|k| *k > 0));
    }

    #[test]
    fn a_rate_follows_what_is_accepted() {
        let mut rate = Rate::new(0.7, 5.0);
        assert!((rate.value() - 0.7).abs() < 1e-12);
        rate.add(5, 5, 1.0);
        assert!((rate.value() - 0.85).abs() < 1e-12);
        (0..100).for_each(|_| rate.add(1, 0, 0.95));
        assert!(rate.value() < 0.01);
        (0..40).for_each(|_| rate.add(4, 3, 0.95));
        assert!((rate.value() - 0.75).abs() < 0.06);
    }

    #[test]
    fn a_sequence_that_drafts_nothing_is_looked_at_ever_more_rarely() {
        let mut tracker = Tracker::new([Rate::new(0.1, 5.0); KINDS]);
        let mut looks = Vec::new();
        for token in 0..2000 {
            if tracker.look(0, 0) > 0 {
                tracker.drafted();
                looks.push(token);
            }
        }
        let bursts: Vec<usize> = looks.chunks(LOOKS).map(|burst| burst[0]).collect();
        assert!(looks.chunks(LOOKS).all(|burst| burst[burst.len() - 1] - burst[0] == LOOKS - 1));
        let gaps: Vec<usize> = bursts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(bursts[0] == FIRST_WAIT && gaps.len() >= 3, "{bursts:?}");
        assert!(gaps.windows(2).all(|pair| pair[1] > pair[0] + pair[0] / 2), "{gaps:?}");
        // Not if there is too much to read first.
        let mut tracker = Tracker::new([Rate::new(0.1, 5.0); KINDS]);
        let first = (0..1900).find(|token| tracker.look(0, 600 + token) > 0);
        assert_eq!(first, None);
        let first = (0..1900).find(|_| tracker.look(0, 300) > 0);
        assert!(first.is_some());
        // A draft that was not made does not count, and one that pays ends the waiting.
        let mut tracker = Tracker::new([Rate::new(0.1, 5.0); KINDS]);
        (0..FIRST_WAIT).for_each(|_| assert_eq!(tracker.look(0, 0), 0));
        (0..LOOKS * 3).for_each(|_| assert_eq!(tracker.look(0, 0), 1));
        assert_eq!(tracker.look(5, 0), 5);
        (0..FIRST_WAIT).for_each(|_| assert_eq!(tracker.look(0, 0), 0));
        assert_eq!(tracker.look(0, 0), 1);
    }
}
