//! `convert --check`: how far a new file is from its source.

use std::error::Error;
use std::io;
use std::path::Path;

use anyhow::{bail, Context};
use lapidary::kernels::{Cpu, KvType};
use lapidary::model::{Model, Source};
use lapidary::perplexity::{compare, Divergence, Options};
use lapidary::tokenizer::Tokenizer;

use super::interrupt;
use super::text::Text;

/// Tokens of a chunk, as `lapidary perplexity` has it.
const N_CTX: usize = 512;

/// A source, and a text to compare files with it on.
pub struct Checker<'a> {
    source: &'a Source,
    tokens: Vec<u32>,
    bos: Option<u32>,
    cpu: Cpu,
    /// What was found.
    pub found: Option<Divergence>,
}

impl<'a> Checker<'a> {
    /// Reads the text, before the long work begins.
    pub fn new(source: &'a Source, text: &Path, cpu: Cpu) -> anyhow::Result<Self> {
        let vocab = source.vocab()?;
        let tokenizer =
            Tokenizer::new(vocab).with_context(|| source.path().display().to_string())?;
        let Text { tokens, bos } = Text::read(text, &tokenizer)?;
        if tokens.len() < N_CTX {
            bail!("{}: {} tokens, a check takes {N_CTX}", text.display(), tokens.len());
        }
        Ok(Self { source, tokens, bos, cpu, found: None })
    }

    /// Runs the file at `part` and the source side by side.
    pub fn measure(&mut self, part: &Path) -> Result<Divergence, Box<dyn Error + Send + Sync>> {
        let file = Source::open(part)?;
        let cut = Model::on(self.cpu.clone(), &file)?;
        let reference = Model::on(self.cpu.clone(), self.source)?;
        let (kv, reference_kv) = (KvType::F16, KvType::F16);
        let options = Options { n_ctx: N_CTX, chunks: None, kv, reference_kv, bos: self.bos };
        let going_on = |_: &Divergence, _| !interrupt::requested();
        let found = compare(&cut, &reference, &self.tokens, options, going_on)?;
        if interrupt::requested() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        self.found = Some(found);
        Ok(found)
    }
}
