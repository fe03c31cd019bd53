//! `lapidary bench`: measures how fast a model evaluates prompts and decodes, and compares decoding
//! with the speed at which its weights can be read.
//!
//! Tests are named as in llama-bench: `pp512` evaluates 512 tokens at once, `tg32` decodes 32
//! tokens one by one. `@d4096` after a name means that the cache already holds 4096 tokens, and
//! `x4` that four sequences are decoded together, as in a server.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::bail;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary::bandwidth::read_gb_per_s;
use lapidary::kernels::KvType;
use lapidary::model::{
    BatchEntry, Model, Role, Sequence, Source, StateOptions, TensorKind, Workspace,
};
use serde_json::json;

use super::interrupt;
use super::json::json_line;
use super::options::{CpuArgs, ModelArg};
use super::size::size;
use super::terminal;

/// Tokens that are put into the cache between two checks for Ctrl-C.
const N_UBATCH: usize = 512;

/// Measure the speed of prompt evaluation and of decoding
///
/// Decoding a token reads every matrix once, but the embedding only if it is also the output
/// matrix. GB/s counts these bytes and not those of the KV cache. With tokens in the cache, memory
/// therefore delivers more than the printed share.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Number of tokens of the prompt test; a comma-separated list makes several tests, 0 none
    #[arg(short, value_name = "N,…", default_value = "512", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1 << 24))]
    p: Vec<u32>,
    /// Number of tokens of the decoding test; a comma-separated list makes several tests, 0 none
    #[arg(short, value_name = "N,…", default_value = "32", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1 << 24))]
    n: Vec<u32>,
    /// Number of tokens in the cache before each test; a comma-separated list repeats all tests
    #[arg(long, value_name = "N,…", default_value = "0", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1 << 24))]
    ctx_depth: Vec<u32>,
    /// Number of sequences that are decoded together; a comma-separated list repeats the decoding
    /// tests. The tokens of all sequences are counted
    #[arg(long, value_name = "N,…", default_value = "1", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: Vec<u32>,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Number of repetitions that are measured, after one for warm-up
    #[arg(short, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    r: u32,
    /// Type of the KV cache: f16, q8_0 or f32
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = super::options::kv_type)]
    kv: KvType,
    /// Most tokens of a prompt that are evaluated together
    #[arg(long = "ubatch-size", alias = "slice", value_name = "N", default_value = "512")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    n_ubatch: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let tests = args.tests();
    let Some(n_ctx) = tests.iter().map(|test| test.depth + test.tokens).max() else {
        bail!("there is nothing to measure: -p and -n are both 0");
    };
    let source = args.model.open()?;
    let model = Model::on(args.cpu.cpu()?, &source)?;
    let trained = model.config().n_ctx_train;
    if n_ctx > trained {
        let name = source.path().display();
        writeln!(
            terminal::stderr(),
            "{name}: trained for {trained} tokens, but measured with {n_ctx}"
        )?;
    }
    interrupt::install()?;
    let weights = weights(&source);
    let mut report = Report {
        model: source.path().display().to_string(),
        threads: model.threads(),
        isa: model.isa().name(),
        kv: args.kv,
        weight_bytes: weights.iter().map(|part| part.len() as u64).sum(),
        // This also brings the weights into memory.
        stream_gb_per_s: read_gb_per_s(&weights, model.threads()),
    };
    let options =
        StateOptions { n_ubatch: args.n_ubatch as usize, ..StateOptions::new(n_ctx, args.kv) };
    let streams = tests.iter().map(|test| test.streams).max().unwrap_or(1);
    let mut bench = Bench {
        model: &model,
        sequences: (0..streams).map(|_| Sequence::new(model.config(), options)).collect(),
        work: Workspace::new(model.config()),
        ids: ids(n_ctx, model.config().n_vocab),
    };
    let mut out = terminal::stdout();
    if !args.json {
        report.print_head(&mut out)?;
    }
    let mut results = Vec::new();
    for test in tests {
        let speed = bench.measure(test, args.r)?;
        if test.kind == Kind::Decode {
            // The speed of memory that is shared with others varies, so the best measurement
            // counts.
            let again = read_gb_per_s(&weights, model.threads());
            report.stream_gb_per_s = report.stream_gb_per_s.max(again);
        }
        if !args.json {
            report.print_row(&mut out, test, speed)?;
        }
        results.push(report.result(test, speed, args.r));
    }
    if args.json {
        writeln!(out, "{}", json_line(&report.json(&results)))?;
    }
    Ok(())
}

impl Args {
    /// The tests in the order of their depths, so that the cache never has to be refilled from the
    /// start.
    fn tests(&self) -> Vec<Test> {
        let mut depths = self.ctx_depth.clone();
        depths.sort_unstable();
        depths.dedup();
        let of = |kind, tokens: &[u32], depth: u32, streams: u32| {
            let (depth, streams) = (depth as usize, streams as usize);
            let test = |n: &u32| Test { kind, tokens: *n as usize, depth, streams };
            tokens.iter().filter(|n| **n > 0).map(test).collect::<Vec<_>>()
        };
        let at = |depth| {
            let decode = self.streams.iter().map(move |n| of(Kind::Decode, &self.n, depth, *n));
            std::iter::once(of(Kind::Prompt, &self.p, depth, 1)).chain(decode)
        };
        depths.into_iter().flat_map(at).flatten().collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Evaluates all tokens at once.
    Prompt,
    /// Evaluates one token at a time.
    Decode,
}

#[derive(Clone, Copy, Debug)]
struct Test {
    kind: Kind,
    /// Tokens to evaluate, at least one.
    tokens: usize,
    /// Tokens in the cache before the test.
    depth: usize,
    /// Sequences that are decoded together, at least one.
    streams: usize,
}

impl Test {
    fn name(self) -> String {
        let kind = match self.kind {
            Kind::Prompt => "pp",
            Kind::Decode => "tg",
        };
        let streams = if self.streams > 1 { format!("x{}", self.streams) } else { String::new() };
        let depth = if self.depth > 0 { format!("@d{}", self.depth) } else { String::new() };
        format!("{kind}{}{streams}{depth}", self.tokens)
    }
}

/// Tokens per second, over the repetitions of a test.
#[derive(Clone, Copy, Debug)]
struct Speed {
    mean: f64,
    /// Sample standard deviation; 0 for a single repetition.
    deviation: f64,
}

impl Speed {
    /// Mean and deviation of at least one value.
    fn of(speeds: &[f64]) -> Self {
        let n = speeds.len() as f64;
        let mean = speeds.iter().sum::<f64>() / n;
        let squares: f64 = speeds.iter().map(|speed| (speed - mean).powi(2)).sum();
        Self { mean, deviation: (squares / (n - 1.0).max(1.0)).sqrt() }
    }
}

/// A model, and the sequences that all tests use.
struct Bench<'a> {
    model: &'a Model<'a>,
    sequences: Vec<Sequence>,
    work: Workspace,
    /// The tokens that each sequence evaluates; as many as the context holds.
    ids: Vec<u32>,
}

impl Bench<'_> {
    fn measure(&mut self, test: Test, repetitions: u32) -> anyhow::Result<Speed> {
        let Test { kind, tokens, depth, streams } = test;
        let mut speeds = Vec::new();
        for repetition in 0..=repetitions {
            // Not only for the first repetition: if a test was so long that a ring overwrote what
            // `depth` needs, truncating has emptied the caches.
            self.fill(depth, streams)?;
            let start = Instant::now();
            match kind {
                Kind::Prompt => self.evaluate(tokens, 1)?,
                Kind::Decode => (0..tokens).try_for_each(|_| self.evaluate(1, streams))?,
            }
            let seconds = start.elapsed().as_secs_f64();
            self.sequences.iter_mut().for_each(|sequence| _ = sequence.truncate(depth));
            // The first repetition is a warm-up: caches are cold and buffers still grow.
            if repetition > 0 {
                speeds.push((tokens * streams) as f64 / seconds);
            }
        }
        Ok(Speed::of(&speeds))
    }

    /// Fills the caches of the first `streams` sequences up to `depth` tokens.
    fn fill(&mut self, depth: usize, streams: usize) -> anyhow::Result<()> {
        if self.sequences[0].len() != depth {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} tokens, {eta} left");
            let bar = ProgressBar::new(depth as u64)
                .with_style(style.expect("the template is valid"))
                .with_position(self.sequences[0].len() as u64);
            while self.sequences[0].len() < depth {
                self.evaluate(N_UBATCH.min(depth - self.sequences[0].len()), 1)?;
                bar.set_position(self.sequences[0].len() as u64);
            }
            bar.finish_and_clear();
        }
        if let Some((first, others)) = self.sequences[..streams].split_first_mut() {
            for other in others.iter_mut().filter(|other| other.len() != depth) {
                other.copy_from(first, depth);
            }
        }
        Ok(())
    }

    /// Evaluates the next `n` tokens of each of the first `streams` sequences together. The
    /// sequences must have the same length.
    fn evaluate(&mut self, n: usize, streams: usize) -> anyhow::Result<()> {
        interrupt::check()?;
        let sequences = &mut self.sequences[..streams];
        let (at, n_ubatch) = (sequences[0].len(), sequences[0].options().n_ubatch);
        for tokens in self.ids[at..at + n].chunks(n_ubatch) {
            let mut parts: Vec<_> =
                sequences.iter_mut().map(|sequence| BatchEntry { sequence, tokens }).collect();
            self.model.evaluate_batch(&mut self.work, &mut parts)?;
        }
        let last = (n - 1) % n_ubatch + 1;
        let rows: Vec<usize> = (1..=streams).map(|stream| stream * last - 1).collect();
        self.model.logits_of(&mut self.work, &rows)?;
        Ok(())
    }
}

/// What all tests have in common.
struct Report {
    model: String,
    threads: usize,
    isa: &'static str,
    kv: KvType,
    /// Bytes of the weights that decoding one token reads.
    weight_bytes: u64,
    /// Highest read bandwidth measured so far, in 10⁹ bytes per second.
    stream_gb_per_s: f64,
}

impl Report {
    /// How fast decoding reads the weights, in 10⁹ bytes per second. `None` for a prompt, which
    /// reads them once for many tokens.
    fn gb_per_s(&self, test: Test, speed: Speed) -> Option<f64> {
        let passes = speed.mean / test.streams as f64;
        (test.kind == Kind::Decode).then_some(passes * self.weight_bytes as f64 / 1e9)
    }

    fn print_head(&self, out: &mut impl Write) -> io::Result<()> {
        let (weights, threads) = (size(self.weight_bytes), self.threads);
        writeln!(out, "{}", self.model)?;
        writeln!(out, "weights read per token: {weights}, threads: {threads}, {}", self.isa)?;
        writeln!(out, "read bandwidth: {:.1} GB/s at first\n", self.stream_gb_per_s)?;
        writeln!(out, "test              tokens/s         ±      GB/s  share of read bandwidth")
    }

    fn print_row(&self, out: &mut impl Write, test: Test, speed: Speed) -> io::Result<()> {
        write!(out, "{:<14} {:>11.2} {:>9.2}", test.name(), speed.mean, speed.deviation)?;
        if let Some(gb) = self.gb_per_s(test, speed) {
            let stream = self.stream_gb_per_s;
            write!(out, " {gb:>9.2} {:>8.1} % of {stream:.1}", gb / stream * 100.0)?;
        }
        writeln!(out)
    }

    fn result(&self, test: Test, speed: Speed, repetitions: u32) -> serde_json::Value {
        let mut result = json!({
            "test": test.name(),
            "tokens_per_second": speed.mean,
            "stddev": speed.deviation,
            "repetitions": repetitions,
        });
        if let Some(gb) = self.gb_per_s(test, speed) {
            result["gb_per_s"] = json!(gb);
            result["share_of_stream"] = json!(gb / self.stream_gb_per_s);
        }
        result
    }

    fn json(&self, results: &[serde_json::Value]) -> serde_json::Value {
        json!({
            "model": self.model,
            "threads": self.threads,
            "isa": self.isa,
            "kv": self.kv.name(),
            "weight_bytes": self.weight_bytes,
            "stream_gb_per_s": self.stream_gb_per_s,
            "results": results,
        })
    }
}

/// The matrices that decoding a token reads completely. An embedding that is not also the output
/// matrix is left out, because only one of its rows is read.
fn weights(source: &Source) -> Vec<&[u8]> {
    let untied = source.is_untied();
    let matrices = source.tensors().iter().filter(|spec| spec.role() == Role::Matrix);
    let read = matrices.filter(|spec| !(untied && spec.kind == TensorKind::TokenEmbd));
    read.map(|spec| source.tensor(spec).data).collect()
}

/// Token ids, the same in every run. They need to be scattered but not unpredictable, so a linear
/// congruential generator is enough (Knuth's MMIX; its high bits are the better ones).
fn ids(n: usize, n_vocab: usize) -> Vec<u32> {
    let next =
        |x: &u64| Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
    let numbers = std::iter::successors(Some(1), next).skip(1).take(n);
    numbers.map(|x: u64| ((x >> 33) % n_vocab as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation() {
        let speed = Speed::of(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(speed.mean, 3.0);
        assert!((speed.deviation - (14.0f64 / 3.0).sqrt()).abs() < 1e-12);
        let single = Speed::of(&[5.0]);
        assert_eq!((single.mean, single.deviation), (5.0, 0.0));
    }

    #[test]
    fn ids_are_in_the_vocabulary_and_scattered() {
        let ids = ids(4096, 1000);
        assert!(ids.iter().all(|id| *id < 1000));
        let distinct: std::collections::HashSet<&u32> = ids.iter().collect();
        // The expected number is 1000 × (1 − e^−4.096).
        assert!(distinct.len() > 950, "{}", distinct.len());
    }
}
