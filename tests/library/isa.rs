//! Every instruction set of this machine gives the logits of the scalar reference, bit for bit.

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{Model, Rows, Source, State, StateOptions};
use lapidary::perplexity;

use crate::fixtures::{micro, tiny};
use crate::goldens::{golden, ids};

/// Calls `check` with every recipe's file of a checkpoint.
fn for_each_recipe(checkpoint: &std::path::Path, check: impl Fn(&Source, Recipe)) {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Source::open(checkpoint).unwrap();
    for recipe in Recipe::all() {
        let file = dir.path().join(recipe.name());
        let plan = Plan::of_recipe(&checkpoint, recipe);
        convert(&checkpoint, &file, &plan, Options::default(), &mut ()).unwrap();
        check(&Source::open(&file).unwrap(), recipe);
    }
}

fn logits(source: &Source, isa: Isa, ids: &[u32], kv: KvType) -> Vec<f32> {
    let model = Model::on(Cpu::new(None, isa).unwrap(), source).unwrap();
    let (mut state, mut all) =
        (State::new(model.config(), StateOptions::new(ids.len(), kv)), Vec::new());
    model.forward(&mut state, ids, Rows::All, |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

#[test]
fn logits_are_those_of_the_reference() {
    // Past the windows of both, 128 and 16.
    for (checkpoint, name, n) in [(tiny(), "tiny.json", 135), (micro(), "micro.json", 40)] {
        let ids = &ids(&golden(name)["ids"])[..n];
        for_each_recipe(&checkpoint, |source, recipe| {
            let expected = logits(source, Isa::SCALAR, ids, KvType::F16);
            for isa in Isa::available() {
                let equal = logits(source, isa, ids, KvType::F16) == expected;
                assert!(equal, "{name}, {} with {}", recipe.name(), isa.name());
            }
        });
    }
}

#[test]
fn perplexity_is_that_of_the_reference() {
    let tokens = ids(&golden("tiny.json")["ids"]);
    let options = perplexity::Options {
        n_ctx: 128,
        chunks: Some(2),
        kv: KvType::F16,
        reference_kv: KvType::F16,
        bos: None,
    };
    for_each_recipe(&tiny(), |source, recipe| {
        let measure = |isa| {
            let model = Model::on(Cpu::new(None, isa).unwrap(), source).unwrap();
            perplexity::measure(&model, &tokens, options, |_, _| true).unwrap().perplexity
        };
        for isa in Isa::available() {
            assert_eq!(measure(isa), measure(Isa::SCALAR), "{} {}", recipe.name(), isa.name());
        }
    });
}
