//! Many answers at a time: each is the one that it would be alone, none is lost, and who goes away makes
//! room.

use std::thread;

use lapidary::engine::{
    Answer, Done, Engine, EngineError, EngineOptions, Event, Finish, Handle, Request, SubmitError,
    TokenLogprobs,
};
use lapidary::generate::draft::Speculation;
use lapidary::kernels::{log_sum_exp, Isa, KvType};
use lapidary::model::{Model, Rows, Source, State, StateOptions};
use lapidary::sampling::{Constraint, ConstraintError, Sampler, SamplerConfig};
use lapidary::tokenizer::{ControlPieces, Special, Tokenizer};

use crate::fixtures::{held_out, micro, tiny};

pub const N_CTX: usize = 400;

/// Micro's window is 16, and a ring with this ubatch holds 256 positions.
const N_UBATCH: usize = 40;

/// A model with its tokenizer, and the text that prompts are taken from.
pub struct Bench {
    source: Source,
    tokenizer: Tokenizer,
    pub ids: Vec<u32>,
}

impl Bench {
    pub fn new(checkpoint: &std::path::Path) -> Self {
        let source = Source::open(checkpoint).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        let text = std::fs::read_to_string(held_out()).unwrap();
        let ids = tokenizer.encode_with_bos(&text, Special::Plain);
        Self { source, tokenizer, ids }
    }

    pub fn stop_ids(&self) -> Vec<u32> {
        self.source.stop_ids(self.tokenizer.vocab())
    }

    /// Runs an engine on a thread of its own while `drive` uses it.
    pub fn engine(&self, parallel: usize, queue: usize, drive: impl FnOnce(&Model<'_>, Handle)) {
        self.engine_with(parallel, queue, None, drive);
    }

    /// The same with drafts.
    pub fn engine_with<'m>(
        &'m self,
        parallel: usize,
        queue: usize,
        speculation: Option<Speculation<'m>>,
        drive: impl FnOnce(&Model<'_>, Handle),
    ) {
        let model = Model::load(&self.source, Some(2)).unwrap();
        let options = EngineOptions { parallel, queue, state: options() };
        let (mut engine, handle) = Engine::new(&model, &self.tokenizer, self.stop_ids(), options);
        speculation.into_iter().for_each(|speculation| engine.set_speculation(speculation));
        thread::scope(|scope| {
            scope.spawn(|| engine.run());
            drive(&model, handle);
        });
    }

    /// The tokens and the text that `request` gets from nothing but a model and a sampler.
    fn alone(&self, model: &Model<'_>, mut request: Request) -> (Vec<u32>, String) {
        let mut state = State::new(model.config(), options());
        let (mut ids, mut next) = (request.prompt.clone(), request.prompt.clone());
        while ids.len() - request.prompt.len() < request.max_tokens.unwrap() {
            let logits = model.forward_last(&mut state, &next).unwrap();
            let id = request.sampler.sample(logits, &ids);
            if self.stop_ids().contains(&id) {
                break;
            }
            ids.push(id);
            next = vec![id];
        }
        let answer = ids.split_off(request.prompt.len());
        let text = self.tokenizer.decode(&answer, ControlPieces::Omit);
        (answer, text)
    }
}

pub fn options() -> StateOptions {
    StateOptions { n_ubatch: N_UBATCH, ..StateOptions::new(N_CTX, KvType::F16) }
}

pub fn request(prompt: &[u32], max_tokens: usize, sampler: SamplerConfig) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        sampler: Sampler::new(sampler).unwrap(),
        constraint: None,
        stop: Vec::new(),
        ignore_eos: false,
        logprobs: None,
        prompt_logprobs: false,
    }
}

pub fn greedy() -> SamplerConfig {
    SamplerConfig { temperature: 0.0, ..SamplerConfig::default() }
}

pub fn seeded(seed: u64) -> SamplerConfig {
    let seed = Some(seed);
    SamplerConfig { temperature: 1.0, frequency_penalty: 0.5, seed, ..SamplerConfig::default() }
}

/// All that came of a request.
#[derive(Debug, Default)]
pub struct Whole {
    pub ids: Vec<u32>,
    pub text: String,
    pub logprobs: Vec<TokenLogprobs>,
    pub cached: usize,
    pub prompt_logprobs: Vec<TokenLogprobs>,
    pub done: Option<Done>,
    pub error: Option<EngineError>,
}

pub fn wait(mut answer: Answer) -> Whole {
    let mut whole = Whole::default();
    while let Some(event) = answer.next_blocking() {
        match event {
            Event::Prompt { cached, logprobs } => {
                (whole.cached, whole.prompt_logprobs) = (cached, logprobs);
            }
            Event::Text { text, tokens } => {
                whole.text.push_str(&text);
                whole.ids.extend(tokens.iter().map(|token| token.id));
                whole.logprobs.extend(tokens.into_iter().filter_map(|token| token.logprobs));
            }
            Event::Done(done) => whole.done = Some(done),
            Event::Failed(error) => whole.error = Some(error),
        }
    }
    whole
}

pub fn one(handle: &Handle, request: Request) -> Answer {
    handle.submit(vec![request]).unwrap().remove(0)
}

#[test]
fn many_at_a_time_get_the_answers_that_each_gets_alone() {
    for checkpoint in [micro(), tiny()] {
        let bench = Bench::new(&checkpoint);
        let requests = || {
            let spans = [(0, 300), (500, 3), (0, 120), (20, 41), (0, 300), (900, 1), (70, 200)];
            (0..).zip(spans).map(|(seed, (at, n))| {
                let sampler = if seed == 0 { greedy() } else { seeded(seed) };
                request(&bench.ids[at..at + n], 60, sampler)
            })
        };
        for parallel in [1, 3, 8] {
            bench.engine(parallel, 9, |model, handle| {
                let answers = requests().map(|request| one(&handle, request)).collect::<Vec<_>>();
                for (answer, request) in answers.into_iter().zip(requests()) {
                    let (ids, text) = bench.alone(model, request);
                    let found = wait(answer);
                    assert_eq!((found.ids, found.text), (ids, text), "{parallel} at a time");
                }
                let totals = handle.status().totals;
                assert_eq!(
                    (totals.requests, totals.finished_length + totals.finished_stop),
                    (7, 7)
                );
            });
        }
    }
}

#[test]
fn what_a_prompt_shares_with_another_is_not_read_again() {
    let bench = Bench::new(&micro());
    bench.engine(2, 9, |model, handle| {
        let prompt = &bench.ids[..200];
        // Four choices of one prompt: one reads it, but for the last token that each evaluates.
        let choices = (0..4).map(|seed| request(prompt, 20, seeded(seed))).collect();
        let answers = handle.submit(choices).unwrap();
        let mut cached = Vec::new();
        for (seed, answer) in (0..).zip(answers) {
            let found = wait(answer);
            cached.push(found.cached);
            assert_eq!(found.ids, bench.alone(model, request(prompt, 20, seeded(seed))).0);
        }
        cached.sort_unstable();
        assert_eq!(cached, [0, 199, 199, 199]);
        // A conversation goes on, though a stranger has been there in between.
        let first = wait(one(&handle, request(prompt, 20, greedy())));
        let next = [prompt, &first.ids, &bench.ids[900..910]].concat();
        wait(one(&handle, request(&bench.ids[600..650], 5, greedy())));
        let second = wait(one(&handle, request(&next, 20, greedy())));
        // The last token of an answer is never evaluated.
        assert_eq!(second.cached, prompt.len() + first.ids.len() - 1);
        assert_eq!(second.ids, bench.alone(model, request(&next, 20, greedy())).0);
    });
}

/// Left alone longest is what ended first, not what began first.
#[test]
fn the_cache_that_was_used_last_is_kept() {
    let bench = Bench::new(&micro());
    bench.engine(2, 9, |_, handle| {
        let prompt = &bench.ids[..100];
        let long = Request { ignore_eos: true, ..request(prompt, 200, greedy()) };
        let mut long = one(&handle, long);
        assert!(matches!(long.next_blocking(), Some(Event::Prompt { .. })));
        wait(one(&handle, request(&bench.ids[600..650], 1, greedy())));
        let said = wait(long).ids;
        wait(one(&handle, request(&bench.ids[900..950], 1, greedy())));
        let next = [prompt, &said, &bench.ids[800..805]].concat();
        let found = wait(one(&handle, request(&next, 1, greedy())));
        assert_eq!(found.cached, prompt.len() + said.len() - 1);
    });
}

#[test]
fn logprobs_are_those_of_a_forward_pass() {
    let bench = Bench::new(&tiny());
    bench.engine(2, 2, |model, handle| {
        let prompt = &bench.ids[..150];
        let asked = || Request {
            logprobs: Some(3),
            prompt_logprobs: true,
            ..request(prompt, 5, SamplerConfig { logit_bias: vec![(7, 5.0)], ..seeded(3) })
        };
        // The second time everything is in the cache, and is evaluated all the same.
        let [first, second] = [(), ()].map(|()| wait(one(&handle, asked())));
        assert_eq!((first.cached, second.cached), (0, 0));
        let ids = [prompt, &first.ids].concat();
        let mut expected = Vec::new();
        let mut state = State::new(model.config(), options());
        let sink = |row: usize, logits: &mut [f32]| {
            let sum = log_sum_exp(Isa::best(), logits);
            let mut top: Vec<u32> = (0..logits.len() as u32).collect();
            top.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            let logprob = |id: u32| (f64::from(logits[id as usize]) - sum) as f32;
            let top = top[..3].iter().map(|id| (*id, logprob(*id))).collect();
            if let Some(id) = ids.get(row + 1) {
                expected.push(TokenLogprobs { id: *id, logprob: logprob(*id), top });
            }
        };
        model.forward(&mut state, &ids, Rows::All, sink).unwrap();
        for found in [first, second] {
            assert_eq!(found.prompt_logprobs, expected[..149]);
            assert_eq!(found.logprobs, expected[149..]);
        }
        // Only the prompt.
        let none = Request { max_tokens: Some(0), ..asked() };
        let found = wait(one(&handle, none));
        assert_eq!((found.prompt_logprobs.len(), found.ids.len()), (149, 0));
        assert_eq!(found.done.map(|done| (done.finish, done.tokens)), Some((Finish::Length, 0)));
    });
}

#[test]
fn an_answer_ends_where_it_should() {
    let bench = Bench::new(&tiny());
    bench.engine(2, 2, |model, handle| {
        let prompt = &bench.ids[..60];
        let (ids, text) = bench.alone(model, request(prompt, 40, greedy()));
        // At a stop text, which is in the middle somewhere.
        let at = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
        let stop = &text[at..at + 4];
        let until =
            Request { stop: vec!["\u{0}".into(), stop.into()], ..request(prompt, 40, greedy()) };
        let found = wait(one(&handle, until));
        assert_eq!(found.text, text[..text.find(stop).unwrap()]);
        assert_eq!(found.done.unwrap().finish, Finish::Stop);
        assert!(found.ids.len() < found.done.unwrap().tokens);
        // At the end of the context.
        let long = &bench.ids[..N_CTX - 3];
        let found = wait(one(
            &handle,
            Request { max_tokens: None, ignore_eos: true, ..request(long, 0, greedy()) },
        ));
        assert_eq!((found.ids.len(), found.done.unwrap().finish), (3, Finish::Length));
        // Where the model ends it, or not: a bias makes every token the end.
        let end = bench.stop_ids()[0];
        let ending = SamplerConfig { logit_bias: vec![(end, 1e9)], ..greedy() };
        let found = wait(one(&handle, request(prompt, 5, ending.clone())));
        assert_eq!((found.ids.len(), found.text.as_str()), (0, ""));
        assert_eq!(found.done.map(|done| (done.finish, done.tokens)), Some((Finish::Stop, 1)));
        let found = wait(one(&handle, Request { ignore_eos: true, ..request(prompt, 5, ending) }));
        assert_eq!((found.ids, found.done.unwrap().finish), (vec![end; 5], Finish::Length));
        assert!(!ids.is_empty());
    });
}

/// Nothing but one token, so many times.
#[derive(Debug)]
pub struct Only {
    pub id: u32,
    pub left: usize,
}

impl Constraint for Only {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        if self.left == 0 {
            return Err(ConstraintError("nothing may follow".into()));
        }
        let logit = logits[self.id as usize];
        logits.fill(f32::NEG_INFINITY);
        logits[self.id as usize] = logit;
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        assert_eq!(id, self.id);
        self.left -= 1;
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.left == 0
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        Box::new(Self { ..*self })
    }
}

#[test]
fn a_constraint_is_kept_and_ends_the_answer() {
    let bench = Bench::new(&micro());
    bench.engine(2, 2, |_, handle| {
        let only = |left| Request {
            constraint: Some(Box::new(Only { id: 300, left })),
            ..request(&bench.ids[..30], 9, seeded(1))
        };
        let found = wait(one(&handle, only(4)));
        assert_eq!((found.ids, found.done.unwrap().finish), (vec![300; 4], Finish::Stop));
        let found = wait(one(&handle, only(0)));
        assert_eq!(found.error, Some(EngineError::Constraint("nothing may follow".into())));
        assert_eq!(handle.status().totals.failed, 1);
        assert_eq!(wait(one(&handle, only(20))).ids.len(), 9);
    });
}

#[test]
fn who_goes_away_makes_room() {
    let bench = Bench::new(&micro());
    bench.engine(1, 1, |_, handle| {
        // Far longer than the test.
        let endless = || Request { ignore_eos: true, ..request(&bench.ids[..10], 380, greedy()) };
        for _ in 0..50 {
            let mut running = one(&handle, endless());
            assert!(matches!(running.next_blocking(), Some(Event::Prompt { .. })));
            let waiting = one(&handle, endless());
            let refused = handle.submit(vec![endless()]).unwrap_err();
            assert_eq!(refused, SubmitError::Full { waiting: 1 });
            // One that waits, and one that runs.
            drop(waiting);
            let next = one(&handle, request(&bench.ids[..10], 1, greedy()));
            drop(running);
            assert_eq!(wait(next).ids.len(), 1);
        }
        let totals = handle.status().totals;
        assert_eq!((totals.cancelled, totals.refused, totals.requests), (100, 50, 150));
        assert_eq!((handle.status().busy, handle.status().waiting), (0, 0));
    });
}

#[test]
fn what_can_never_be_answered_is_refused() {
    let bench = Bench::new(&micro());
    bench.engine(2, 3, |model, handle| {
        let n_vocab = model.config().n_vocab;
        let refused = |request| handle.submit(vec![request]).unwrap_err();
        assert_eq!(refused(request(&[], 1, greedy())), SubmitError::NoTokens);
        let id = n_vocab as u32;
        assert_eq!(refused(request(&[2, id], 1, greedy())), SubmitError::Token { id, n_vocab });
        let long = &bench.ids[..N_CTX];
        let error = SubmitError::TooLong { tokens: N_CTX, n_ctx: N_CTX };
        assert_eq!(refused(request(long, 1, greedy())), error);
        assert_eq!(wait(one(&handle, request(long, 0, greedy()))).error, None);
        let many = (0..6).map(|_| request(&[2], 1, greedy())).collect();
        let error = handle.submit(many).unwrap_err();
        assert_eq!(error, SubmitError::TooMany { choices: 6, most: 5 });
        handle.shutdown();
        assert_eq!(refused(request(&[2], 1, greedy())), SubmitError::Closed);
    });
}

#[test]
fn a_shutdown_ends_what_runs_and_what_waits() {
    let bench = Bench::new(&micro());
    bench.engine(1, 1, |_, handle| {
        let endless = || Request { ignore_eos: true, ..request(&bench.ids[..10], 380, greedy()) };
        let mut running = one(&handle, endless());
        assert!(running.next_blocking().is_some());
        let mut waiting = one(&handle, endless());
        handle.shutdown();
        while running.next_blocking().is_some() {}
        assert!(waiting.next_blocking().is_none());
    });
}

/// With the last handle the engine ends, but not before what was asked for is answered.
#[test]
fn answers_outlive_the_handles() {
    let bench = Bench::new(&micro());
    bench.engine(1, 3, |_, handle| {
        let answers =
            handle.submit((0..3).map(|i| request(&bench.ids[..10], 5, seeded(i))).collect());
        drop(handle);
        assert!(answers.unwrap().into_iter().all(|answer| wait(answer).done.is_some()));
    });
}
