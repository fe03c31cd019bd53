//! The key/value cache: rings against a whole cache, going back, and what eight bits cost.

use lapidary::kernels::KvType;
use lapidary::model::{Model, Rows, Source, State, StateOptions};
use lapidary::perplexity::{compare, Options};

use crate::fixtures::{micro, tiny};
use crate::tokens::held_out_ids;

/// Micro's window is 16, so that a ring with ubatches of up to 241 holds a span of 256.
const N_UBATCH: usize = 40;

/// More than twice a ring.
const LONG: usize = 700;

fn state(model: &Model<'_>, kv: KvType, rings: bool) -> State {
    let options = StateOptions { n_ubatch: N_UBATCH, rings, ..StateOptions::new(LONG, kv) };
    State::new(model.config(), options)
}

/// Logits of all `ids`, evaluated in pieces of `piece` tokens.
fn logits(model: &Model<'_>, state: &mut State, ids: &[u32], piece: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for piece in ids.chunks(piece) {
        let sink = |_: usize, logits: &mut [f32]| all.extend_from_slice(logits);
        model.forward(state, piece, Rows::All, sink).unwrap();
    }
    all
}

#[test]
fn rings_give_the_bits_of_a_whole_cache() {
    let source = Source::open(&micro()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let ids = &held_out_ids(&source)[..LONG];
    for kv in KvType::ALL {
        let whole = logits(&model, &mut state(&model, kv, false), ids, LONG);
        for piece in [LONG, 1, 33] {
            let ring = logits(&model, &mut state(&model, kv, true), ids, piece);
            assert!(ring == whole, "{kv:?}, pieces of {piece}");
        }
    }
}

/// A ring of 256 positions after 600 has those from 344 on: position `p` sees `p - 15` to `p`, so it
/// can go back to 359 and no further.
#[test]
fn a_full_ring_goes_back_as_far_as_it_has_what_a_position_sees() {
    let source = Source::open(&micro()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let ids = &held_out_ids(&source)[..LONG];
    for kv in KvType::ALL {
        let expected = logits(&model, &mut state(&model, kv, true), &ids[..380], LONG);
        let last = &expected[expected.len() - model.config().n_vocab..];
        for (back, kept) in [(379, 379), (359, 359), (358, 0), (0, 0), (600, 600)] {
            let mut state = state(&model, kv, true);
            logits(&model, &mut state, &ids[..600], LONG);
            assert_eq!(state.truncate(back), kept, "{kv:?}");
            assert_eq!(state.len(), kept);
            if kept < 380 {
                let again = model.forward_last(&mut state, &ids[kept..380]).unwrap();
                assert!(again == last, "{kv:?}, back to {back}");
            }
        }
    }
}

/// With rings turned off everything is there to go back to.
#[test]
fn a_whole_cache_goes_back_to_anywhere() {
    let source = Source::open(&micro()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let ids = &held_out_ids(&source)[..LONG];
    let mut state = state(&model, KvType::F16, false);
    logits(&model, &mut state, ids, LONG);
    assert_eq!(state.truncate(3), 3);
    assert_eq!(state.truncate(5), 3);
}

/// What the types of the cache cost, on the trained model: printed for the record, and bounded. Rounding
/// to f16 is 2^-12 of a value, to eight bits about 2^-8 of a block's largest; divergence goes by the
/// square, some 250 times as much.
#[test]
fn eight_bits_cost_little_and_sixteen_less() {
    let source = Source::open(&tiny()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let tokens = held_out_ids(&source);
    let kl = |kv| {
        let options =
            Options { n_ctx: 512, chunks: Some(4), kv, reference_kv: KvType::F32, bos: Some(2) };
        let kl = compare(&model, &model, &tokens, options, |_, _| true).unwrap().kl;
        println!("{kv:?}: KL {:.3e} ± {:.1e}", kl.mean.value, kl.mean.standard_error);
        kl.mean.value
    };
    let [f16, q8_0, f32] = KvType::ALL.map(kl);
    assert_eq!(f32, 0.0);
    // Q8_0 weights of the same model have a divergence of 2e-5 (benches/record).
    assert!(0.0 < f16 && f16 < q8_0 / 10.0, "{f16:e} and {q8_0:e}");
    assert!(q8_0 < 1e-4, "{q8_0:e}");
}
