use std::path::{Path, PathBuf};

use super::*;
use crate::kernels::KvType;
use crate::model::{Model, Source, State, StateOptions};
use crate::sampling::{Sampler, SamplerConfig};
use crate::tokenizer::{Special, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A model and its tokenizer, for sequences with greedy sampling.
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
        // One thread, because the thousands of steps are too small to be shared.
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
fn the_common_beginning_is_not_evaluated_again() {
    let setup = Setup::new("tiny-gemma2");
    let model = setup.model();
    let session = || setup.session(&model, StateOptions::new(128, KvType::F32));
    let encode = |text: &str| setup.tokenizer.encode_with_bos(text, Special::Plain);
    let (david, saul) = (encode("And David went up to"), encode("And David said unto Saul"));
    let common = david.iter().zip(&saul).take_while(|(a, b)| a == b).count();

    let mut reused = session();
    for (prompt, cached) in [(&david, 0), (&saul, common), (&saul, saul.len() - 1)] {
        let found = answer(&mut reused, prompt, 12);
        assert_eq!(found.prompt_evaluated, prompt.len() - cached);
        assert_eq!(found.ids, answer(&mut session(), prompt, 12).ids);
    }
    let mut longer = saul.clone();
    longer.extend(&reused.ids[saul.len()..]);
    longer.extend(&david[1..]);
    let found = answer(&mut reused, &longer, 12);
    assert_eq!(found.prompt_evaluated, david.len() - 1);
    assert_eq!(found.ids, answer(&mut session(), &longer, 12).ids);
}

/// The micro model has a window of 16, and with ubatches of 40 a ring holds one span of 256
/// positions. After 600 tokens it holds the positions from 344 on, which is enough to continue at
/// position 359 or later.
#[test]
fn a_wrapped_ring_is_reused_as_far_as_it_holds_positions() {
    const LONG: usize = 700;
    let setup = Setup::new("micro-gemma2");
    let model = setup.model();
    let text = std::fs::read_to_string(fixture("held-out/kjv-held-out.txt")).unwrap();
    let ids = setup.tokenizer.encode_with_bos(&text, Special::Plain);
    let other = &ids[LONG..];
    for kv in KvType::ALL {
        let options = StateOptions { n_ubatch: 40, ..StateOptions::new(LONG, kv) };
        // Number of tokens that the prompt has in common with the first 600, its length, and how
        // many of its tokens are not evaluated again.
        for (common, len, cached) in [
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
            assert_eq!(found.prompt_evaluated, len - cached, "{kv:?}, {common} in common");
            assert_eq!(session.ids, prompt);
            let mut fresh = setup.session(&model, options);
            answer(&mut fresh, &prompt, 0);
            assert!(session.logits == fresh.logits, "{kv:?}, {common} in common");
            // Also compares what is generated after it.
            let (found, expected) =
                (answer(&mut session, &prompt, 9), answer(&mut fresh, &prompt, 9));
            assert_eq!(found.ids, expected.ids);
        }
    }
}

/// After each shift, the sequence is one that begins with the kept tokens: its logits are equal to
/// those of a fresh sequence.
#[test]
fn a_text_can_be_longer_than_a_context_of_any_length() {
    let setup = Setup::new("micro-gemma2");
    let model = setup.model();
    for n_ctx in [1, 2, 3, 4, 7, 50] {
        let options = StateOptions::new(n_ctx, KvType::F16);
        let prompt = [2, 700][..n_ctx.min(2)].to_vec();
        let mut session = setup.session(&model, options);
        let mut shift = OldestHalf { keep: usize::from(n_ctx > 1) };
        let found = shifted(&mut session, &prompt, 120, &mut shift);
        assert_eq!((found.tokens, found.end), (120, LENGTH), "n_ctx {n_ctx}");
        // At least the last `n_ctx` ids are kept, and at most twice as many.
        assert!((n_ctx.min(120)..=2 * n_ctx).contains(&found.ids.len()), "n_ctx {n_ctx}");
        // A full context drops half of what follows BOS.
        let room = ((n_ctx - usize::from(n_ctx > 1)).div_ceil(2)).max(1);
        let filled = 120 - 1 - (n_ctx - prompt.len());
        assert_eq!(found.shifts, filled.div_ceil(room), "n_ctx {n_ctx}");
        let held = session.ids.clone();
        assert!(held.len() <= n_ctx && (n_ctx == 1 || held[0] == 2));
        // The sequence holds the latest tokens, except the last one, which was not evaluated.
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
    // A shift that must keep everything ends the text, too.
    let mut shift = OldestHalf { keep: 3 };
    let found = shifted(&mut session, &[2, 700, 5], 9, &mut shift);
    assert_eq!((found.ids.len(), found.end, found.shifts), (1, Some(End::ContextFull), 0));
}

#[test]
fn cancelling_ends_a_text_and_keeps_what_was_evaluated() {
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
    // It is called before and after the evaluation of the prompt, and then before each evaluation.
    assert_eq!((answer.end, answer.tokens, answer.decoded), (Some(End::Cancelled), 4, 3));
    // The evaluated tokens stay and can be continued.
    assert_eq!(session.ids()[..2], [2, 700]);
    assert_eq!(session.ids().len(), 2 + answer.decoded);
    let refused = |prompt: &[u32], session: &mut Session<'_>| {
        let limits = Limits { max_tokens: None, cancelled: &|| false };
        session.generate(prompt, limits, &mut ()).err().unwrap().to_string()
    };
    assert_eq!(refused(&[], &mut session), "there are no tokens to evaluate");
    let too_long = "the prompt has 65 tokens, but the context holds 64";
    assert_eq!(refused(&[2; 65], &mut session), too_long);
}
