//! What comes after a row: the token that is given there, or the one that is picked, and how likely it is.

use super::slot::Slot;
use super::{EngineError, Request, Token, TokenLogprobs};
use crate::kernels::{log_sum_exp, Cpu, Isa};
use crate::sampling::ConstraintError;

/// A row of a pass whose logits are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub slot: usize,
    /// Its index in the pass.
    pub row: usize,
    /// The token of the prompt that follows; `None` if it is to be picked.
    pub next: Option<u32>,
}

/// What comes after a row.
pub(super) type Picked = Result<Token, EngineError>;

/// The work on one row, which any thread can do.
struct Task<'a> {
    logits: &'a mut [f32],
    /// How many likeliest tokens are to be told.
    logprobs: Option<usize>,
    next: Next<'a>,
    picked: &'a mut Option<Picked>,
}

enum Next<'a> {
    Given(u32),
    Pick { request: &'a mut Request, ids: &'a [u32] },
}

/// What comes after `rows`, which are in the order of the slots, given their logits, `[rows, n_vocab]`;
/// `None` where nobody waits for it any more. The logits are changed.
pub(super) fn pick(
    slots: &mut [Slot<'_>],
    rows: &[Row],
    logits: &mut [f32],
    stop_ids: &[u32],
    cpu: &Cpu,
) -> Vec<Option<Picked>> {
    let mut picked: Vec<Option<Picked>> = rows.iter().map(|_| None).collect();
    let n_vocab = logits.len() / rows.len();
    let places = logits.chunks_exact_mut(n_vocab).zip(&mut picked);
    let mut places = rows.iter().zip(places).peekable();
    let mut tasks = Vec::new();
    for (i, slot) in slots.iter_mut().enumerate() {
        let Slot { ids, running, .. } = slot;
        let mut request = running.as_mut().map(|running| &mut running.job.request);
        let (logprobs, whole) =
            request.as_ref().map_or((None, false), |r| (r.logprobs, r.prompt_logprobs));
        while let Some((row, (logits, picked))) = places.next_if(|(row, _)| row.slot == i) {
            let (next, logprobs) = match row.next {
                Some(id) if whole => (Next::Given(id), logprobs.or(Some(0))),
                Some(_) => continue,
                // There is one such row at most.
                None => match request.take() {
                    Some(request) => (Next::Pick { request, ids }, logprobs),
                    None => continue,
                },
            };
            tasks.push(Task { logits, logprobs, next, picked });
        }
    }
    cpu.for_each(tasks, |task| task.run(cpu.isa(), stop_ids));
    picked
}

impl Task<'_> {
    fn run(self, isa: Isa, stop_ids: &[u32]) {
        let Self { logits, logprobs, next, picked } = self;
        *picked = Some(match next {
            Next::Given(id) => {
                let logprobs = logprobs.map(|n| TokenLogprobs::new(isa, logits, id, n));
                Ok(Token { id, logprobs })
            }
            Next::Pick { request, ids } => {
                // Picking changes them.
                let as_they_were = logprobs.map(|n| (n, logits.to_vec()));
                pick_next(request, ids, logits, stop_ids).map(|id| {
                    let of = |(n, x): (usize, Vec<f32>)| TokenLogprobs::new(isa, &x, id, n);
                    Token { id, logprobs: as_they_were.map(of) }
                })
            }
        });
    }
}

fn pick_next(
    request: &mut Request,
    ids: &[u32],
    logits: &mut [f32],
    stop_ids: &[u32],
) -> Result<u32, EngineError> {
    let failed = |ConstraintError(why)| EngineError::Constraint(why);
    if let Some(constraint) = &mut request.constraint {
        constraint.mask(logits).map_err(failed)?;
    }
    let id = request.sampler.sample(logits, ids);
    match &mut request.constraint {
        // The end comes where the answer may end.
        Some(constraint) if !stop_ids.contains(&id) => constraint.accept(id).map_err(failed)?,
        _ => {}
    }
    Ok(id)
}

impl TokenLogprobs {
    /// Of the token `id`, and of the `n` likeliest; of equals, the lowest id comes first.
    fn new(isa: Isa, logits: &[f32], id: u32, n: usize) -> Self {
        let sum = log_sum_exp(isa, logits);
        let logprob = |logit: f32| (f64::from(logit) - sum) as f32;
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
        for (id, logit) in (0..).zip(logits) {
            if top.len() < n || top.last().is_some_and(|(_, least)| logit > least) {
                let at = top.partition_point(|(_, other)| other >= logit);
                top.insert(at, (id, *logit));
                top.truncate(n);
            }
        }
        top.iter_mut().for_each(|(_, logit)| *logit = logprob(*logit));
        Self { id, logprob: logprob(logits[id as usize]), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_those_of_a_softmax() {
        let logits: Vec<f32> = [0.5, 0.125, 0.25, 0.125].map(f32::ln).to_vec();
        let found = TokenLogprobs::new(Isa::SCALAR, &logits, 2, 3);
        let near = |found: f32, p: f32| (found - p.ln()).abs() < 1e-6;
        assert!(near(found.logprob, 0.25), "{found:?}");
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 2, 1]);
        assert!(found.top.iter().zip([0.5, 0.25, 0.125]).all(|((_, x), p)| near(*x, p)));
        assert!(TokenLogprobs::new(Isa::SCALAR, &logits, 0, 0).top.is_empty());
        assert_eq!(TokenLogprobs::new(Isa::SCALAR, &logits, 0, 9).top.len(), 4);
    }
}
