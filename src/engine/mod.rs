//! Many answers at a time from one model: they are decoded together, in one pass over the weights, and
//! prompts are read in between. Decoding is bound by reading the weights, so that several answers take
//! little longer than one.
//!
//! Every answer is the one that it would be alone, bit for bit: see [`crate::model`]. What a prompt
//! begins with is taken from whatever sequence begins so, busy or not.

mod handle;
mod pick;
mod plan;
mod request;
mod slot;

use std::sync::Arc;
use std::time::Instant;

pub use crate::generate::{Finish, Token, TokenLogprobs};
pub use handle::{Handle, Status, Totals};
pub use request::{Answer, Done, EngineError, Event, Request, SubmitError};

use handle::{QueuedRequest, Shared};
use pick::{pick, Row};
use plan::{plan, Need, Pace};
use slot::Slot;

use crate::model::{BatchEntry, Model, ModelError, StateOptions, Workspace, LOGIT_ROWS};
use crate::tokenizer::Tokenizer;

/// What an engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Answers that are made at a time, at least one.
    pub parallel: usize,
    /// Requests that may wait besides.
    pub queue: usize,
    /// What each answer with its prompt may take. A pass takes a ubatch of prompts.
    pub state: StateOptions,
}

/// Makes answers until it is told to stop.
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
    /// Passes so far.
    steps: u64,
}

/// Fewer tokens in common are evaluated sooner than waited for.
const WORTH_WAITING: usize = 16;

impl<'m> Engine<'m> {
    /// An engine and the way in. `stop_ids`: the model's own ends.
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
        let (pace, steps) = (Pace::default(), 0);
        let engine = Self { model, tokenizer, stop_ids, options, shared, slots, work, pace, steps };
        (engine, handle)
    }

    /// Makes answers until [`Handle::shutdown`], or until all handles are gone and nothing is left to do.
    pub fn run(mut self) {
        while self.take_requests() {
            self.step();
        }
    }

    /// Fills free slots; waits if there is nothing to do. The result is whether there is something.
    fn take_requests(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut desk = shared.desk();
        loop {
            if desk.closed {
                return false;
            }
            for slot in &mut self.slots {
                if slot.running.as_ref().is_some_and(|running| !running.is_wanted()) {
                    slot.end();
                    desk.totals.cancelled += 1;
                }
            }
            desk.drop_cancelled();
            while self.slots.iter().any(|slot| slot.running.is_none()) {
                let Some(queued) = desk.queue.pop_front() else { break };
                self.begin(queued);
            }
            desk.busy = busy(&self.slots);
            if desk.busy > 0 {
                return true;
            }
            if desk.is_over() {
                return false;
            }
            desk = shared.wait(desk);
        }
    }

    /// Begins in a free slot, of which there is one: in that of the sequence that the prompt goes on
    /// with, or else in the one that was left alone longest.
    fn begin(&mut self, queued: QueuedRequest) {
        let prompt = &queued.request.prompt;
        let free = self.slots.iter_mut().filter(|slot| slot.running.is_none());
        let goes_on = |slot: &Slot<'_>| {
            let shared = slot.shares(prompt);
            (if shared == slot.sequence.len() { shared } else { 0 }, u64::MAX - slot.used)
        };
        if let Some(slot) = free.max_by_key(|slot| goes_on(slot)) {
            slot.begin(queued, self.tokenizer);
            slot.used = self.steps;
        }
    }

    /// One pass over the weights.
    fn step(&mut self) {
        self.steps += 1;
        self.share_beginnings();
        let planned = self.plan();
        let prompts = planned.iter().any(|(slot, _)| self.slots[*slot].is_reading());
        let tokens: usize = planned.iter().map(|(_, n)| n).sum();
        let start = Instant::now();
        if let Err(error) = self.evaluate(&planned) {
            self.evaluate_apart(&planned, error);
        }
        let time = start.elapsed();
        let mut desk = self.shared.desk();
        desk.totals.steps += 1;
        match prompts {
            true => desk.totals.prompt_seconds += time.as_secs_f64(),
            false => desk.totals.decode_seconds += time.as_secs_f64(),
        }
        drop(desk);
        if prompts {
            self.pace.learn(tokens, time);
        }
    }

    /// Prompts take over what other sequences have of them, unless those are reading it just now.
    fn share_beginnings(&mut self) {
        for reader in 0..self.slots.len() {
            if !self.slots[reader].can_borrow() || self.waits(reader) {
                continue;
            }
            let others = (0..self.slots.len()).filter(|other| *other != reader);
            let shares = |other: &usize| self.slots[*other].shares(&self.slots[reader].ids);
            let Some(other) = others.max_by_key(shares) else { continue };
            if let Ok([reader, other]) = self.slots.get_disjoint_mut([reader, other]) {
                reader.borrow_from(other);
            }
        }
    }

    /// Whether a prompt waits for another to read what both begin with. Who has come further goes first,
    /// and of equals the first slot, so that one always does.
    fn waits(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        slot.can_borrow()
            && self.slots.iter().enumerate().any(|(i, other)| {
                let common = slot.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
                let (here, there) = (slot.sequence.len(), other.sequence.len());
                other.is_reading()
                    && (there, index) > (here, i)
                    && there < common
                    && common >= here + WORTH_WAITING
            })
    }

    /// The slots of the next pass, in order, and how many of their tokens it evaluates.
    fn plan(&self) -> Vec<(usize, usize)> {
        let slots = self.slots.iter().enumerate();
        let busy = slots.filter(|(i, slot)| slot.running.is_some() && !self.waits(*i));
        let need = |(i, slot): (usize, &Slot<'_>)| Need {
            slot: i,
            tokens: slot.missing(),
            answering: !slot.is_reading(),
        };
        let needs: Vec<Need> = busy.map(need).collect();
        plan(&needs, &self.pace, self.options.state.n_ubatch, self.steps as usize)
    }

    /// Evaluates the next tokens of some slots, in order, and goes on with what comes of them.
    fn evaluate(&mut self, planned: &[(usize, usize)]) -> Result<(), ModelError> {
        let (mut batch, mut rows, mut row, steps) = (Vec::new(), Vec::new(), 0, self.steps);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            let Some((_, n)) = planned.iter().find(|(planned, _)| *planned == i) else { continue };
            let Some(running) = &slot.running else { continue };
            let (at, all) = (slot.sequence.len(), running.prompt_logprobs().is_some());
            slot.used = steps;
            // The last token is followed by one that is picked; others, if somebody asks.
            let row_of =
                |r: usize| Row { slot: i, row: row + r, next: slot.ids.get(at + r + 1).copied() };
            rows.extend((0..*n).map(row_of).filter(|row| all || row.next.is_none()));
            row += n;
            batch.push(BatchEntry { sequence: &mut slot.sequence, tokens: &slot.ids[at..at + n] });
        }
        self.model.evaluate_batch(&mut self.work, &mut batch)?;
        rows.chunks(LOGIT_ROWS).for_each(|rows| self.go_on(rows));
        Ok(())
    }

    /// After a pass whose numbers are none: evaluates its slots one by one, so that only those fail that
    /// have to.
    fn evaluate_apart(&mut self, planned: &[(usize, usize)], error: ModelError) {
        if let [(slot, _)] = planned {
            return self.fail(*slot, &error);
        }
        for (slot, n) in planned {
            let sequence = &mut self.slots[*slot].sequence;
            sequence.truncate(sequence.len() - n);
        }
        for (slot, n) in planned {
            if let Err(error) = self.evaluate(&[(*slot, *n)]) {
                self.fail(*slot, &error);
            }
        }
    }

    /// Goes on after some rows of the pass before.
    fn go_on(&mut self, rows: &[Row]) {
        let indexes: Vec<usize> = rows.iter().map(|row| row.row).collect();
        let logits = match self.model.logits_of(&mut self.work, &indexes) {
            Ok(logits) => logits,
            Err(error) => match rows {
                [row] => return self.fail(row.slot, &error),
                // Some of them are numbers.
                rows => return rows.chunks(1).for_each(|row| self.go_on(row)),
            },
        };
        let picked = pick(&mut self.slots, rows, logits, &self.stop_ids, self.model.cpu());
        let shared = Arc::clone(&self.shared);
        let mut desk = shared.desk();
        for (row, picked) in rows.iter().zip(picked) {
            let slot = &mut self.slots[row.slot];
            match (row.next, picked) {
                (Some(_), Some(Ok(token))) => slot.take_given(token),
                (_, Some(picked)) => slot.take(picked, &self.stop_ids, &mut desk.totals),
                (_, None) => {}
            }
        }
        desk.busy = busy(&self.slots);
    }

    /// Ends the work on a slot whose numbers are none.
    fn fail(&mut self, slot: usize, error: &ModelError) {
        let slot = &mut self.slots[slot];
        slot.sequence.truncate(0);
        if let Some(running) = slot.end() {
            self.shared.desk().totals.failed += 1;
            running.failed(EngineError::Model(error.to_string()));
        }
    }
}

fn busy(slots: &[Slot<'_>]) -> usize {
    slots.iter().filter(|slot| slot.running.is_some()).count()
}

impl Drop for Engine<'_> {
    /// Nobody waits for an engine that has ended, however it did.
    fn drop(&mut self) {
        let mut desk = self.shared.desk();
        desk.closed = true;
        desk.queue.clear();
        desk.busy = 0;
    }
}
