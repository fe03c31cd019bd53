//! Drafts by a smaller model with the same vocabulary.

use super::{DraftRequest, Drafter, Offer};
use crate::kernels::argmax;
use crate::model::{BatchEntry, Model, ModelError, Sequence, StateOptions, Workspace, LOGIT_ROWS};

/// A model that drafts for several sequences at a time: one pass over its weights for each position
/// of the drafts. It takes the likeliest token everywhere.
#[derive(Debug)]
pub struct DraftModel<'m> {
    model: &'m Model<'m>,
    work: Workspace,
    held: Vec<Held>,
    /// The ids below are those that both models have.
    n_vocab: usize,
}

/// A sequence of the draft model, and its tokens.
#[derive(Debug)]
struct Held {
    sequence: Sequence,
    ids: Vec<u32>,
}

/// Most tokens that a text may be behind, and be read while others wait for their drafts.
const CATCH_UP: usize = 128;

/// Fewest tokens for which copying keys and values of another sequence pays.
const MIN_COPY: usize = 16;

impl<'m> DraftModel<'m> {
    /// A draft model for this many sequences of a model with `n_vocab` tokens, with these options
    /// for its own.
    pub fn new(
        model: &'m Model<'m>,
        n_vocab: usize,
        options: StateOptions,
        sequences: usize,
    ) -> Self {
        let held = || Held { sequence: Sequence::new(model.config(), options), ids: Vec::new() };
        let held = (0..sequences).map(|_| held()).collect();
        let n_vocab = n_vocab.min(model.config().n_vocab);
        Self { model, work: Workspace::new(model.config()), held, n_vocab }
    }

    /// Drops what a sequence holds besides the first tokens of a text, and of these all from
    /// position `end` on. Copies more of them from another sequence if it has many more.
    fn keep_common(&mut self, sequence: usize, ids: &[u32], end: usize) {
        let common = |held: &Held| {
            let common = held.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
            held.sequence.keeps(common.min(end))
        };
        let others = (0..self.held.len()).filter(|other| *other != sequence);
        let best = others.max_by_key(|other| common(&self.held[*other]));
        let mut kept = common(&self.held[sequence]);
        if let Some(other) = best.filter(|other| common(&self.held[*other]) >= kept + MIN_COPY) {
            kept = common(&self.held[other]);
            if let Ok([held, other]) = self.held.get_disjoint_mut([sequence, other]) {
                held.sequence.copy_from(&other.sequence, kept);
            }
        }
        let held = &mut self.held[sequence];
        let kept = held.sequence.truncate(kept);
        held.ids.clear();
        held.ids.extend_from_slice(&ids[..kept]);
    }

    /// Evaluates the next tokens of some sequences together; `pieces` are in the order of the
    /// sequences.
    fn evaluate(&mut self, pieces: &[(usize, &[u32])]) -> Result<(), ModelError> {
        let (mut pieces, mut batch) = (pieces.iter().peekable(), Vec::new());
        for (i, Held { sequence, ids }) in self.held.iter_mut().enumerate() {
            if let Some((_, tokens)) = pieces.next_if(|(sequence, _)| *sequence == i) {
                ids.extend_from_slice(tokens);
                batch.push(BatchEntry { sequence, tokens });
            }
        }
        self.model.evaluate_batch(&mut self.work, &mut batch)
    }

    /// Evaluates at most `budget` tokens of what the sequences lack of their texts, those that lack
    /// the least first. Returns how many tokens of each were evaluated.
    fn catch_up(
        &mut self,
        texts: &[(usize, &[u32])],
        budget: usize,
    ) -> Result<Vec<usize>, ModelError> {
        // A text is read up to the first token that the draft model does not have.
        let missing = |(sequence, ids): &(usize, &[u32])| {
            let ids = &ids[self.held[*sequence].ids.len()..];
            ids.iter().take_while(|id| (**id as usize) < self.n_vocab).count()
        };
        let missing: Vec<usize> = texts.iter().map(missing).collect();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|i| missing[*i]);
        let (mut left, mut counts) = (budget, vec![0; texts.len()]);
        for i in order {
            let n_ubatch = self.held[texts[i].0].sequence.options().n_ubatch;
            counts[i] = missing[i].min(left).min(n_ubatch);
            left -= counts[i];
        }
        let mut pieces = Vec::new();
        for ((sequence, ids), n) in texts.iter().zip(&counts).filter(|(_, n)| **n > 0) {
            let at = self.held[*sequence].ids.len();
            pieces.push((*sequence, &ids[at..at + n]));
        }
        if !pieces.is_empty() {
            self.evaluate(&pieces)?;
        }
        Ok(counts)
    }

    /// The likeliest tokens after some rows of the last pass.
    fn likeliest(&mut self, rows: &[usize]) -> Result<Vec<u32>, ModelError> {
        let (n_vocab, isa) = (self.model.config().n_vocab, self.model.isa());
        let mut likeliest = Vec::with_capacity(rows.len());
        for rows in rows.chunks(LOGIT_ROWS) {
            let logits = self.model.logits_of(&mut self.work, rows)?;
            let rows = logits.chunks_exact(n_vocab).map(|row| &row[..self.n_vocab]);
            likeliest.extend(rows.map(|row| argmax(isa, row) as u32));
        }
        Ok(likeliest)
    }

    fn try_draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError> {
        for DraftRequest { sequence, ids, .. } in requests {
            self.keep_common(*sequence, ids, ids.len() - 1);
        }
        let texts: Vec<(usize, &[u32])> = requests.iter().map(|r| (r.sequence, r.ids)).collect();
        let n_ubatch = self.held.first().map_or(1, |held| held.sequence.options().n_ubatch);
        let counts = self.catch_up(&texts, CATCH_UP.min(n_ubatch).max(2 * requests.len()))?;
        // Texts that are still behind get no draft this time.
        let ends = counts.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        let is_read =
            |i: &usize| self.held[requests[*i].sequence].ids.len() == requests[*i].ids.len();
        let (mut open, mut rows): (Vec<usize>, Vec<usize>) =
            ends.enumerate().filter(|(i, _)| is_read(i)).map(|(i, end)| (i, end - 1)).unzip();
        let mut drafts = vec![Vec::new(); requests.len()];
        while !open.is_empty() {
            for (i, id) in open.iter().zip(self.likeliest(&rows)?) {
                drafts[*i].push(id);
            }
            open.retain(|i| drafts[*i].len() < requests[*i].most);
            if open.is_empty() {
                break;
            }
            let last = |i: &usize| (requests[*i].sequence, &drafts[*i][drafts[*i].len() - 1..]);
            self.evaluate(&open.iter().map(last).collect::<Vec<_>>())?;
            rows = (0..open.len()).collect();
        }
        Ok(drafts)
    }

    /// Forgets everything if `result` is an error: values that are NaN may be in the caches.
    fn checked<T>(&mut self, result: Result<T, ModelError>) -> Result<T, ModelError> {
        if result.is_err() {
            for Held { sequence, ids } in &mut self.held {
                sequence.truncate(0);
                ids.clear();
            }
        }
        result
    }
}

impl Drafter for DraftModel<'_> {
    fn offer(&mut self, request: &DraftRequest<'_>) -> Offer {
        let held = &self.held[request.sequence].ids;
        let common = held.iter().zip(request.ids).take_while(|(a, b)| a == b).count();
        Offer { most: request.most, kind: 0, behind: request.ids.len() - common }
    }

    fn draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError> {
        let drafts = self.try_draft(requests);
        self.checked(drafts)
    }

    fn read(&mut self, texts: &[(usize, &[u32])], budget: usize) -> Result<usize, ModelError> {
        for (sequence, ids) in texts {
            self.keep_common(*sequence, ids, ids.len());
        }
        let counts = self.catch_up(texts, budget);
        Ok(self.checked(counts)?.iter().sum())
    }
}
