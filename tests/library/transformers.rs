//! The forward pass against Hugging Face transformers in f32 (goldens/transformers/README.md says
//! how the goldens were made).

use lapidary::kernels::KvType;
use lapidary::model::{Model, Rows, Source, State, StateOptions};
use lapidary::perplexity::{self, Options};
use lapidary::tokenizer::{Special, Tokenizer};

use crate::fixtures::{held_out, micro, tiny};
use crate::goldens::{golden, ids};
use crate::logits::{golden_f32, greedy, CACHES, F32_NMSE};
use crate::nmse::nmse;

/// Logits of all `ids`, evaluated in pieces of `piece` tokens.
fn logits(model: &Model<'_>, ids: &[u32], piece: usize, kv: KvType) -> Vec<f32> {
    let mut state = State::new(model.config(), StateOptions::new(ids.len(), kv));
    let mut all = Vec::new();
    for piece in ids.chunks(piece) {
        let sink = |_: usize, logits: &mut [f32]| all.extend_from_slice(logits);
        model.forward(&mut state, piece, Rows::All, sink).unwrap();
    }
    all
}

#[test]
fn tiny_logits_are_those_of_transformers_past_the_window() {
    let source = Source::open(&tiny()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let ids = ids(&golden("tiny.json")["ids"]);
    assert!(ids.len() > 2 * model.config().sliding_window().unwrap());
    let found = logits(&model, &ids, ids.len(), KvType::F32);
    let expected = golden_f32("tiny.logits.f32");
    let error = nmse(&found, &expected);
    println!("tiny: NMSE {error:.2e} over {} positions", ids.len());
    assert!(error <= F32_NMSE, "NMSE {error:e}");
    for (t, (found, expected)) in found
        .chunks(model.config().n_vocab)
        .zip(expected.chunks(model.config().n_vocab))
        .enumerate()
    {
        let error = nmse(found, expected);
        assert!(error <= F32_NMSE, "position {t}: NMSE {error:e}");
    }
}

/// query_pre_attn_scalar ≠ head_dim, an untied head, F32 and BF16 shards, only tokenizer.json,
/// and a rounded embedding scale.
#[test]
fn micro_logits_are_those_of_transformers() {
    let source = Source::open(&micro()).unwrap();
    assert!(source.is_untied());
    let model = Model::load(&source, None).unwrap();
    let ids = ids(&golden("micro.json")["ids"]);
    assert!(ids.len() > 12 * model.config().sliding_window().unwrap());
    let expected = golden_f32("micro.logits.f32");
    for (kv, tolerance, _) in CACHES {
        let found = logits(&model, &ids, ids.len(), kv);
        let error = nmse(&found, &expected);
        println!("micro, {kv:?}: NMSE {error:.2e} over {} positions", ids.len());
        assert!(error <= tolerance, "{kv:?}: NMSE {error:e}");
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let source = Source::open(&tiny()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let golden = golden("tiny.json");
    let (prompt, expected) = (ids(&golden["prompt_ids"]), ids(&golden["greedy_ids"]));
    assert_eq!(expected.len(), 64);
    assert_eq!(greedy(&model, &prompt, 64), expected);
}

#[test]
fn perplexity_of_the_held_out_text_is_that_of_transformers() {
    let source = Source::open(&tiny()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
    let text = std::fs::read_to_string(held_out()).unwrap();
    let tokens = tokenizer.encode_with_bos(&text, Special::Plain);
    let golden = &golden("tiny.json")["perplexity"];
    let options = Options {
        n_ctx: golden["n_ctx"].as_u64().unwrap() as usize,
        chunks: None,
        kv: KvType::F32,
        reference_kv: KvType::F32,
        bos: tokenizer.vocab().bos,
    };
    let found = perplexity::measure(&model, &tokens, options, |_, _| true).unwrap();
    let expected = golden["perplexity"].as_f64().unwrap();
    println!("perplexity {} against {expected}", found.perplexity);
    assert_eq!(found.chunks as u64, golden["chunks"].as_u64().unwrap());
    assert_eq!(found.tokens as u64, golden["tokens_scored"].as_u64().unwrap());
    assert!((found.perplexity / expected - 1.0).abs() <= 1e-4);
    let error = golden["standard_error"].as_f64().unwrap();
    assert!((found.standard_error / error - 1.0).abs() <= 1e-3);
}

/// Every product is computed in one order whatever the number of rows, so equal means equal.
#[test]
fn a_prompt_gives_the_same_logits_whole_in_pieces_and_token_by_token() {
    for (path, golden_name) in [(tiny(), "tiny.json"), (micro(), "micro.json")] {
        let source = Source::open(&path).unwrap();
        let model = Model::load(&source, None).unwrap();
        let ids = ids(&golden(golden_name)["ids"]);
        for kv in KvType::ALL {
            let whole = logits(&model, &ids, ids.len(), kv);
            for piece in [1, 7, 129] {
                assert!(logits(&model, &ids, piece, kv) == whole, "pieces of {piece}, {kv:?}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_the_logits() {
    let source = Source::open(&tiny()).unwrap();
    let ids = &ids(&golden("tiny.json")["ids"])[..150];
    let run =
        |threads| logits(&Model::load(&source, Some(threads)).unwrap(), ids, 150, KvType::F16);
    assert!(run(1) == run(3));
}

/// A state that goes back to an earlier position is as if the rest had never been.
#[test]
fn truncated_positions_are_forgotten() {
    let source = Source::open(&tiny()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let ids = &ids(&golden("tiny.json")["ids"])[..40];
    let mut state = State::new(model.config(), StateOptions::new(64, KvType::F16));
    model.forward_last(&mut state, &ids[..20]).unwrap();
    model.forward_last(&mut state, &[5, 6, 7]).unwrap();
    state.truncate(20);
    let found = model.forward_last(&mut state, &ids[20..]).unwrap().to_vec();
    let mut fresh = State::new(model.config(), StateOptions::new(64, KvType::F16));
    assert!(found == model.forward_last(&mut fresh, ids).unwrap());
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let source = Source::open(&tiny()).unwrap();
    let model = Model::load(&source, Some(1)).unwrap();
    let mut state = State::new(model.config(), StateOptions::new(4, KvType::F16));
    let error =
        |state: &mut State, ids: &[u32]| model.forward_last(state, ids).unwrap_err().to_string();
    assert_eq!(error(&mut state, &[2; 5]), "5 tokens do not fit in the context of 4");
    assert_eq!(error(&mut state, &[2, 2048]), "token id 2048 is outside the vocabulary of 2048");
    assert_eq!(error(&mut state, &[]), "there are no tokens to evaluate");
    assert!(state.is_empty());
}
