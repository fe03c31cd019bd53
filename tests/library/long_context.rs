//! The forward pass against Hugging Face transformers with the window of the published models, 4096,
//! and their context, 8192 (goldens/transformers/README.md says how the goldens were made).

use lapidary::kernels::KvType;
use lapidary::model::{Model, Source};
use serde_json::json;
use tempfile::TempDir;

use crate::fixtures::micro;
use crate::goldens::{golden, ids};
use crate::logits::{changed_checkpoint, golden_f32, logits_at, CACHES, F32_NMSE};
use crate::nmse::nmse;

/// The micro checkpoint with the context of the golden and another window.
fn checkpoint(sliding_window: u64) -> TempDir {
    let mut changes = golden("long.json")["config"].clone();
    changes["sliding_window"] = json!(sliding_window);
    changed_checkpoint(&micro(), &changes)
}

/// Logits at the golden's positions, `[positions, n_vocab]`: the first `prompt` tokens are
/// evaluated together, in ubatches, and the others one by one.
fn logits(model: &Model<'_>, prompt: usize, kv: KvType) -> Vec<f32> {
    let golden = golden("long.json");
    let (ids, positions) = (ids(&golden["ids"]), ids(&golden["positions"]));
    let (prompt, rest) = ids.split_at(prompt);
    logits_at(model, std::iter::once(prompt).chain(rest.chunks(1)), &positions, kv)
}

/// Each position of the golden and its NMSE.
fn errors(model: &Model<'_>, logits: &[f32]) -> Vec<(u32, f64)> {
    let n_vocab = model.config().n_vocab;
    let expected = golden_f32("long.logits.f32");
    assert_eq!(logits.len(), expected.len());
    let errors = logits.chunks(n_vocab).zip(expected.chunks(n_vocab)).map(|(a, b)| nmse(a, b));
    ids(&golden("long.json")["positions"]).into_iter().zip(errors).collect()
}

#[test]
fn logits_are_those_of_transformers_past_a_window_of_4096() {
    let window = golden("long.json")["config"]["sliding_window"].as_u64().unwrap();
    assert_eq!(window, 4096);
    let dir = checkpoint(window);
    let source = Source::open(dir.path()).unwrap();
    let model = Model::load(&source, None).unwrap();
    let n_ctx = model.config().n_ctx_train;
    for (kv, tolerance, at_one) in CACHES {
        let whole = logits(&model, n_ctx, kv);
        let error = nmse(&whole, &golden_f32("long.logits.f32"));
        println!("{kv:?}: NMSE {error:.2e}");
        assert!(error <= tolerance, "{kv:?}: NMSE {error:e}");
        for (position, error) in errors(&model, &whole) {
            println!("{kv:?}, position {position}: NMSE {error:.2e}");
            assert!(error <= at_one, "{kv:?}, position {position}: NMSE {error:e}");
        }
        // From 8150 on token by token, as an answer is written: in the same order, so the same.
        assert!(logits(&model, 8150, kv) == whole, "{kv:?}, token by token");
    }
}

/// The golden tells a window of one position more or less from 4096: the test above would fail with
/// every type of cache.
#[test]
fn a_window_of_one_position_more_or_less_is_told_apart() {
    for window in [4095, 4097] {
        let dir = checkpoint(window);
        let source = Source::open(dir.path()).unwrap();
        let model = Model::load(&source, None).unwrap();
        let telling = ids(&golden("long.json")["telling"][window.to_string()]);
        assert!(!telling.is_empty());
        let found = logits(&model, model.config().n_ctx_train, KvType::F32);
        for (position, error) in errors(&model, &found) {
            println!("window {window}, position {position}: NMSE {error:.2e}");
            // What has not come to the end of the window is as ever.
            assert!(position >= 4095 || error <= F32_NMSE, "position {position}: NMSE {error:e}");
            // transformers itself is 1.5e-2 and more off with these windows.
            assert!(!telling.contains(&position) || error >= 1e-2, "{position}: NMSE {error:e}");
        }
    }
}
