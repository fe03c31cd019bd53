//! A drafter, and how many tokens to ask it for.

use std::time::{Duration, Instant};

use super::costs::Costs;
use super::policy::{choose, Candidate, Rate, Tracker};
use super::{DraftRequest, DraftTokens, Drafter, Offer, KINDS, MAX_DRAFT};
use crate::model::ModelError;

/// Drafts for some sequences with a [`Drafter`]. With [`DraftTokens::Auto`], how much is drafted
/// follows from what was accepted before, and from the time that passes and drafts take.
#[derive(Debug)]
pub struct Speculation<'m> {
    drafter: Box<dyn Drafter + 'm>,
    tokens: DraftTokens,
    /// Passes of the model, by the number of their rows.
    passes: Costs,
    /// Drafts, by the number of sequences that they are for. The time is that for one token of
    /// each.
    drafting: Costs,
    /// How often drafts were accepted in all sequences, by kind of offer.
    usual: [Rate; KINDS],
    sequences: Vec<Tracker>,
    /// Passes for which a draft was chosen.
    turns: usize,
    /// How many of these were used to measure other numbers.
    detours: usize,
}

/// How often drafts are accepted, before any were.
const FIRST_GUESS: f64 = 0.7;

/// How many tokens the first guess counts for, and what is known of other texts in a new one.
const FIRST_WEIGHT: f64 = 5.0;

/// What a token that was compared leaves of the weight of those before it: in its sequence, and
/// in all.
const DECAY: f64 = 0.97;
const USUAL_DECAY: f64 = 0.995;

/// Every so many passes, another number of tokens is drafted than the best one, because times that
/// are not measured again may no longer be true. At first it is done sooner.
const DETOUR: usize = 64;
const FIRST_DETOUR: usize = 4;

impl<'m> Speculation<'m> {
    /// Drafts by `drafter` for this many sequences.
    pub fn new(drafter: Box<dyn Drafter + 'm>, tokens: DraftTokens, sequences: usize) -> Self {
        let usual = [Rate::new(FIRST_GUESS, FIRST_WEIGHT); KINDS];
        Self {
            drafter,
            tokens,
            passes: Costs::default(),
            drafting: Costs::default(),
            usual,
            sequences: vec![Tracker::new(usual); sequences],
            turns: 0,
            detours: 0,
        }
    }

    /// Begins a new text in a sequence, of which no more is known than of others.
    pub fn begin(&mut self, sequence: usize) {
        let rates = self.usual.map(|rate| Rate::new(rate.value(), FIRST_WEIGHT));
        self.sequences[sequence] = Tracker::new(rates);
    }

    /// Lets the drafter read at most `budget` tokens of some texts ahead, unless it would not be
    /// asked for drafts. See [`Drafter::read`].
    ///
    /// # Errors
    /// Those of the drafter.
    pub fn read(&mut self, texts: &[(usize, &[u32])], budget: usize) -> Result<usize, ModelError> {
        let pays = |sequence: usize| match self.tokens {
            DraftTokens::Fixed(_) => true,
            DraftTokens::Auto if self.passes.estimate(1).is_none() => true,
            DraftTokens::Auto => {
                let acceptance = self.sequences[sequence].rates[0].value();
                self.best(&[Candidate { acceptance, most: MAX_DRAFT }], 1)[0] > 0
            }
        };
        let texts = texts.iter().filter(|(sequence, _)| pays(*sequence));
        let texts: Vec<_> = texts.copied().collect();
        self.drafter.read(&texts, budget)
    }

    /// The drafts for the next pass, which has `rows` rows without them. Some of them or all may be
    /// empty. Requests are in the order of their sequences.
    ///
    /// # Errors
    /// Those of the drafter.
    pub fn draft(
        &mut self,
        requests: &[DraftRequest<'_>],
        rows: usize,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let offers: Vec<Offer> =
            requests.iter().map(|request| self.drafter.offer(request)).collect();
        let most = self.tokens.most();
        let most: Vec<usize> = offers.iter().map(|offer| offer.most.min(most)).collect();
        let counts = match self.tokens {
            DraftTokens::Fixed(_) => most,
            DraftTokens::Auto => self.auto(requests, &offers, &most, rows),
        };
        let with_count = requests.iter().zip(&counts).filter(|(_, n)| **n > 0);
        let wanted: Vec<DraftRequest<'_>> =
            with_count.map(|(request, n)| DraftRequest { most: *n, ..*request }).collect();
        if wanted.is_empty() {
            return Ok(vec![Vec::new(); requests.len()]);
        }
        let start = Instant::now();
        let mut drafted = self.drafter.draft(&wanted)?.into_iter();
        let time = start.elapsed();
        let mut drafts = vec![Vec::new(); requests.len()];
        for (i, draft) in drafts.iter_mut().enumerate().filter(|(i, _)| counts[*i] > 0) {
            *draft = drafted.next().unwrap_or_default();
            let tracker = &mut self.sequences[requests[i].sequence];
            tracker.kind = offers[i].kind;
            if !draft.is_empty() {
                tracker.drafted();
            }
        }
        if let Some(longest) = drafts.iter().map(Vec::len).max().filter(|longest| *longest > 0) {
            self.drafting.add(wanted.len(), time / longest as u32);
        }
        Ok(drafts)
    }

    /// Adds a pass of this many rows, which took this long and evaluated nothing of prompts.
    pub fn add_pass(&mut self, rows: usize, time: Duration) {
        self.passes.add(rows, time);
    }

    /// Adds that so many drafted tokens of a sequence were compared with those that were sampled,
    /// and so many of them accepted.
    pub fn add_compared(&mut self, sequence: usize, compared: usize, accepted: usize) {
        let tracker = &mut self.sequences[sequence];
        tracker.rates[tracker.kind].add(compared, accepted, DECAY);
        self.usual[tracker.kind].add(compared, accepted, USUAL_DECAY);
    }

    /// The seconds of a pass of this many rows, if there was one.
    pub fn pass_seconds(&self, rows: usize) -> Option<f64> {
        self.passes.measured(rows)
    }

    /// The numbers that promise the most tokens per second.
    fn best(&self, candidates: &[Candidate], rows: usize) -> Vec<usize> {
        let pass = |rows| self.passes.estimate(rows).unwrap_or(f64::INFINITY);
        let draft = |sequences| self.drafting.estimate(sequences).unwrap_or(0.0);
        choose(candidates, rows, pass, draft)
    }

    /// How many tokens to draft for each request.
    fn auto(
        &mut self,
        requests: &[DraftRequest<'_>],
        offers: &[Offer],
        most: &[usize],
        rows: usize,
    ) -> Vec<usize> {
        // The first pass measures what a pass takes.
        if self.passes.estimate(rows).is_none() {
            return vec![0; requests.len()];
        }
        let candidate = |((request, offer), most): ((&DraftRequest<'_>, &Offer), &usize)| {
            let acceptance = self.sequences[request.sequence].rates[offer.kind].value();
            Candidate { acceptance, most: *most }
        };
        let candidates: Vec<Candidate> =
            requests.iter().zip(offers).zip(most).map(candidate).collect();
        let mut counts = self.best(&candidates, rows);
        if counts.iter().any(|n| *n > 0) {
            self.turns += 1;
            let soon = self.turns >= FIRST_DETOUR && self.turns.is_power_of_two();
            if soon || self.turns.is_multiple_of(DETOUR) {
                self.detours += 1;
                return self.detour(counts, most);
            }
        }
        for (i, n) in counts.iter_mut().enumerate().filter(|(i, _)| most[*i] > 0) {
            *n = self.sequences[requests[i].sequence].look(*n, offers[i].behind);
        }
        counts
    }

    /// Other numbers than the best: in turn none, or one more.
    fn detour(&self, counts: Vec<usize>, most: &[usize]) -> Vec<usize> {
        let more = |(n, most): (usize, &usize)| if n > 0 { (n + 1).min(*most) } else { 0 };
        match self.detours % 2 {
            1 => vec![0; counts.len()],
            _ => counts.into_iter().zip(most).map(more).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always drafts zeros, and takes no time.
    #[derive(Debug)]
    struct Zeros;

    impl Drafter for Zeros {
        fn offer(&mut self, request: &DraftRequest<'_>) -> Offer {
            Offer { most: request.most, kind: 0, behind: 0 }
        }

        fn draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError> {
            Ok(requests.iter().map(|request| vec![0; request.most]).collect())
        }
    }

    fn zeros(tokens: DraftTokens) -> Speculation<'static> {
        Speculation::new(Box::new(Zeros), tokens, 1)
    }

    /// A pass of one sequence in which each row after the first costs `slope` of the first, and of
    /// whose draft `accepted` tokens at most are right. Returns how many tokens were drafted.
    fn pass(speculation: &mut Speculation<'_>, slope: f64, accepted: usize) -> usize {
        let request = DraftRequest { sequence: 0, ids: &[1], most: 100 };
        let n = speculation.draft(&[request], 1).unwrap()[0].len();
        speculation.add_pass(1 + n, Duration::from_secs_f64(0.1 * (1.0 + slope * n as f64)));
        let accepted = accepted.min(n);
        speculation.add_compared(0, (accepted + 1).min(n), accepted);
        n
    }

    #[test]
    fn drafting_stops_where_it_loses_and_comes_back_where_it_pays() {
        let mut speculation = zeros(DraftTokens::Auto);
        assert_eq!(pass(&mut speculation, 0.2, 9), 0, "the first pass is measured without");
        let drafted: usize = (0..100).map(|_| pass(&mut speculation, 0.2, 9)).sum();
        assert!(drafted > 600, "{drafted}");
        // Nothing is right any more.
        let drafted: Vec<usize> = (0..1000).map(|_| pass(&mut speculation, 0.2, 0)).collect();
        assert!(drafted[30..].iter().sum::<usize>() < 40, "{drafted:?}");
        // And now everything is again.
        let drafted: Vec<usize> = (0..2000).map(|_| pass(&mut speculation, 0.2, 9)).collect();
        assert!(drafted[1500..].iter().sum::<usize>() > 3000);
    }

    #[test]
    fn drafting_stops_where_rows_cost_as_much_as_passes() {
        let mut speculation = zeros(DraftTokens::Auto);
        let drafted: Vec<usize> = (0..500).map(|_| pass(&mut speculation, 1.1, 9)).collect();
        assert!(drafted[20..].iter().sum::<usize>() < 30, "{drafted:?}");
        // Rows become cheap.
        let drafted: Vec<usize> = (0..2000).map(|_| pass(&mut speculation, 0.05, 9)).collect();
        assert!(drafted[1500..].iter().sum::<usize>() > 3000);
    }

    #[test]
    fn a_new_text_begins_with_what_is_known_of_others() {
        let mut speculation = zeros(DraftTokens::Auto);
        (0..300).for_each(|_| _ = pass(&mut speculation, 0.2, 0));
        speculation.begin(0);
        assert_eq!((0..20).map(|_| pass(&mut speculation, 0.2, 9)).sum::<usize>(), 0);
        let mut speculation = zeros(DraftTokens::Auto);
        (0..300).for_each(|_| _ = pass(&mut speculation, 0.2, 16));
        speculation.begin(0);
        assert!((0..3).map(|_| pass(&mut speculation, 0.2, 16)).max() > Some(6));
    }

    #[test]
    fn a_fixed_number_stays() {
        let mut speculation = zeros(DraftTokens::Fixed(5));
        assert!((0..300).all(|_| pass(&mut speculation, 5.0, 0) == 5));
        let short = DraftRequest { sequence: 0, ids: &[1], most: 2 };
        assert_eq!(speculation.draft(&[short], 1).unwrap(), [[0, 0]]);
    }

    /// Tokens per second where a drafted token is right with a probability of `acceptance`, and each
    /// row after the first costs `slope` of the first.
    fn speed(tokens: Option<DraftTokens>, acceptance: f64, slope: f64) -> f64 {
        let mut speculation = zeros(tokens.unwrap_or_default());
        let (mut generated, mut seconds, mut random) = (0, 0.0, 1u64);
        while generated < 1500 {
            let most = if tokens.is_some() { 100 } else { 0 };
            let request = DraftRequest { sequence: 0, ids: &[1], most };
            let n = speculation.draft(&[request], 1).unwrap()[0].len();
            let accepted = (0..n).take_while(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                ((random >> 33) as f64 / (1u64 << 31) as f64) < acceptance
            });
            let (accepted, time) = (accepted.count(), 0.1 * (1.0 + slope * n as f64));
            speculation.add_pass(1 + n, Duration::from_secs_f64(time));
            speculation.add_compared(0, (accepted + 1).min(n), accepted);
            generated += 1 + accepted;
            seconds += time;
        }
        f64::from(generated as u32) / seconds
    }

    #[test]
    fn what_is_chosen_is_nearly_as_good_as_the_best_fixed_number() {
        for acceptance in [0.1, 0.4, 0.6, 0.7, 0.8, 0.95] {
            for slope in [0.02, 0.1, 0.3, 0.6, 1.1] {
                let fixed = (1..=MAX_DRAFT).map(|n| Some(DraftTokens::Fixed(n))).chain([None]);
                let best = fixed.map(|n| speed(n, acceptance, slope)).fold(0.0, f64::max);
                let found = speed(Some(DraftTokens::Auto), acceptance, slope);
                assert!(found > 0.9 * best, "{acceptance}, {slope}: {found} of {best}");
            }
        }
    }

    #[test]
    fn plain_passes_are_measured_again_now_and_then() {
        let mut speculation = zeros(DraftTokens::Auto);
        // The very first pass was far too slow, as from a cold disk.
        speculation.add_pass(1, Duration::from_secs(10));
        (0..100).for_each(|_| _ = pass(&mut speculation, 1.1, 9));
        assert!(speculation.pass_seconds(1).unwrap() < 0.5);
        assert_eq!((0..20).map(|_| pass(&mut speculation, 1.1, 9)).sum::<usize>(), 0);
    }
}
