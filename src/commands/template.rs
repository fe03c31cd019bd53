//! The chat template that conversations are written with.

use std::fs;

use anyhow::Context;
use clap::Args as ClapArgs;
use lapidary::chat::{ChatTemplate, CHATML_TEMPLATE, GEMMA2_TEMPLATE};
use lapidary::model::Source;
use lapidary::tokenizer::Tokenizer;

/// Which chat template to use.
#[derive(ClapArgs, Debug)]
pub struct TemplateArg {
    /// Chat template to use instead of the model's own: a file in Jinja, or `gemma` or `chatml` for a
    /// known one
    #[arg(long, value_name = "FILE|gemma|chatml")]
    chat_template: Option<String>,
}

impl TemplateArg {
    /// Whether one was given.
    pub fn is_given(&self) -> bool {
        self.chat_template.is_some()
    }

    /// The template.
    pub fn template(&self, source: &Source, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
        match self.chat_template.as_deref() {
            None => of_model(source, tokenizer),
            Some("gemma") => new(GEMMA2_TEMPLATE, tokenizer).context("gemma"),
            Some("chatml") => new(CHATML_TEMPLATE, tokenizer).context("chatml"),
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
                new(&text, tokenizer).with_context(|| path.to_owned())
            }
        }
    }
}

/// The model's chat template, or Gemma 2's own if it has none.
pub fn of_model(source: &Source, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    let template = source.chat_template()?;
    new(template.as_deref().unwrap_or(GEMMA2_TEMPLATE), tokenizer)
        .with_context(|| source.path().display().to_string())
}

fn new(template: &str, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    let vocab = tokenizer.vocab();
    let spelling = |id: Option<u32>| id.map_or("", |id| vocab.pieces.text(id));
    Ok(ChatTemplate::new(Some(template), spelling(vocab.bos), spelling(vocab.eos))?)
}
