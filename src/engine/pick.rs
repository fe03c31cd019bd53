//! Determines the token that follows each row of a pass, and its log-probabilities. It is either
//! the next token of the prompt or a sampled one.

use super::slot::{Running, Slot};
use super::EngineError;
use crate::generate::{Token, TokenLogprobs};
use crate::kernels::{Cpu, Isa};
use crate::sampling::ConstraintError;

/// A row of a pass whose logits are needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub slot: usize,
    /// Index of the row in the pass.
    pub row: usize,
    /// Position of its token in the sequence.
    pub pos: usize,
    /// The prompt token that follows the row; `None` if the token is to be sampled.
    pub next: Option<u32>,
}

/// The token that follows a row.
pub(super) type Picked = Result<Token, EngineError>;

/// The work on one row. Any thread can do it.
struct Task<'a, 't> {
    logits: &'a mut [f32],
    next: Next<'a, 't>,
    picked: &'a mut Option<Picked>,
}

enum Next<'a, 't> {
    /// A token of the prompt, and how many of the likeliest tokens to report with it.
    Prompt { id: u32, logprobs: usize },
    /// The answer's next token, to be sampled after `ids`.
    Sample { running: &'a mut Running<'t>, ids: &'a [u32] },
}

/// The tokens that follow some rows, which are in the order of the slots, from their logits,
/// `[n_vocab]`. A result is `None` if its slot's answer has ended meanwhile. The logits are changed.
pub(super) fn pick(
    slots: &mut [Slot<'_>],
    rows: Vec<(Row, &mut [f32])>,
    stop_ids: &[u32],
    cpu: &Cpu,
) -> Vec<Option<Picked>> {
    let mut picked: Vec<Option<Picked>> = rows.iter().map(|_| None).collect();
    let mut places = rows.into_iter().zip(&mut picked).peekable();
    let mut tasks = Vec::new();
    for (i, slot) in slots.iter_mut().enumerate() {
        let Slot { ids, draft, running, .. } = slot;
        let ids = draft.known(ids);
        let prompt_logprobs = running.as_ref().and_then(Running::prompt_logprobs);
        let mut running = running.as_mut();
        while let Some(((row, logits), picked)) = places.next_if(|((row, _), _)| row.slot == i) {
            let next = match (row.next, prompt_logprobs) {
                (Some(id), Some(logprobs)) => Next::Prompt { id, logprobs },
                (Some(_), None) => continue,
                // Each slot has at most one such row.
                (None, _) => match running.take() {
                    Some(running) => Next::Sample { running, ids },
                    None => continue,
                },
            };
            tasks.push(Task { logits, next, picked });
        }
    }
    cpu.for_each(tasks, |task| task.run(cpu.isa(), stop_ids));
    picked
}

impl Task<'_, '_> {
    fn run(self, isa: Isa, stop_ids: &[u32]) {
        let Self { logits, next, picked } = self;
        let failed = |ConstraintError(why)| EngineError::Constraint(why);
        *picked = Some(match next {
            Next::Prompt { id, logprobs } => {
                let logprobs = Some(TokenLogprobs::new(isa, logits, id, logprobs));
                Ok(Token { id, logprobs })
            }
            Next::Sample { running, ids } => {
                running.sample(isa, logits, ids, stop_ids).map_err(failed)
            }
        });
    }
}
