//! Attention over a cache of keys and values.
//!
//! Positions are taken in spans of [`SPAN`], the same ones wherever a query stands. Within a span
//! the order of additions is fixed, and spans are added in order: so the result does not depend on
//! which queries are computed together, and the spans of one query can go to several threads.

mod cache;
mod span;
mod unit;

use std::ops::Range;

pub use cache::{KvRows, KvType};

use super::Cpu;
use cache::{Slots, Spans};
use span::{Partial, Span};
use unit::Unit;

/// Positions whose scores are held at a time.
const SPAN: usize = 256;

/// Queries, heads and positions counted, that share the reading of keys and values.
const QUERIES: usize = 16;

/// Up to so many positions, spans are shared out to the threads; more give enough work each. Few
/// enough to be one group.
const FEW: usize = 4;

/// The shape of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Squashes scores, if given.
    pub softcap: Option<f32>,
    /// Positions that a query sees, its own included.
    pub window: usize,
}

/// Memory that is kept between calls.
#[derive(Debug, Default)]
pub struct Partials(Vec<Partial>);

/// Some positions of one key/value head's queries, and where their output goes.
struct Job<'a> {
    head_kv: usize,
    /// The first position.
    pos: usize,
    /// By position, `[group * head_dim]` each.
    q: Vec<&'a [f32]>,
    out: Vec<&'a mut [f32]>,
}

impl Attention {
    /// `out[t] = softmax(softcap(q[t]·k * scale)) · v` over what position `pos + t` sees.
    /// `q` and `out` are `[n, n_head * head_dim]`; `k` and `v` hold what they see, up to position
    /// `pos + n`.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        cpu: &Cpu,
        pos: usize,
        q: &[f32],
        k: &KvRows,
        v: &KvRows,
        partials: &mut Partials,
        out: &mut [f32],
    ) {
        match (k.slots(), v.slots()) {
            (Slots::F16(k), Slots::F16(v)) => self.heads(cpu, pos, q, k, v, partials, out),
            (Slots::Q8_0(k), Slots::Q8_0(v)) => self.heads(cpu, pos, q, k, v, partials, out),
            (Slots::F32(k), Slots::F32(v)) => self.heads(cpu, pos, q, k, v, partials, out),
            _ => unreachable!("keys and values of a layer have one type"),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn heads<U: Unit>(
        &self,
        cpu: &Cpu,
        pos: usize,
        q: &[f32],
        k: &Spans<U>,
        v: &Spans<U>,
        partials: &mut Partials,
        out: &mut [f32],
    ) {
        let n = out.len() / (self.n_head * self.head_dim);
        let jobs = self.jobs(pos, q, out);
        let span = |job: &Job, at: usize, partial: &mut Partial| {
            let (k, v) = (k.span(at, job.head_kv), v.span(at, job.head_kv));
            let span = Span { shape: self, pos: job.pos, q: &job.q, k, v, at };
            cpu.isa.run(span.into_op(partial));
        };
        if n > FEW {
            let new = || (Partial::default(), Partial::default());
            cpu.team.for_each_with(jobs, new, |(sum, partial), mut job| {
                sum.clear();
                for at in self.spans(job.pos, job.out.len()) {
                    span(&job, at, partial);
                    sum.add(partial);
                }
                sum.write(&mut job.out, self.head_dim);
            });
            return;
        }
        // By span and then by head, as the cache lies in memory.
        let (spans, Partials(partials)) = (self.spans(pos, n), partials);
        let items = spans.flat_map(|at| jobs.iter().map(move |job| (job, at)));
        let count = items.clone().count();
        partials.resize_with(count.max(partials.len()), Partial::default);
        cpu.team.for_each(items.zip(&mut *partials), |((job, at), to)| span(job, at, to));
        let (mut sum, n_job) = (Partial::default(), jobs.len());
        for (i, mut job) in jobs.into_iter().enumerate() {
            sum.clear();
            partials[i..count].iter().step_by(n_job).for_each(|partial| sum.add(partial));
            sum.write(&mut job.out, self.head_dim);
        }
    }

    /// The queries, in groups that share keys and values.
    fn jobs<'a>(&self, pos: usize, q: &'a [f32], out: &'a mut [f32]) -> Vec<Job<'a>> {
        let row = self.n_head * self.head_dim;
        let group = row / self.n_head_kv;
        let together = (QUERIES * self.n_head_kv / self.n_head).max(FEW);
        let mut jobs = Vec::new();
        for (i, (q, out)) in
            q.chunks(together * row).zip(out.chunks_mut(together * row)).enumerate()
        {
            let pos = pos + i * together;
            let first = jobs.len();
            let new = |head_kv| Job { head_kv, pos, q: Vec::new(), out: Vec::new() };
            jobs.extend((0..self.n_head_kv).map(new));
            for (q, out) in q.chunks(row).zip(out.chunks_mut(row)) {
                let groups = q.chunks(group).zip(out.chunks_mut(group));
                for (job, (q, out)) in jobs[first..].iter_mut().zip(groups) {
                    job.q.push(q);
                    job.out.push(out);
                }
            }
        }
        jobs
    }

    /// The positions that position `pos` sees.
    fn seen(&self, pos: usize) -> Range<usize> {
        (pos + 1).saturating_sub(self.window)..pos + 1
    }

    /// The beginnings of the spans that `n` positions from `pos` on see.
    fn spans(&self, pos: usize, n: usize) -> impl Iterator<Item = usize> + Clone {
        let first = self.seen(pos).start / SPAN * SPAN;
        (first..pos + n).step_by(SPAN)
    }
}

#[cfg(test)]
mod tests;
