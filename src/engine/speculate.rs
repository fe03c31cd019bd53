//! Drafts for the slots of an engine. What they are and why they change no answer is said in
//! [`draft`](crate::generate::draft).

use super::Engine;
use crate::generate::draft::{DraftRequest, Speculation};

impl<'m> Engine<'m> {
    /// Drafts tokens of all answers from now on. The speculation has as many sequences as the
    /// engine has slots.
    pub fn set_speculation(&mut self, speculation: Speculation<'m>) {
        self.speculation = Some(speculation);
    }

    /// Adds drafted tokens to the planned slots that are answering. Returns these slots.
    pub(super) fn add_drafts(&mut self, planned: &mut [(usize, usize)]) -> Vec<usize> {
        let Some(speculation) = &mut self.speculation else { return Vec::new() };
        let rows = planned.iter().map(|(_, n)| n).sum();
        let is_planned = |i: usize| planned.iter().any(|(slot, _)| *slot == i);
        let answering = self.slots.iter().enumerate().filter(|(_, slot)| !slot.is_reading());
        let requests: Vec<DraftRequest<'_>> = answering
            .filter(|(i, _)| is_planned(*i))
            .map(|(sequence, slot)| DraftRequest {
                sequence,
                ids: &slot.ids,
                most: slot.most_drafted(),
            })
            .collect();
        if requests.is_empty() {
            return Vec::new();
        }
        let drafts = match speculation.draft(&requests, rows) {
            Ok(drafts) => drafts,
            Err(_) => {
                self.give_up_drafting();
                return Vec::new();
            }
        };
        let slots: Vec<usize> = requests.iter().map(|request| request.sequence).collect();
        let drafts = slots.into_iter().zip(drafts).filter(|(_, draft)| !draft.is_empty());
        let drafts: Vec<(usize, Vec<u32>)> = drafts.collect();
        for (i, draft) in &drafts {
            self.slots[*i].add_draft(draft);
            planned.iter_mut().filter(|(slot, _)| slot == i).for_each(|(_, n)| *n += draft.len());
        }
        let mut state = self.shared.lock();
        let tokens: usize = drafts.iter().map(|(_, draft)| draft.len()).sum();
        state.totals.draft_steps += u64::from(tokens > 0);
        state.totals.drafted_tokens += tokens as u64;
        drafts.into_iter().map(|(i, _)| i).collect()
    }

    /// Tells the speculation what became of the drafts of these slots.
    pub(super) fn add_compared(&mut self, drafted: Vec<usize>) {
        let Some(speculation) = &mut self.speculation else { return };
        for i in drafted {
            let draft = self.slots[i].draft;
            speculation.add_compared(i, draft.compared, draft.accepted);
        }
    }

    /// Lets the drafter read what the planned slots have evaluated of their prompts.
    pub(super) fn read_prompts_ahead(&mut self, planned: &[(usize, usize)]) {
        let Some(speculation) = &mut self.speculation else { return };
        let is_planned = |i: usize| planned.iter().any(|(slot, _)| *slot == i);
        let slots = self.slots.iter().enumerate();
        let reading = slots.filter(|(i, slot)| slot.running.is_some() && is_planned(*i));
        let texts: Vec<(usize, &[u32])> = reading
            .map(|(i, slot)| (i, slot.evaluated()))
            .filter(|(_, ids)| !ids.is_empty())
            .collect();
        let tokens: usize = planned.iter().map(|(_, n)| n).sum();
        if speculation.read(&texts, tokens.min(self.options.state.n_ubatch)).is_err() {
            self.give_up_drafting();
        }
    }

    /// Goes on without drafts, which no answer needs.
    fn give_up_drafting(&mut self) {
        self.speculation = None;
        self.shared.lock().totals.draft_failures += 1;
    }
}
