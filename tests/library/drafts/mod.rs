//! Drafts change how soon a text comes, and nothing of what it is.

mod damaged;
mod engine;
mod session;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::generate::draft::{
    DraftModel, DraftRequest, DraftTokens, Drafter, Lookup, Offer, Speculation,
};
use lapidary::model::{Model, ModelError, Source, StateOptions};

use crate::fixtures::tiny;

/// How many tokens are drafted.
const TOKENS: [DraftTokens; 4] =
    [DraftTokens::Fixed(1), DraftTokens::Fixed(3), DraftTokens::Fixed(8), DraftTokens::Auto];

/// The small trained checkpoint in Q2_K, which agrees with the original often but not always.
static Q2_K: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drafts-Q2_K.gguf");
    let source = Source::open(&tiny()).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::Q2_K);
    let options = Options { force: true, ..Options::default() };
    convert(&source, &path, &plan, options, &mut ()).unwrap();
    path
});

/// What drafts in a test.
#[derive(Clone, Debug)]
enum By {
    /// The small model in Q2_K.
    Model,
    Lookup,
    /// These texts, with some wrong tokens.
    Script(Vec<Vec<u32>>),
}

impl By {
    fn speculation<'m>(
        &self,
        model: &'m Model<'m>,
        options: StateOptions,
        tokens: DraftTokens,
        sequences: usize,
    ) -> Speculation<'m> {
        let drafter: Box<dyn Drafter + 'm> = match self {
            Self::Model => {
                Box::new(DraftModel::new(model, model.config().n_vocab, options, sequences))
            }
            Self::Lookup => Box::new(Lookup),
            Self::Script(texts) => Box::new(Script(texts.clone())),
        };
        Speculation::new(drafter, tokens, sequences)
    }
}

/// Drafts what texts that it knows go on with, but every so often another token.
#[derive(Debug)]
struct Script(Vec<Vec<u32>>);

impl Drafter for Script {
    fn offer(&mut self, request: &DraftRequest<'_>) -> Offer {
        Offer { most: request.most, kind: 0, behind: 0 }
    }

    fn draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError> {
        let draft = |DraftRequest { ids, most, .. }: &DraftRequest<'_>| {
            let known = self.0.iter().find(|text| text.starts_with(ids))?;
            let next = (ids.len()..known.len()).take(*most);
            Some(next.map(|at| if at % 7 == 3 { known[at] ^ 1 } else { known[at] }).collect())
        };
        Ok(requests.iter().map(|request| draft(request).unwrap_or_default()).collect())
    }
}
