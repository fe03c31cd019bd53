//! `lapidary inspect`: shows what a model's file contains, and the memory that running it takes.

use std::io::{self, Write};

use clap::Args as ClapArgs;
use lapidary::convert::Totals;
use lapidary::kernels::{default_threads, KvType};
use lapidary::memory::{Load, Memory};
use lapidary::model::{Config, Source, StateOptions};
use lapidary_formats::gguf::Value;
use lapidary_formats::printable::Printable;
use lapidary_formats::tensor::TensorView;
use serde_json::json;

use super::json::json_line;
use super::memory::{self, file_bytes, memory_json};
use super::options::ModelArg;
use super::size::size;
use super::terminal;

/// Show what a model's file contains and the memory that running it takes
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Context for which to compute the memory, in tokens [default: the model's]
    #[arg(short, long, alias = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    ctx: Option<u32>,
    /// Type of the KV cache: f16, q8_0 or f32 [default: all three, for comparison]
    #[arg(long, value_name = "TYPE", value_parser = super::options::kv_type)]
    kv: Option<KvType>,
    /// Most tokens of a prompt that are evaluated together
    #[arg(long = "ubatch-size", alias = "slice", value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    n_ubatch: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How many elements of an array are shown.
const SHOWN: usize = 4;

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let source = args.model.open()?;
    let n_ctx = args.ctx.map_or(source.config().n_ctx_train, |n| n as usize);
    let model = Inspected::new(&source, n_ctx, &args);
    let mut out = io::BufWriter::new(terminal::stdout());
    if args.json {
        writeln!(out, "{}", json_line(&model.json()))?;
    } else {
        model.print(&mut out)?;
    }
    out.flush()?;
    Ok(())
}

/// A model, and what is computed from it.
struct Inspected<'a> {
    source: &'a Source,
    tensors: Vec<TensorView<'a>>,
    totals: Totals,
    options: StateOptions,
    /// The memory for each type of the KV cache.
    memory: Vec<(KvType, Memory)>,
}

impl<'a> Inspected<'a> {
    fn new(source: &'a Source, n_ctx: usize, args: &Args) -> Self {
        let tensors: Vec<TensorView> = match (source.gguf(), source.checkpoint()) {
            (Some(gguf), _) => gguf.tensors().collect(),
            (_, Some(checkpoint)) => checkpoint.tensors().collect(),
            _ => Vec::new(),
        };
        let sizes = tensors.iter().map(|t| (t.ty, t.len() as u64, t.data.len() as u64));
        let totals = Totals::new(sizes);
        let n_ubatch = args.n_ubatch as usize;
        let options = |kv| StateOptions { n_ubatch, ..StateOptions::new(n_ctx, kv) };
        let threads = default_threads();
        let file = file_bytes(source);
        let memory_of =
            |kv| (kv, Memory::new(source.config(), file, options(kv), threads, Load::One));
        let memory = KvType::ALL.into_iter().filter(|kv| args.kv.is_none_or(|only| only == *kv));
        let memory = memory.map(memory_of).collect();
        Self { source, tensors, totals, options: options(KvType::F16), memory }
    }

    fn format(&self) -> String {
        match self.source.gguf() {
            Some(gguf) => format!("GGUF version {}", gguf.version()),
            None => "checkpoint".to_owned(),
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}: {}", self.source.path().display(), self.format())?;
        writeln!(out, "\nModel")?;
        for (key, value) in config_values(self.source.config()) {
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            writeln!(out, "  {key:<19} {}", Printable::new(&value))?;
        }
        if let Some(gguf) = self.source.gguf() {
            writeln!(out, "\nMetadata")?;
            for (key, value) in gguf.metadata() {
                let key = Printable::new(key).to_string();
                writeln!(out, "  {key:<42} {:<5} {value}", value.ty().name())?;
            }
        }
        writeln!(out, "\nTensors")?;
        for t in &self.tensors {
            let (name, shape) = (Printable::new(t.name).to_string(), format!("{:?}", t.shape));
            writeln!(
                out,
                "  {name:<42} {:<5} {shape:<16} {:>13} bytes",
                t.ty.name(),
                t.data.len()
            )?;
        }
        writeln!(out)?;
        print_totals(out, &self.totals)?;
        writeln!(out)?;
        memory::print(out, &self.options, &self.memory)
    }

    fn json(&self) -> serde_json::Value {
        let gguf = self.source.gguf();
        let metadata = |gguf: &lapidary_formats::gguf::Gguf| {
            gguf.metadata().map(|(key, value)| (key.to_owned(), value_json(value))).collect()
        };
        let metadata: serde_json::Map<_, _> = gguf.map(metadata).unwrap_or_default();
        let tensor = |t: &TensorView| json!({ "name": t.name, "type": t.ty.name(), "shape": t.shape, "bytes": t.data.len() });
        let memory = |(kv, m): &(KvType, Memory)| (kv.name().to_owned(), memory_json(m));
        json!({
            "path": self.source.path().display().to_string(),
            "format": if gguf.is_some() { "gguf" } else { "checkpoint" },
            "gguf_version": gguf.map(|gguf| gguf.version()),
            "model": config_values(self.source.config())
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<serde_json::Map<_, _>>(),
            "metadata": metadata,
            "tensors": self.tensors.iter().map(tensor).collect::<Vec<_>>(),
            "totals": totals_json(&self.totals),
            "n_ctx": self.options.n_ctx,
            "n_ubatch": self.options.n_ubatch,
            "memory": self.memory.iter().map(memory).collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// All fields of the configuration. A field that differs between layers is given for local and for
/// global layers.
fn config_values(c: &Config) -> Vec<(&'static str, serde_json::Value)> {
    let decimal_or_null = |x: Option<f32>| x.map_or(json!(null), decimal);
    let (global, local) = (c.global_rope(), c.local_rope());
    let local_layers = c.layers.iter().filter(|layer| layer.is_local()).count();
    vec![
        ("architecture", json!(c.architecture.gguf_name())),
        ("name", json!(c.name)),
        ("n_vocab", json!(c.n_vocab)),
        ("n_ctx_train", json!(c.n_ctx_train)),
        ("n_embd", json!(c.n_embd)),
        ("n_ff", json!(c.n_ff)),
        ("n_layer", json!(c.n_layer())),
        ("n_layer_local", json!(local_layers)),
        ("n_head", json!(c.n_head)),
        ("n_head_kv", json!(c.n_head_kv)),
        ("head_dim", json!(c.head_dim)),
        ("sliding_window", json!(c.sliding_window())),
        ("rope_freq_base", decimal_or_null(global.or(local).map(|rope| rope.base))),
        ("rope_freq_base_swa", decimal_or_null(local.map(|rope| rope.base))),
        ("rope_scaling_factor", decimal_or_null(global.map(|rope| rope.factor))),
        ("rms_eps", decimal(c.rms_eps)),
        ("attn_scale", decimal(c.attn_scale)),
        ("attn_softcap", decimal_or_null(c.attn_softcap())),
        ("final_softcap", decimal_or_null(c.final_softcap)),
        ("qk_norm", json!(c.layers.iter().any(|layer| layer.qk_norm))),
    ]
}

/// A number with as few digits as an f32 needs (0.000001, not 9.999999974752427e-7).
fn decimal(x: f32) -> serde_json::Value {
    json!(x.to_string().parse::<f64>().ok())
}

/// A metadata value as JSON. Only the first elements of an array are given.
fn value_json(value: Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => json!(b),
        Value::Str(s) => json!(s),
        Value::F32(x) => decimal(x),
        Value::F64(x) => json!(x),
        Value::Array(a) => json!({
            "type": a.element_type().name(),
            "length": a.len(),
            "first": a.values().take(SHOWN).map(value_json).collect::<Vec<_>>(),
        }),
        integer => match integer.as_int::<u64>() {
            Some(n) => json!(n),
            None => json!(integer.as_int::<i64>()),
        },
    }
}

/// Prints a table of the tensors, values and bytes of each type.
pub fn print_totals(out: &mut impl Write, totals: &Totals) -> io::Result<()> {
    writeln!(out, "type   tensors         values           bytes    share")?;
    let mut row = |name: &str, tensors: usize, values: u64, bytes: u64| {
        let share = bytes as f64 * 100.0 / totals.bytes() as f64;
        writeln!(out, "{name:<5} {tensors:>8} {values:>14} {bytes:>15} {share:>6.1} %")
    };
    for t in &totals.types {
        row(t.ty.name(), t.tensors, t.values, t.bytes)?;
    }
    row("all", totals.tensors(), totals.values(), totals.bytes())?;
    let bits = totals.bits_per_weight();
    writeln!(out, "{} of tensors, {bits:.2} bits per weight", size(totals.bytes()))
}

/// The same table as JSON.
pub fn totals_json(totals: &Totals) -> serde_json::Value {
    let types = totals.types.iter().map(|t| {
        json!({ "type": t.ty.name(), "tensors": t.tensors, "values": t.values, "bytes": t.bytes })
    });
    json!({
        "types": types.collect::<Vec<_>>(),
        "tensors": totals.tensors(),
        "values": totals.values(),
        "bytes": totals.bytes(),
        "bits_per_weight": totals.bits_per_weight(),
    })
}
