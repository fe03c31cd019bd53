use std::path::{Path, PathBuf};

use super::*;
use crate::kernels::KvType;
use crate::model::{Model, Source, State, StateOptions};
use crate::sampling::{Sampler, SamplerConfig};
use crate::tokenizer::{Special, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A model and its tokenizer, for sequences that always go on with the likeliest token.
struct Setup {
    source: Source,
    tokenizer: Tokenizer,
}

impl Setup {
    fn new(name: &str) -> Self {
        let source = Source::open(&fixture(name)).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        Self { source, tokenizer }
    }

    fn model(&self) -> Model<'_> {
        // One thread: thousands of steps that are too small to share.
        Model::load(&self.source, Some(1)).unwrap()
    }

    fn session<'a>(&'a self, model: &'a Model<'a>, options: StateOptions) -> Session<'a> {
        let config = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
        Session::new(model, &self.tokenizer, Vec::new(), Sampler::new(config).unwrap(), options)
    }
}

fn answer(session: &mut Session<'_>, prompt: &[u32], max_tokens: usize) -> Answer {
    shifted(session, prompt, max_tokens, &mut ())
}

fn shifted(
    session: &mut Session<'_>,
    prompt: &[u32],
    max_tokens: usize,
    shift: &mut dyn Shift,
) -> Answer {
    let limits = Limits { max_tokens: Some(max_tokens), cancelled: &|| false };
    let mut tokens = session.generate(prompt, limits, shift).unwrap();
    tokens.by_ref().for_each(|shown| _ = shown.unwrap());
    assert!(tokens.next().is_none(), "it has ended");
    tokens.into_answer()
}

const LENGTH: Option<End> = Some(End::Finished(Finish::Length));

#[test]
fn what_the_sequence_begins_with_is_not_evaluated_again() {
    let setup = Setup::new("tiny-gemma2");
    let model = setup.model();
    let session = || setup.session(&model, StateOptions::new(128, KvType::F32));
    let encode = |text: &str| setup.tokenizer.encode_with_bos(text, Special::Plain);
    let (david, saul) = (encode("And David went up to"), encode("And David said unto Saul"));
    let common = david.iter().zip(&saul).take_while(|(a, b)| a == b).count();

    let mut going_on = session();
    for (prompt, known) in [(&david, 0), (&saul, common), (&saul, saul.len() - 1)] {
        let found = answer(&mut going_on, prompt, 12);
        assert_eq!(found.prompt_evaluated, prompt.len() - known);
        assert_eq!(found.ids, answer(&mut session(), prompt, 12).ids);
    }
    let mut longer = saul.clone();
    longer.extend(&going_on.ids[saul.len()..]);
    longer.extend(&david[1..]);
    let found = answer(&mut going_on, &longer, 12);
    assert_eq!(found.prompt_evaluated, david.len() - 1);
    assert_eq!(found.ids, answer(&mut session(), &longer, 12).ids);
}

/// Micro's window is 16, and a ring for ubatches of 40 holds a span of 256 positions: after 600 those
/// from 344 on are there, which is what positions from 359 on see.
#[test]
fn a_ring_that_wrapped_is_reused_as_far_as_it_goes_and_no_further() {
    const LONG: usize = 700;
    let setup = Setup::new("micro-gemma2");
    let model = setup.model();
    let text = std::fs::read_to_string(fixture("held-out/kjv-held-out.txt")).unwrap();
    let ids = setup.tokenizer.encode_with_bos(&text, Special::Plain);
    let other = &ids[LONG..];
    for kv in KvType::ALL {
        let options = StateOptions { n_ubatch: 40, ..StateOptions::new(LONG, kv) };
        // Prompts that have so many tokens in common with the 600, and their lengths.
        for (common, len, known) in [
            (600, 650, 600),
            (500, 500, 499),
            (400, 420, 400),
            (359, 380, 359),
            (358, 380, 0),
            (1, 100, 0),
            (0, 100, 0),
        ] {
            let mut session = setup.session(&model, options);
            answer(&mut session, &ids[..600], 0);
            let prompt = [&ids[..common], &other[..len - common]].concat();
            let found = answer(&mut session, &prompt, 0);
            assert_eq!(found.prompt_evaluated, len - known, "{kv:?}, {common} in common");
            assert_eq!(session.ids, prompt);
            let mut fresh = setup.session(&model, options);
            answer(&mut fresh, &prompt, 0);
            assert!(session.logits == fresh.logits, "{kv:?}, {common} in common");
            // And what is written after it.
            let (found, expected) =
                (answer(&mut session, &prompt, 9), answer(&mut fresh, &prompt, 9));
            assert_eq!(found.ids, expected.ids);
        }
    }
}

/// After each shift the sequence is one that begins with what was kept: its logits are a fresh one's.
#[test]
fn a_text_slides_through_any_context() {
    let setup = Setup::new("micro-gemma2");
    let model = setup.model();
    for n_ctx in [1, 2, 3, 4, 7, 50] {
        let options = StateOptions::new(n_ctx, KvType::F16);
        let prompt = [2, 700][..n_ctx.min(2)].to_vec();
        let mut session = setup.session(&model, options);
        let mut shift = OldestHalf { keep: usize::from(n_ctx > 1) };
        let found = shifted(&mut session, &prompt, 120, &mut shift);
        assert_eq!((found.tokens, found.end), (120, LENGTH), "n_ctx {n_ctx}");
        // No more is kept than a context may hold, and a little.
        assert!((n_ctx.min(120)..=2 * n_ctx).contains(&found.ids.len()), "n_ctx {n_ctx}");
        // A full context makes room for half of what follows BOS.
        let room = ((n_ctx - usize::from(n_ctx > 1)).div_ceil(2)).max(1);
        let filled = 120 - 1 - (n_ctx - prompt.len());
        assert_eq!(found.shifts, filled.div_ceil(room), "n_ctx {n_ctx}");
        let held = session.ids.clone();
        assert!(held.len() <= n_ctx && (n_ctx == 1 || held[0] == 2));
        // The latest tokens, but for the very last, which was not evaluated.
        let latest = &held[usize::from(n_ctx > 1)..];
        assert!(found.ids[..found.ids.len() - 1].ends_with(latest), "n_ctx {n_ctx}");
        let mut fresh = State::new(model.config(), options);
        let logits = model.forward_last(&mut fresh, &held).unwrap();
        assert!(session.logits == logits, "n_ctx {n_ctx}");
    }
}

#[test]
fn without_a_shift_a_full_context_ends_the_text() {
    let setup = Setup::new("micro-gemma2");
    let model = setup.model();
    let mut session = setup.session(&model, StateOptions::new(3, KvType::F16));
    let found = answer(&mut session, &[2, 700], 120);
    assert_eq!((found.ids.len(), found.end, found.shifts), (2, Some(End::ContextFull), 0));
    // Neither does it go on where all of it has to stay.
    let mut shift = OldestHalf { keep: 3 };
    let found = shifted(&mut session, &[2, 700, 5], 9, &mut shift);
    assert_eq!((found.ids.len(), found.end, found.shifts), (1, Some(End::ContextFull), 0));
}

#[test]
fn a_text_ends_where_it_is_cancelled() {
    let setup = Setup::new("micro-gemma2");
    let model = setup.model();
    let mut session = setup.session(&model, StateOptions::new(64, KvType::F16));
    let asked = std::cell::Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) >= 5;
    let limits = Limits { max_tokens: None, cancelled: &cancelled };
    let mut none = ();
    let mut tokens = session.generate(&[2, 700], limits, &mut none).unwrap();
    tokens.by_ref().for_each(|shown| _ = shown.unwrap());
    let answer = tokens.into_answer();
    // It is asked before and after the prompt is read, and then before each evaluation.
    assert_eq!((answer.end, answer.tokens, answer.decoded), (Some(End::Cancelled), 4, 3));
    // What was read is there to go on from.
    assert_eq!(session.ids()[..2], [2, 700]);
    assert_eq!(session.ids().len(), 2 + answer.decoded);
    let refused = |prompt: &[u32], session: &mut Session<'_>| {
        let limits = Limits { max_tokens: None, cancelled: &|| false };
        session.generate(prompt, limits, &mut ()).err().unwrap().to_string()
    };
    assert_eq!(refused(&[], &mut session), "there are no tokens to evaluate");
    let too_long = "the prompt has 65 tokens, the context takes 64";
    assert_eq!(refused(&[2; 65], &mut session), too_long);
}
