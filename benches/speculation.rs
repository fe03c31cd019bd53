//! Measures what drafts by a smaller model gain, for models whose drafts would never be right, such
//! as those of `random_gguf`: whether a drafted token is accepted is drawn, not compared.
//!
//!     cargo run --release --example speculation -- BIG.gguf --draft SMALL.gguf --acceptance 60,70,80
//!
//! Everything else is what `lapidary run` and `serve` do: the draft model drafts, the big model
//! evaluates the drafts, and with `auto` the same policy chooses their lengths.

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use lapidary::generate::draft::{DraftModel, DraftRequest, DraftTokens, Speculation};
use lapidary::kernels::{argmax, Cpu, Isa, KvType};
use lapidary::model::{
    BatchEntry, Model, ModelError, Sequence, Source, StateOptions, Workspace, LOGIT_ROWS,
};

/// Measure what drafts gain
#[derive(Parser, Debug)]
struct Args {
    /// The model
    model: PathBuf,
    /// The model that drafts for it
    #[arg(long, value_name = "MODEL")]
    draft: PathBuf,
    /// Probabilities in percent that a drafted token is accepted if those before it were
    #[arg(long, value_name = "P,…", default_value = "60,70,80", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(..=100))]
    acceptance: Vec<u32>,
    /// Numbers of tokens to draft at a time
    #[arg(long, value_name = "N,…", default_value = "1,2,3,4,6,auto", value_delimiter = ',')]
    draft_tokens: Vec<DraftTokens>,
    /// Tokens to generate for each line of the table, and in each stream
    #[arg(short, value_name = "N", default_value_t = 64)]
    n: usize,
    /// Tokens in the cache before
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    ctx_depth: u32,
    /// Texts that are generated at a time, as in a server
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: u32,
    /// Number of threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let [source, draft] = [&args.model, &args.draft].map(|path| Source::open(path));
    let (source, draft) = (source?, draft?);
    let cpu = Cpu::new(args.threads, Isa::best())?;
    let (model, draft) = (Model::on(cpu.clone(), &source)?, Model::on(cpu, &draft)?);
    // A stream may end with a whole draft more than was asked for.
    let n_ctx = args.ctx_depth as usize + args.n + 2 * 64;
    let mut bench = Bench {
        model: &model,
        draft: &draft,
        work: Workspace::new(model.config()),
        options: StateOptions::new(n_ctx, KvType::F16),
        texts: Vec::new(),
        random: Random(1),
    };
    bench.read(&args)?;
    // Warms both models up, and then measures.
    bench.generate(8, Some(DraftTokens::Fixed(2)), 100)?;
    bench.generate(4, None, 0)?;
    let plain = bench.generate(args.n, None, 0)?;
    let (name, drafter) = (args.model.display(), args.draft.display());
    let (threads, isa) = (model.threads(), model.isa().name());
    println!("{name}, drafts by {drafter}, {threads} threads, {isa}, {} streams", args.streams);
    println!("without drafts: {:.2} tokens/s\n", plain.speed);
    println!("acceptance  drafted  tokens/s   gain  tokens/pass  drafted/pass  s/pass  s/draft");
    for percent in &args.acceptance {
        for tokens in &args.draft_tokens {
            let run = bench.generate(args.n, Some(*tokens), *percent)?;
            let drafted = match tokens {
                DraftTokens::Auto => "auto".to_owned(),
                DraftTokens::Fixed(n) => n.to_string(),
            };
            println!(
                "{percent:>8} %  {drafted:>7}  {:>8.2}  {:>5.2}  {:>11.2}  {:>12.2}  {:>6.3}  {:>7.3}",
                run.speed,
                run.speed / plain.speed,
                run.tokens_per_pass,
                run.drafted_per_pass,
                run.seconds_per_pass,
                run.seconds_per_draft,
            );
        }
    }
    Ok(())
}

/// A text and its sequence, which lacks the last token.
struct Text {
    sequence: Sequence,
    ids: Vec<u32>,
    /// Length of the prompt.
    prompt: usize,
}

struct Bench<'m> {
    model: &'m Model<'m>,
    draft: &'m Model<'m>,
    work: Workspace,
    options: StateOptions,
    texts: Vec<Text>,
    random: Random,
}

/// What was measured.
struct Run {
    /// Tokens per second, of all streams together.
    speed: f64,
    tokens_per_pass: f64,
    drafted_per_pass: f64,
    seconds_per_pass: f64,
    seconds_per_draft: f64,
}

impl<'m> Bench<'m> {
    /// Evaluates the prompts.
    fn read(&mut self, args: &Args) -> Result<(), ModelError> {
        let n_vocab = self.model.config().n_vocab.min(self.draft.config().n_vocab);
        for _ in 0..args.streams {
            let mut sequence = Sequence::new(self.model.config(), self.options);
            let prompt = args.ctx_depth as usize;
            let ids: Vec<u32> =
                (0..prompt).map(|_| (self.random.unit() * n_vocab as f64) as u32).collect();
            for tokens in ids[..prompt - 1].chunks(self.options.n_ubatch) {
                let entry = BatchEntry { sequence: &mut sequence, tokens };
                self.model.evaluate_batch(&mut self.work, &mut [entry])?;
            }
            self.texts.push(Text { sequence, ids, prompt });
        }
        Ok(())
    }

    /// Generates at least `n` tokens in each stream, with drafts whose tokens are accepted with a
    /// probability of `percent`, or without drafts.
    fn generate(
        &mut self,
        n: usize,
        tokens: Option<DraftTokens>,
        percent: u32,
    ) -> Result<Run, ModelError> {
        let streams = self.texts.len();
        let mut speculation = tokens.map(|tokens| {
            let n_vocab = self.model.config().n_vocab;
            let drafter = DraftModel::new(self.draft, n_vocab, self.options, streams);
            Speculation::new(Box::new(drafter), tokens, streams)
        });
        for text in &mut self.texts {
            text.ids.truncate(text.prompt);
            text.sequence.truncate(text.prompt - 1);
        }
        if let Some(speculation) = &mut speculation {
            let texts: Vec<(usize, &[u32])> =
                self.texts.iter().map(|text| text.ids.as_slice()).enumerate().collect();
            while speculation.read(&texts, self.options.n_ubatch)? > 0 {}
        }
        let (mut passes, mut drafted, mut drafting, mut evaluating) = (0, 0, 0.0, 0.0);
        let start = Instant::now();
        while self.texts.iter().any(|text| text.ids.len() < text.prompt + n) {
            let before = Instant::now();
            let drafts = match &mut speculation {
                Some(speculation) => speculation.draft(&self.requests(), streams)?,
                None => vec![Vec::new(); streams],
            };
            drafting += before.elapsed().as_secs_f64();
            let before = Instant::now();
            let accepted = self.pass(&drafts, f64::from(percent) / 100.0)?;
            let time = before.elapsed();
            evaluating += time.as_secs_f64();
            passes += 1;
            for (i, (draft, accepted)) in drafts.iter().zip(accepted).enumerate() {
                drafted += draft.len();
                if let Some(speculation) = &mut speculation {
                    speculation.add_compared(i, draft.len().min(accepted + 1), accepted);
                }
            }
            if let Some(speculation) = &mut speculation {
                let rows = streams + drafts.iter().map(Vec::len).sum::<usize>();
                speculation.add_pass(rows, time);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let generated: usize = self.texts.iter().map(|text| text.ids.len() - text.prompt).sum();
        let per_pass = |x: f64| x / f64::from(passes);
        Ok(Run {
            speed: generated as f64 / seconds,
            tokens_per_pass: per_pass(generated as f64),
            drafted_per_pass: per_pass(drafted as f64),
            seconds_per_pass: per_pass(evaluating),
            seconds_per_draft: per_pass(drafting),
        })
    }

    fn requests(&self) -> Vec<DraftRequest<'_>> {
        let room = |ids: &[u32]| self.options.n_ctx - ids.len();
        let texts = self.texts.iter().enumerate();
        texts
            .map(|(sequence, Text { ids, .. })| DraftRequest { sequence, ids, most: room(ids) })
            .collect()
    }

    /// One pass over all texts with their drafts. Returns how many tokens of each were accepted.
    fn pass(&mut self, drafts: &[Vec<u32>], acceptance: f64) -> Result<Vec<usize>, ModelError> {
        let with_last = |(text, draft): (&Text, &Vec<u32>)| {
            [&text.ids[text.ids.len() - 1..], draft.as_slice()].concat()
        };
        let tokens: Vec<Vec<u32>> = self.texts.iter().zip(drafts).map(with_last).collect();
        let sequences = self.texts.iter_mut().map(|text| &mut text.sequence);
        let mut batch: Vec<BatchEntry<'_>> = sequences
            .zip(&tokens)
            .map(|(sequence, tokens)| BatchEntry { sequence, tokens })
            .collect();
        self.model.evaluate_batch(&mut self.work, &mut batch)?;
        let rows: Vec<usize> = (0..tokens.iter().map(Vec::len).sum()).collect();
        let (n_vocab, isa) = (self.model.config().n_vocab, self.model.isa());
        let mut likeliest = Vec::new();
        for rows in rows.chunks(LOGIT_ROWS) {
            let logits = self.model.logits_of(&mut self.work, rows)?;
            likeliest.extend(logits.chunks_exact(n_vocab).map(|row| argmax(isa, row) as u32));
        }
        let mut row = 0;
        let mut all_accepted = Vec::new();
        for (text, draft) in self.texts.iter_mut().zip(drafts) {
            let accepted = draft.iter().take_while(|_| self.random.unit() < acceptance).count();
            text.ids.extend_from_slice(&draft[..accepted]);
            text.ids.push(likeliest[row + accepted]);
            text.sequence.truncate(text.ids.len() - 1);
            row += 1 + draft.len();
            all_accepted.push(accepted);
        }
        Ok(all_accepted)
    }
}

/// Numbers that are scattered enough, the same in every run: a linear congruential generator
/// (Knuth's MMIX).
struct Random(u64);

impl Random {
    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }
}
