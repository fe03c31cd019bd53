//! Drafts in a single sequence.

use lapidary::generate::draft::DraftTokens;
use lapidary::generate::{Answer, Limits, OldestHalf, Session, Shift};
use lapidary::kernels::KvType;
use lapidary::model::{Model, Source, StateOptions};
use lapidary::sampling::{Sampler, SamplerConfig};
use lapidary::tokenizer::Tokenizer;

use super::{By, Q2_K, TOKENS};
use crate::fixtures::{micro, tiny};
use crate::tokens::held_out_ids;

/// Models of the same vocabulary, one of which drafts for the other.
pub struct Setup {
    source: Source,
    draft: Source,
    tokenizer: Tokenizer,
    stop_ids: Vec<u32>,
    pub ids: Vec<u32>,
}

impl Setup {
    pub fn new(source: &std::path::Path, draft: &std::path::Path) -> Self {
        let [source, draft] = [source, draft].map(|path| Source::open(path).unwrap());
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        let (ids, stop_ids) = (held_out_ids(&source), source.stop_ids(tokenizer.vocab()));
        Self { source, draft, tokenizer, stop_ids, ids }
    }

    fn tiny() -> Self {
        Self::new(&tiny(), &Q2_K)
    }

    /// The model and the one that drafts. One thread, because they are too small to be shared.
    pub fn models(&self) -> [Model<'_>; 2] {
        [&self.source, &self.draft].map(|source| Model::load(source, Some(1)).unwrap())
    }

    pub fn session<'a>(
        &'a self,
        model: &'a Model<'a>,
        sampler: &SamplerConfig,
        options: StateOptions,
    ) -> Session<'a> {
        let (stop_ids, sampler) = (self.stop_ids.clone(), Sampler::new(sampler.clone()).unwrap());
        Session::new(model, &self.tokenizer, stop_ids, sampler, options)
    }
}

pub fn greedy() -> SamplerConfig {
    SamplerConfig { temperature: 0.0, ..SamplerConfig::default() }
}

fn samplers() -> [SamplerConfig; 4] {
    let seeded = |seed| SamplerConfig { temperature: 0.8, seed: Some(seed), ..greedy() };
    let penalty = SamplerConfig { repeat_penalty: 1.3, frequency_penalty: 0.2, ..seeded(3) };
    [greedy(), seeded(1), seeded(2), penalty]
}

/// What each token adds, and the answer.
pub fn generate(
    session: &mut Session<'_>,
    prompt: &[u32],
    n: usize,
    shift: &mut dyn Shift,
) -> (Vec<String>, Answer) {
    let limits = Limits { max_tokens: Some(n), cancelled: &|| false };
    let mut tokens = session.generate(prompt, limits, shift).unwrap();
    let shown = tokens.by_ref().map(|shown| shown.unwrap().text).collect();
    (shown, tokens.into_answer())
}

/// What has to be the same.
fn outcome((shown, answer): (Vec<String>, Answer)) -> impl PartialEq + std::fmt::Debug {
    (shown, answer.ids, answer.tokens, answer.end, answer.shifts, answer.decoded)
}

/// Generates `n` tokens after a prompt with drafts and without, and then some more after what came
/// of it. Returns how many tokens were drafted and accepted.
fn compare(
    setup: &Setup,
    sampler: &SamplerConfig,
    options: StateOptions,
    (prompt, n): (usize, usize),
    mut shift: impl Shift,
    tokens: &[DraftTokens],
) -> (usize, usize) {
    let ([model, draft], prompt) = (setup.models(), &setup.ids[..prompt]);
    let turns = |session: &mut Session<'_>, shift: &mut dyn Shift| {
        let first = generate(session, prompt, n, shift);
        let held = session.ids().to_vec();
        assert_eq!(held.len(), session.state().len());
        let next = [prompt, &first.1.ids, &setup.ids[900..903]].concat();
        let next = &next[..next.len().min(options.n_ctx - 1)];
        let second = generate(session, next, 10, shift);
        (first, held, second, session.ids().to_vec())
    };
    let plain = turns(&mut setup.session(&model, sampler, options), &mut shift);
    let script = [prompt, &plain.0 .1.ids].concat();
    let (mut drafted, mut accepted) = (0, 0);
    let expected = (outcome(plain.0), plain.1, outcome(plain.2), plain.3);
    for by in [By::Model, By::Lookup, By::Script(vec![script])] {
        for tokens in tokens {
            let mut session = setup.session(&model, sampler, options);
            session.set_speculation(by.speculation(&draft, options, *tokens, 1));
            let found = turns(&mut session, &mut shift);
            let stats = found.0 .1.draft.unwrap();
            let found = (outcome(found.0), found.1, outcome(found.2), found.3);
            assert!(found == expected, "{by:?}, {tokens:?}, {sampler:?}, {options:?}");
            drafted += stats.drafted;
            accepted += stats.accepted;
        }
    }
    (drafted, accepted)
}

#[test]
fn texts_are_the_same_with_drafts_and_without() {
    let setup = Setup::tiny();
    for sampler in samplers() {
        for kv in KvType::ALL {
            let options = StateOptions::new(300, kv);
            let (drafted, accepted) = compare(&setup, &sampler, options, (60, 70), (), &TOKENS);
            assert!(accepted > 200 && drafted > accepted, "{accepted} of {drafted}");
        }
    }
}

/// A ring with ubatches of 40 has 256 positions, which the text laps twice.
#[test]
fn rings_that_wrap_change_nothing() {
    // Nothing ends the text before.
    let setup = Setup { stop_ids: Vec::new(), ..Setup::new(&micro(), &micro()) };
    for sampler in &samplers()[..2] {
        for kv in KvType::ALL {
            let options = StateOptions { n_ubatch: 40, ..StateOptions::new(700, kv) };
            let tokens = [DraftTokens::Fixed(8), DraftTokens::Fixed(64)];
            let (_, accepted) = compare(&setup, sampler, options, (200, 480), (), &tokens);
            assert!(accepted > 800, "{accepted}");
        }
    }
}

#[test]
fn a_full_context_ends_or_shifts_where_it_would_without_drafts() {
    let setup = Setup::tiny();
    for sampler in &samplers()[..2] {
        for (n_ctx, n_ubatch) in [(5, 512), (9, 2), (32, 1), (33, 512), (50, 4)] {
            let options = StateOptions { n_ubatch, ..StateOptions::new(n_ctx, KvType::F16) };
            let of = (4.min(n_ctx), 90);
            compare(&setup, sampler, options, of, OldestHalf { keep: 1 }, &TOKENS);
            compare(&setup, sampler, options, of, (), &TOKENS);
        }
    }
}

#[test]
fn a_model_that_drafts_for_itself_is_always_right() {
    let setup = Setup::new(&tiny(), &tiny());
    let ([model, draft], options) = (setup.models(), StateOptions::new(200, KvType::F16));
    for (tokens, n) in [(DraftTokens::Fixed(3), 3), (DraftTokens::Fixed(8), 8)] {
        let mut session = setup.session(&model, &greedy(), options);
        session.set_speculation(By::Model.speculation(&draft, options, tokens, 1));
        let (_, answer) = generate(&mut session, &setup.ids[..50], 73, &mut ());
        let stats = answer.draft.unwrap();
        assert_eq!((stats.accepted, answer.decoded), (stats.drafted, 72));
        assert_eq!(stats.passes, 72_usize.div_ceil(n + 1));
        assert_eq!(stats.tokens_per_pass(), Some(72.0 / stats.passes as f64));
    }
}

/// Whoever stops in the middle of a draft leaves the session as it would be without one.
#[test]
fn a_text_that_is_left_can_be_continued() {
    let setup = Setup::new(&micro(), &micro());
    let ([model, draft], prompt) = (setup.models(), &setup.ids[..20]);
    let options = StateOptions { n_ubatch: 40, ..StateOptions::new(400, KvType::F16) };
    let limits = Limits { max_tokens: None, cancelled: &|| false };
    for taken in 1..12 {
        let [plain, drafting] = [false, true].map(|drafts| {
            let mut session = setup.session(&model, &greedy(), options);
            if drafts {
                let tokens = DraftTokens::Fixed(5);
                session.set_speculation(By::Model.speculation(&draft, options, tokens, 1));
            }
            let mut shift = ();
            let tokens = session.generate(prompt, limits, &mut shift).unwrap();
            tokens.take(taken).for_each(|shown| _ = shown.unwrap());
            assert_eq!((session.ids().len(), session.state().len()), (19 + taken, 19 + taken));
            let next = [session.ids(), &setup.ids[300..310]].concat();
            (session.ids().to_vec(), outcome(generate(&mut session, &next, 30, &mut ())))
        });
        assert!(plain == drafting, "{taken}");
    }
}
