//! Generates several answers at a time with one model. All running answers are decoded together, in
//! one pass over the weights, and parts of prompts are evaluated in the same passes. Decoding is
//! limited by reading the weights, so several answers take little longer than one.
//!
//! Every answer is the same, bit for bit, as if it were generated alone: see [`crate::model`]. The
//! beginning of a prompt is copied from any sequence that has the same beginning, whether that
//! sequence is in use or not. With a [`Speculation`], a pass also evaluates tokens that are guessed
//! to follow each answer.

mod handle;
mod pick;
mod plan;
mod request;
mod slot;
mod speculate;

use std::sync::Arc;
use std::time::Instant;

pub use crate::generate::{Finish, Token, TokenLogprobs};
pub use handle::{Handle, Status, Totals};
pub use request::{Answer, Done, EngineError, Event, Request, SubmitError};

use handle::{QueuedRequest, Shared};
use pick::{pick, Row};
use plan::{plan, Need, Pace};
use slot::Slot;

use crate::generate::draft::Speculation;
use crate::model::{BatchEntry, Model, ModelError, StateOptions, Workspace, LOGIT_ROWS};
use crate::tokenizer::Tokenizer;

/// The limits of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Number of slots, that is of answers that are generated at the same time; at least one.
    pub parallel: usize,
    /// Number of requests that may wait for a slot.
    pub queue: usize,
    /// The options of each slot's sequence. A pass evaluates at most `n_ubatch` tokens of prompts.
    pub state: StateOptions,
}

/// Generates answers until it is shut down.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model<'m>,
    tokenizer: &'m Tokenizer,
    stop_ids: Vec<u32>,
    options: EngineOptions,
    shared: Arc<Shared>,
    slots: Vec<Slot<'m>>,
    work: Workspace,
    pace: Pace,
    speculation: Option<Speculation<'m>>,
    /// Number of passes so far.
    steps: u64,
}

/// Fewest common tokens for which waiting for another slot pays: fewer are evaluated sooner.
const MIN_WAIT: usize = 16;

impl<'m> Engine<'m> {
    /// Creates an engine and the handle for sending it requests. `stop_ids` are the tokens with
    /// which the model ends its answers.
    pub fn new(
        model: &'m Model<'m>,
        tokenizer: &'m Tokenizer,
        stop_ids: Vec<u32>,
        options: EngineOptions,
    ) -> (Self, Handle) {
        let shared = Arc::<Shared>::default();
        let handle = Handle::new(Arc::clone(&shared), options, model.config().n_vocab);
        let slots = (0..options.parallel).map(|_| Slot::new(model.config(), options.state));
        let (slots, work) = (slots.collect(), Workspace::new(model.config()));
        let engine = Self {
            model,
            tokenizer,
            stop_ids,
            options,
            shared,
            slots,
            work,
            pace: Pace::default(),
            speculation: None,
            steps: 0,
        };
        (engine, handle)
    }

    /// Generates answers until [`Handle::shutdown`], or until all handles are gone and no work is
    /// left.
    pub fn run(mut self) {
        while self.take_requests() {
            self.step();
        }
    }

    /// Starts queued requests in free slots, and waits if there is nothing to do. Returns `false`
    /// if the engine should end.
    fn take_requests(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if state.closed {
                return false;
            }
            for slot in &mut self.slots {
                if slot.running.as_ref().is_some_and(|running| !running.has_client()) {
                    slot.end();
                    state.totals.cancelled += 1;
                }
            }
            state.drop_cancelled();
            while self.slots.iter().any(|slot| slot.running.is_none()) {
                let Some(queued) = state.queue.pop_front() else { break };
                self.begin(queued);
            }
            state.busy = busy(&self.slots);
            if state.busy > 0 {
                return true;
            }
            if state.is_over() {
                return false;
            }
            state = shared.wait(state);
        }
    }

    /// Starts a request in a free slot; there must be one. Prefers the slot whose whole sequence is
    /// the beginning of the prompt, otherwise the slot that has not been used for longest.
    fn begin(&mut self, queued: QueuedRequest) {
        let prompt = &queued.request.prompt;
        let slots = self.slots.iter_mut().enumerate();
        let free = slots.filter(|(_, slot)| slot.running.is_none());
        let preference = |slot: &Slot<'_>| {
            let shared = slot.common_prefix(prompt);
            (if shared == slot.sequence.len() { shared } else { 0 }, u64::MAX - slot.used)
        };
        let free = free.max_by_key(|(_, slot)| preference(slot));
        if let Some((i, slot)) = free {
            slot.begin(queued, self.tokenizer);
            slot.used = self.steps;
            self.speculation.iter_mut().for_each(|speculation| speculation.begin(i));
        }
    }

    /// Runs one pass over the weights.
    fn step(&mut self) {
        self.steps += 1;
        self.share_prefixes();
        let mut planned = self.plan();
        let prompts = planned.iter().any(|(slot, _)| self.slots[*slot].is_reading());
        let start = Instant::now();
        let drafted = self.add_drafts(&mut planned);
        let tokens: usize = planned.iter().map(|(_, n)| n).sum();
        let pass = Instant::now();
        if let Err(error) = self.evaluate(&planned) {
            self.evaluate_separately(&planned, error);
        }
        if let Some(speculation) = self.speculation.as_mut().filter(|_| !prompts) {
            speculation.add_pass(tokens, pass.elapsed());
        }
        self.add_compared(drafted);
        if prompts {
            self.read_prompts_ahead(&planned);
        }
        let time = start.elapsed();
        let mut state = self.shared.lock();
        state.totals.steps += 1;
        match prompts {
            true => state.totals.prompt_seconds += time.as_secs_f64(),
            false => state.totals.decode_seconds += time.as_secs_f64(),
        }
        drop(state);
        if prompts {
            self.pace.add(tokens, time);
        }
    }

    /// Copies the beginnings of prompts from other sequences, unless another slot is evaluating the
    /// same tokens at this moment.
    fn share_prefixes(&mut self) {
        for reader in 0..self.slots.len() {
            if !self.slots[reader].can_copy_prefix() || self.waits_for_prefix(reader) {
                continue;
            }
            let others = (0..self.slots.len()).filter(|other| *other != reader);
            let shared = |other: &usize| self.slots[*other].common_prefix(&self.slots[reader].ids);
            let Some(other) = others.max_by_key(shared) else { continue };
            if let Ok([reader, other]) = self.slots.get_disjoint_mut([reader, other]) {
                reader.copy_prefix(other);
            }
        }
    }

    /// Whether a prompt waits until another slot has evaluated the beginning that both have in
    /// common. The slot that has evaluated more does not wait, nor does the first of equal ones, so
    /// that there is always one that does not.
    fn waits_for_prefix(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        slot.can_copy_prefix()
            && self.slots.iter().enumerate().any(|(i, other)| {
                let common = slot.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
                let (here, there) = (slot.sequence.len(), other.sequence.len());
                other.is_reading()
                    && (there, index) > (here, i)
                    && there < common
                    && common >= here + MIN_WAIT
            })
    }

    /// The slots of the next pass in order, each with the number of its tokens to evaluate.
    fn plan(&self) -> Vec<(usize, usize)> {
        let slots = self.slots.iter().enumerate();
        let busy = slots.filter(|(i, slot)| slot.running.is_some() && !self.waits_for_prefix(*i));
        let need = |(i, slot): (usize, &Slot<'_>)| Need {
            slot: i,
            tokens: slot.missing(),
            answering: !slot.is_reading(),
        };
        let needs: Vec<Need> = busy.map(need).collect();
        plan(&needs, &self.pace, self.options.state.n_ubatch, self.steps as usize)
    }

    /// Evaluates the next tokens of the planned slots, which are in order, and processes the
    /// results.
    fn evaluate(&mut self, planned: &[(usize, usize)]) -> Result<(), ModelError> {
        let (mut batch, mut rows, mut row, steps) = (Vec::new(), Vec::new(), 0, self.steps);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            let Some((_, n)) = planned.iter().find(|(planned, _)| *planned == i) else { continue };
            let Some(running) = &slot.running else { continue };
            let (at, all) = (slot.sequence.len(), running.prompt_logprobs().is_some());
            slot.used = steps;
            // The last row is followed by a token to be sampled, and so are drafted ones. Other rows
            // are needed only if log-probabilities of the prompt were asked for.
            let known = slot.known();
            let row_of = |pos: usize| Row {
                slot: i,
                row: row + pos - at,
                pos,
                next: known.get(pos + 1).copied(),
            };
            rows.extend((at..at + n).map(row_of).filter(|row| all || row.next.is_none()));
            row += n;
            batch.push(BatchEntry { sequence: &mut slot.sequence, tokens: &slot.ids[at..at + n] });
        }
        self.model.evaluate_batch(&mut self.work, &mut batch)?;
        rows.chunks(LOGIT_ROWS).for_each(|rows| self.process_rows(rows));
        Ok(())
    }

    /// Called after a pass with values that are NaN or infinite. Evaluates its slots one by one and
    /// without drafts, so that only those fail that cause such values.
    fn evaluate_separately(&mut self, planned: &[(usize, usize)], error: ModelError) {
        let mut again = Vec::new();
        for (i, n) in planned {
            let slot = &mut self.slots[*i];
            slot.sequence.truncate(slot.sequence.len() - n);
            again.push((*i, n - slot.drop_draft()));
        }
        if let ([(slot, _)], true) = (&again[..], again == planned) {
            return self.fail(*slot, &error);
        }
        for planned in again {
            if let Err(error) = self.evaluate(&[planned]) {
                self.fail(planned.0, &error);
            }
        }
    }

    /// Processes some rows of the last pass: determines the tokens that follow them. A drafted row
    /// is of use only if its token is the one that is sampled from the row before.
    fn process_rows(&mut self, rows: &[Row]) {
        let is_needed = |slots: &[Slot<'_>], row: &Row| match row.next {
            Some(_) => true,
            None => slots[row.slot].running.is_some() && row.pos < slots[row.slot].sequence.len(),
        };
        let rows: Vec<Row> =
            rows.iter().filter(|row| is_needed(&self.slots, row)).copied().collect();
        if rows.is_empty() {
            return;
        }
        let indexes: Vec<usize> = rows.iter().map(|row| row.row).collect();
        let logits = match self.model.logits_of(&mut self.work, &indexes) {
            Ok(logits) => logits,
            Err(error) => match &rows[..] {
                [row] => return self.fail(row.slot, &error),
                // Some of the rows may be finite.
                rows => return rows.chunks(1).for_each(|row| self.process_rows(row)),
            },
        };
        let n_vocab = logits.len() / rows.len();
        let shared = Arc::clone(&self.shared);
        // Each round takes the rows whose turn it is: all but the drafted ones in the first.
        for round in 0.. {
            let is_next = |row: &Row| match row.next {
                Some(_) => round == 0,
                None => self.slots[row.slot].samples_from(row.pos),
            };
            let places = rows.iter().copied().zip(logits.chunks_exact_mut(n_vocab));
            let places: Vec<_> = places.filter(|(row, _)| is_next(row)).collect();
            if places.is_empty() {
                break;
            }
            let taken: Vec<Row> = places.iter().map(|(row, _)| *row).collect();
            let picked = pick(&mut self.slots, places, &self.stop_ids, self.model.cpu());
            let mut state = shared.lock();
            for (row, picked) in taken.iter().zip(picked) {
                let slot = &mut self.slots[row.slot];
                match (row.next, picked) {
                    (Some(_), Some(Ok(token))) => slot.add_prompt_token(token),
                    (_, Some(picked)) => slot.add_token(picked, &self.stop_ids, &mut state.totals),
                    (_, None) => {}
                }
            }
            state.busy = busy(&self.slots);
        }
    }

    /// Ends the answer of a slot whose values are NaN or infinite.
    fn fail(&mut self, slot: usize, error: &ModelError) {
        let slot = &mut self.slots[slot];
        slot.sequence.truncate(0);
        if let Some(running) = slot.end() {
            self.shared.lock().totals.failed += 1;
            running.failed(EngineError::Model(error.to_string()));
        }
    }
}

fn busy(slots: &[Slot<'_>]) -> usize {
    slots.iter().filter(|slot| slot.running.is_some()).count()
}

impl Drop for Engine<'_> {
    /// Closes the queue and every waiting request, also after a panic, so that nobody waits for an
    /// engine that has ended.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.queue.clear();
        state.busy = 0;
    }
}
