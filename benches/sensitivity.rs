//! Quantizes one matrix of a model at a time and measures how that changes the model's predictions.
//! The table in `src/convert/budget.rs` is made from its output:
//!
//!     cargo run --release --example sensitivity -- MODEL TEXT [TYPE]
//!
//! For each matrix, quantized to TYPE (default Q3_K) while all others are unchanged, it prints the
//! relative squared error, the KL divergence on the first ten chunks of 512 tokens, and their ratio.

use std::path::Path;

use anyhow::Context;
use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::kernels::{weighted_error, Cpu, Isa, KvType};
use lapidary::model::{Model, Role, Source, TensorSpec};
use lapidary::perplexity::{compare, Options as TextOptions};
use lapidary::tokenizer::{Special, Tokenizer};
use lapidary_formats::quant::QuantType;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, more @ ..] = &args[..] else {
        anyhow::bail!("usage: sensitivity MODEL TEXT [TYPE]")
    };
    let name = more.first().map_or("Q3_K", String::as_str);
    let ty = QuantType::from_name(name).with_context(|| format!("no type is called {name}"))?;
    let source = Source::open(Path::new(model))?;
    let tokenizer = Tokenizer::new(source.vocab()?)?;
    let tokens = tokenizer.encode_with_bos(&std::fs::read_to_string(text)?, Special::Plain);
    let options = TextOptions {
        n_ctx: 512,
        chunks: Some(10),
        kv: KvType::F32,
        reference_kv: KvType::F32,
        bos: tokenizer.vocab().bos.filter(|_| tokenizer.vocab().add_bos),
    };
    let cpu = Cpu::new(None, Isa::best())?;
    let reference = Model::on(cpu.clone(), &source)?;
    let dir = tempfile::tempdir()?;
    println!("{:<28} {:>10} {:>10} {:>10}", "matrix", "error", "KL", "KL/error");
    for (i, spec) in source.tensors().iter().enumerate() {
        if spec.role() == Role::Norm || !spec.cols().is_multiple_of(ty.block_len()) {
            continue;
        }
        let mut plan = Plan::of_recipe(&source, Recipe::BF16);
        plan.types[i] = ty;
        let file = dir.path().join(format!("{i}.gguf"));
        convert(&source, &file, &plan, Options::default(), &mut ())?;
        let quantized = Source::open(&file)?;
        let error = relative_error(&source, &quantized, spec);
        let model = Model::on(cpu.clone(), &quantized)?;
        let found = compare(&model, &reference, &tokens, options, |_, _| true)?;
        let kl = found.kl.mean.value;
        println!("{:<28} {error:>10.5} {kl:>10.6} {:>10.5}", spec.name, kl / error);
        std::fs::remove_file(&file)?;
    }
    Ok(())
}

/// The squared error of a matrix, relative to the sum of its squares.
fn relative_error(source: &Source, quantized: &Source, spec: &TensorSpec) -> f64 {
    let values = |source: &Source| {
        let spec = source.tensors().iter().find(|t| t.name == spec.name);
        let view = source.tensor(spec.expect("both models have the same tensors"));
        let mut values = vec![0.0; view.len()];
        (view.ty.traits().dequantize)(view.data, &mut values);
        values
    };
    let [error, square] = weighted_error(Isa::best(), &values(source), &values(quantized), None);
    error / square
}
