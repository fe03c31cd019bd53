//! `convert --check`: measures how far a new file is from its source.

use std::error::Error;
use std::io;
use std::path::Path;

use anyhow::bail;
use lapidary::kernels::{Cpu, KvType};
use lapidary::model::{Model, Source};
use lapidary::perplexity::{compare, Divergence, Options};
use lapidary::tokenizer::Tokenizer;

use super::interrupt;
use super::text::Text;

/// Tokens per chunk, as in `lapidary perplexity`.
const N_CTX: usize = 512;

/// Compares files with a source model on a text.
pub struct Checker<'a> {
    source: &'a Source,
    tokens: Vec<u32>,
    bos: Option<u32>,
    cpu: Cpu,
    /// The result of the comparison.
    pub found: Option<Divergence>,
}

impl<'a> Checker<'a> {
    /// Reads the text. This comes before the long work, so that errors are found early.
    pub fn new(
        source: &'a Source,
        tokenizer: &Tokenizer,
        text: &Path,
        cpu: Cpu,
    ) -> anyhow::Result<Self> {
        let Text { tokens, bos } = Text::read(text, tokenizer)?;
        if tokens.len() < N_CTX {
            bail!(
                "{}: the text has {} tokens, but a check needs {N_CTX}",
                text.display(),
                tokens.len()
            );
        }
        Ok(Self { source, tokens, bos, cpu, found: None })
    }

    /// Compares the file at `part` with the source.
    pub fn measure(&mut self, part: &Path) -> Result<Divergence, Box<dyn Error + Send + Sync>> {
        let file = Source::open(part)?;
        let quantized = Model::on(self.cpu.clone(), &file)?;
        let reference = Model::on(self.cpu.clone(), self.source)?;
        let (kv, reference_kv) = (KvType::F16, KvType::F16);
        let options = Options { n_ctx: N_CTX, chunks: None, kv, reference_kv, bos: self.bos };
        let progress = |_: &Divergence, _| !interrupt::requested();
        let found = compare(&quantized, &reference, &self.tokens, options, progress)?;
        if interrupt::requested() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        self.found = Some(found);
        Ok(found)
    }
}
