//! The options of `run` and `serve` that make them draft tokens.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgGroup, Args};
use lapidary::generate::draft::{
    compare_vocabularies, DraftModel, DraftTokens, Drafter, Lookup, Speculation,
};
use lapidary::kernels::Cpu;
use lapidary::memory::Drafting;
use lapidary::model::{Model, Source, StateOptions};
use lapidary::tokenizer::Tokenizer;

use super::memory::file_bytes;
use super::options::open;

/// What drafts tokens, and how many.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("drafter").args(["draft", "lookup"])))]
pub struct DraftArgs {
    /// Let a smaller model with the same vocabulary draft tokens, which MODEL evaluates several at a
    /// time; the text stays the same, and comes sooner where drafts are often right
    #[arg(long, value_name = "DRAFT_MODEL")]
    draft: Option<PathBuf>,
    /// Draft what followed the last tokens when they occurred before, which takes no second model and
    /// helps where a text repeats
    #[arg(long)]
    lookup: bool,
    /// Draft N tokens at a time; `auto` drafts as many as speed decoding up, and none where it loses
    /// [default: auto]
    #[arg(long, value_name = "N", requires = "drafter")]
    draft_tokens: Option<DraftTokens>,
}

/// What the options ask for, with the files opened.
pub struct Draft {
    /// The draft model, if one drafts.
    source: Option<Source>,
    tokens: DraftTokens,
}

impl DraftArgs {
    /// Opens the draft model. `None` if no drafts are asked for.
    pub fn open(&self) -> anyhow::Result<Option<Draft>> {
        if self.draft.is_none() && !self.lookup {
            return Ok(None);
        }
        let source = self.draft.as_deref().map(open).transpose()?;
        Ok(Some(Draft { source, tokens: self.draft_tokens.unwrap_or_default() }))
    }
}

impl Draft {
    /// What drafting adds to the memory of a run.
    pub fn memory(&self) -> Drafting<'_> {
        let model = self.source.as_ref().map(|source| (source.config(), file_bytes(source)));
        Drafting { tokens: self.tokens.most(), model }
    }

    /// Loads the draft model, if there is one, onto the same threads as `source`. Refuses it if its
    /// vocabulary is not that of `tokenizer`, which is the vocabulary of `source`.
    pub fn model(
        &self,
        cpu: &Cpu,
        source: &Source,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Option<Model<'_>>> {
        let Some(draft) = &self.source else { return Ok(None) };
        if let Err(difference) = compare_vocabularies(tokenizer.vocab(), &draft.vocab()?) {
            let [source, draft] = [source, draft].map(|source| source.path().display());
            bail!("{draft} cannot draft for {source}, because their vocabularies differ: {difference}");
        }
        Ok(Some(Model::on(cpu.clone(), draft)?))
    }

    /// Drafts for this many sequences of `source` with these options, by `model` if there is one.
    pub fn speculation<'m>(
        &self,
        model: Option<&'m Model<'m>>,
        source: &Source,
        options: StateOptions,
        sequences: usize,
    ) -> Speculation<'m> {
        let drafter: Box<dyn Drafter + 'm> = match model {
            Some(model) => {
                let n_vocab = source.config().n_vocab;
                Box::new(DraftModel::new(model, n_vocab, options, sequences))
            }
            None => Box::new(Lookup),
        };
        Speculation::new(drafter, self.tokens, sequences)
    }
}
