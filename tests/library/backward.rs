//! The backward pass against torch (goldens/transformers/README.md says how the golden was made), and on
//! every instruction set.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::kernels::{Cpu, Isa, KvType};
use lapidary::model::{GradientObserver, Model, Source, State, StateOptions, TensorKind};

use crate::fixtures::{micro, tests_dir, tiny};
use crate::goldens::{golden, ids};

/// How far a norm may be off, and an element, as a part of itself or of the root mean square. Both sides
/// compute in single precision, in different orders: that is 2e-5.
const TOLERANCE: f64 = 2e-4;

/// By name, the gradients of outputs of matrices and of streams.
#[derive(Default, PartialEq)]
struct Gradients(BTreeMap<String, Vec<f32>>);

impl GradientObserver for Gradients {
    fn output(&mut self, kind: TensorKind, layer: usize, gradient: &[f32]) {
        self.0.insert(kind.name(Some(layer)), gradient.to_vec());
    }
}

/// All gradients of the log-likelihood of `labels`, or of labels that are drawn.
fn gradients(model: &Model<'_>, ids: &[u32], labels: Option<&[u32]>) -> Gradients {
    let n_layer = model.config().n_layer();
    let mut state = State::new(model.config(), StateOptions::new(ids.len(), KvType::F32));
    let mut streams = vec![model.embedded(&mut state, ids).unwrap()];
    for layer in 0..n_layer {
        let mut stream = streams[layer].clone();
        model.take_through(&mut state, layer, &mut stream, &mut ()).unwrap();
        streams.push(stream);
    }
    let mut gradient = match labels {
        Some(labels) => model.label_gradient(&mut state, &streams[n_layer], labels).unwrap(),
        None => model.sampled_gradient(&mut state, &streams[n_layer], 5, &mut ()).unwrap(),
    };
    let mut all = Gradients::default();
    all.0.insert(format!("stream.{n_layer}"), gradient.clone());
    for layer in (0..n_layer).rev() {
        model.take_back(&mut state, layer, &streams[layer], &mut gradient, &mut all).unwrap();
        all.0.insert(format!("stream.{layer}"), gradient.clone());
    }
    all
}

#[test]
fn gradients_are_those_of_torch() {
    let golden = golden("gradients.json");
    let (ids, labels) = (ids(&golden["ids"]), ids(&golden["labels"]));
    for (name, expected) in golden["gradients"].as_object().unwrap() {
        let source = Source::open(&tests_dir("fixtures").join(name)).unwrap();
        let model = Model::load(&source, None).unwrap();
        let found = gradients(&model, &ids, Some(&labels)).0;
        let mut worst = 0.0f64;
        assert_eq!(expected.as_object().unwrap().len(), 8 * model.config().n_layer() + 1, "{name}");
        for (of, expected) in expected.as_object().unwrap() {
            let found = &found[of];
            let norm = found.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let expected_norm = expected["norm"].as_f64().unwrap();
            // Of an element as large as most are.
            let scale = expected_norm / (found.len() as f64).sqrt();
            let mut off = (norm / expected_norm - 1.0).abs();
            for (i, value) in expected["values"].as_array().unwrap().iter().enumerate() {
                let found = f64::from(found[(40503 * i + 17) % found.len()]);
                let value = value.as_f64().unwrap();
                off = off.max((found - value).abs() / scale.max(value.abs()));
            }
            assert!(off <= TOLERANCE, "{name}, {of}: {off:e}");
            worst = worst.max(off);
        }
        println!("{name}: at most {worst:.1e} off");
    }
}

/// Matrices in bf16 and f32 with odd sizes, and quantized ones.
#[test]
fn neither_threads_nor_instructions_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    let checkpoint = Source::open(&tiny()).unwrap();
    let plan = Plan::of_recipe(&checkpoint, Recipe::Q4_K_M);
    convert(&checkpoint, &file, &plan, Options::default(), &mut ()).unwrap();
    for (path, name, n) in [(micro(), "micro.json", 43), (file, "tiny.json", 70)] {
        let source = Source::open(&path).unwrap();
        let ids = &ids(&golden(name)["ids"])[..n];
        let run = |threads, isa| {
            let cpu = Cpu::new(NonZeroUsize::new(threads), isa).unwrap();
            gradients(&Model::on(cpu, &source).unwrap(), ids, None)
        };
        let expected = run(1, Isa::SCALAR);
        for isa in Isa::available() {
            for threads in [1, 3] {
                assert!(run(threads, isa) == expected, "{name}, {} on {threads}", isa.name());
            }
        }
    }
}
