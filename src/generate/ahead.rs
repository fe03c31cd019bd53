//! Evaluates drafted tokens together with the last one of a session, and keeps those that are
//! sampled.

use std::time::Instant;

use super::draft::{DraftRequest, Speculation};
use super::{DraftStats, Session};
use crate::model::ModelError;

/// The draft whose tokens were evaluated in the last pass, after the tokens of the session.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    draft: Vec<u32>,
    /// How many of its tokens were sampled. They belong to the session.
    accepted: usize,
}

impl<'m> Session<'m> {
    /// Drafts tokens from now on, with a speculation for one sequence. Texts stay the same.
    pub fn set_speculation(&mut self, speculation: Speculation<'m>) {
        self.speculation = Some(speculation);
    }

    /// Lets the drafter read what the session holds. Returns `false` if that was cancelled.
    pub(super) fn read_ahead(&mut self, cancelled: &dyn Fn() -> bool) -> Result<bool, ModelError> {
        let Some(speculation) = &mut self.speculation else { return Ok(true) };
        while speculation.read(&[(0, &self.ids)], self.state.options().n_ubatch)? > 0 {
            if cancelled() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes `id`, the token that was sampled, if it was drafted: it has been evaluated already, and
    /// `logits` become those after it. Otherwise what is left of the draft is dropped.
    pub(super) fn take_drafted(&mut self, id: u32) -> bool {
        let Ahead { draft, accepted } = &mut self.ahead;
        match draft.get(*accepted) {
            Some(drafted) if *drafted == id => {
                *accepted += 1;
                self.ids.push(id);
                let n_vocab = self.model.config().n_vocab;
                let logits = &self.state.logits()[*accepted * n_vocab..][..n_vocab];
                self.logits.copy_from_slice(logits);
                true
            }
            wrong => {
                let compared = *accepted + usize::from(wrong.is_some());
                self.drop_draft(compared);
                false
            }
        }
    }

    /// Drops what is left of a draft of which as many tokens were compared as accepted.
    pub(super) fn end_draft(&mut self) {
        self.drop_draft(self.ahead.accepted);
    }

    fn drop_draft(&mut self, compared: usize) {
        let Ahead { draft, accepted } = std::mem::take(&mut self.ahead);
        if let Some(speculation) = self.speculation.as_mut().filter(|_| !draft.is_empty()) {
            speculation.add_compared(0, compared, accepted);
            self.state.truncate(self.ids.len());
        }
    }

    /// Evaluates `id` and at most `most` drafted tokens after it in one pass. `logits` become those
    /// after `id`.
    pub(super) fn evaluate_ahead(
        &mut self,
        id: u32,
        most: usize,
        stats: Option<&mut DraftStats>,
    ) -> Result<(), ModelError> {
        let start = Instant::now();
        let draft = self.draft(id, most)?;
        let before = Instant::now();
        let tokens = [&[id], draft.as_slice()].concat();
        match self.evaluate_rows(&tokens) {
            Ok(()) => {}
            // Values that are NaN or infinite may come from drafted tokens, which the text may not
            // have.
            Err(ModelError::NotFinite { .. }) if tokens.len() > 1 => {
                self.state.truncate(self.ids.len());
                self.evaluate_rows(&[id])?;
            }
            Err(error) => return Err(error),
        }
        self.ids.push(id);
        let rows = self.state.len() + 1 - self.ids.len();
        if let (Some(speculation), Some(stats)) = (&mut self.speculation, stats) {
            speculation.add_pass(rows, before.elapsed());
            stats.plain_pass = speculation.pass_seconds(1);
            stats.passes += 1;
            stats.drafted += draft.len();
            stats.time += start.elapsed();
        }
        let draft = if rows > 1 { draft } else { Vec::new() };
        self.ahead = Ahead { draft, accepted: 0 };
        Ok(())
    }

    /// The tokens that are guessed to follow `id`.
    fn draft(&mut self, id: u32, most: usize) -> Result<Vec<u32>, ModelError> {
        let Some(speculation) = &mut self.speculation else { return Ok(Vec::new()) };
        self.ids.push(id);
        let drafts = speculation.draft(&[DraftRequest { sequence: 0, ids: &self.ids, most }], 1);
        self.ids.pop();
        Ok(drafts?.pop().unwrap_or_default())
    }

    /// Evaluates `tokens`, whose logits stay in the state. `logits` become those of the first one.
    fn evaluate_rows(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        self.model.evaluate(&mut self.state, tokens)?;
        let logits = self.model.logits(&mut self.state, 0..tokens.len())?;
        self.logits.clear();
        self.logits.extend_from_slice(&logits[..logits.len() / tokens.len()]);
        Ok(())
    }
}
