//! Drafts for many answers at a time.

use lapidary::engine::{Finish, Handle, Request, TokenLogprobs};
use lapidary::generate::draft::{DraftTokens, Lookup, Speculation};
use lapidary::model::{Model, Source};
use lapidary::sampling::SamplerConfig;

use super::{By, Q2_K, TOKENS};
use crate::engine::{greedy, one, options, request, seeded, wait, Bench, Only, N_CTX};
use crate::fixtures::{micro, tiny};

/// Requests of all sorts, two of them with the same prompt.
fn requests(bench: &Bench) -> Vec<Request> {
    let prompt = |at: usize, n: usize| &bench.ids[at..at + n];
    let warm = |seed| SamplerConfig { temperature: 0.8, seed: Some(seed), ..greedy() };
    let plain = |at, n, sampler| request(prompt(at, n), 60, sampler);
    let only = Only { id: 300, left: 12 };
    vec![
        plain(0, 150, greedy()),
        plain(0, 150, warm(1)),
        plain(500, 3, warm(2)),
        Request { ignore_eos: true, ..plain(70, 40, seeded(3)) },
        Request { logprobs: Some(3), ..plain(200, 41, warm(4)) },
        Request { logprobs: Some(1), prompt_logprobs: true, ..plain(20, 100, greedy()) },
        Request { stop: vec![" the".into(), ", and".into()], ..plain(300, 50, warm(5)) },
        Request { constraint: Some(Box::new(only)), ..plain(600, 30, warm(6)) },
        Request {
            constraint: Some(Box::new(Only { id: 300, left: 0 })),
            ..plain(600, 9, greedy())
        },
        Request { max_tokens: Some(0), ..plain(640, 30, greedy()) },
        Request { max_tokens: Some(1), ..plain(640, 30, greedy()) },
        Request { max_tokens: None, ignore_eos: true, ..plain(0, N_CTX - 9, greedy()) },
    ]
}

/// What has to be the same of an answer.
#[derive(Debug, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    text: String,
    logprobs: [Vec<TokenLogprobs>; 2],
    done: Option<(Finish, usize)>,
    error: Option<String>,
}

/// The answers to all requests, and how many tokens were drafted and accepted for them.
fn answers(bench: &Bench, handle: &Handle) -> (Vec<Outcome>, usize, usize) {
    let answers = requests(bench).into_iter().map(|request| one(handle, request));
    let (mut drafted, mut accepted) = (0, 0);
    let outcomes = answers.collect::<Vec<_>>().into_iter().map(|answer| {
        let found = wait(answer);
        if let Some(done) = found.done {
            drafted += done.drafted;
            accepted += done.accepted;
        }
        Outcome {
            ids: found.ids,
            text: found.text,
            logprobs: [found.prompt_logprobs, found.logprobs],
            done: found.done.map(|done| (done.finish, done.tokens)),
            error: found.error.map(|error| error.to_string()),
        }
    });
    (outcomes.collect(), drafted, accepted)
}

#[test]
fn answers_are_the_same_with_drafts_and_without() {
    let all: Vec<_> = [1, 4].into_iter().flat_map(|n| TOKENS.map(|t| (n, t))).collect();
    let some = vec![(4, DraftTokens::Fixed(8))];
    for (checkpoint, draft, runs) in [(tiny(), Q2_K.clone(), all), (micro(), micro(), some)] {
        let bench = Bench::new(&checkpoint);
        let draft = Source::open(&draft).unwrap();
        let draft = Model::load(&draft, Some(1)).unwrap();
        let mut expected = Vec::new();
        bench.engine(1, 12, |_, handle| expected = answers(&bench, &handle).0);
        let script = requests(&bench).into_iter().zip(&expected);
        let script =
            script.map(|(request, outcome)| [request.prompt, outcome.ids.clone()].concat());
        let script = By::Script(script.collect());
        for by in [By::Model, By::Lookup, script] {
            for (parallel, tokens) in runs.iter().copied() {
                let speculation = by.speculation(&draft, options(), tokens, parallel);
                bench.engine_with(parallel, 12, Some(speculation), |_, handle| {
                    let (found, drafted, accepted) = answers(&bench, &handle);
                    for (found, expected) in found.iter().zip(&expected) {
                        assert_eq!(found, expected, "{by:?}, {tokens:?}, {parallel} at a time");
                    }
                    let totals = handle.status().totals;
                    let counted = (totals.drafted_tokens, totals.accepted_tokens);
                    assert_eq!(counted, (drafted as u64, accepted as u64));
                    assert!(drafted >= accepted && totals.steps >= totals.draft_steps);
                    let fixed = tokens != DraftTokens::Auto;
                    assert!(!fixed || accepted > 0, "{by:?}, {tokens:?}, {parallel} at a time");
                });
            }
        }
    }
}

/// A draft model that reads along knows each prompt when its answer begins, and takes over what
/// another of its sequences has.
#[test]
fn a_model_that_drafts_for_itself_is_always_right() {
    let bench = Bench::new(&micro());
    let draft = Source::open(&micro()).unwrap();
    let draft = Model::load(&draft, Some(2)).unwrap();
    let speculation = By::Model.speculation(&draft, options(), DraftTokens::Fixed(4), 3);
    bench.engine_with(3, 9, Some(speculation), |_, handle| {
        let endless = |at: usize| Request {
            ignore_eos: true,
            ..request(&bench.ids[at..at + 200], 51, greedy())
        };
        let choices = [0, 0, 300].map(endless).into();
        let answers = handle.submit(choices).unwrap();
        for answer in answers {
            let done = wait(answer).done.unwrap();
            assert_eq!((done.tokens, done.accepted), (51, done.drafted));
            assert!(done.accepted >= 36, "{done:?}");
        }
        let totals = handle.status().totals;
        assert!(totals.steps < 60, "{totals:?}");
    });
}

#[test]
fn who_goes_away_in_the_middle_of_a_draft_leaves_the_others_alone() {
    let bench = Bench::new(&micro());
    let expected = {
        let mut ids = Vec::new();
        bench.engine(1, 1, |_, handle| {
            ids = wait(one(&handle, request(&bench.ids[..60], 40, seeded(1)))).ids;
        });
        ids
    };
    let speculation = Speculation::new(Box::new(Lookup), DraftTokens::Fixed(8), 2);
    bench.engine_with(2, 2, Some(speculation), |_, handle| {
        for _ in 0..20 {
            let endless = Request { ignore_eos: true, ..request(&bench.ids[..60], 300, greedy()) };
            let mut leaving = one(&handle, endless);
            let staying = one(&handle, request(&bench.ids[..60], 40, seeded(1)));
            assert!(leaving.next_blocking().is_some());
            drop(leaving);
            assert_eq!(wait(staying).ids, expected);
        }
    });
}
