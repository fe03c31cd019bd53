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

impl Partials {
    /// Bytes for one sequence of `n_ctx` positions: for each span of a head the query, its scores, and
    /// the sum of values.
    pub fn bytes(n_ctx: usize, n_head: usize, head_dim: usize) -> usize {
        n_ctx.div_ceil(SPAN) * n_head * (2 * head_dim + SPAN) * size_of::<f32>()
    }
}

/// The keys and values of one sequence, and where its queries stand.
#[derive(Clone, Copy, Debug)]
pub struct CausalRange<'c> {
    /// The first query's position.
    pub pos: usize,
    /// Queries, at least one.
    pub n: usize,
    /// What they see, up to position `pos + n`.
    pub k: &'c KvRows,
    /// The same of the values.
    pub v: &'c KvRows,
}

/// The same, of a type.
struct Part<'c, U> {
    pos: usize,
    n: usize,
    k: &'c Spans<U>,
    v: &'c Spans<U>,
}

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
    /// `out[t] = softmax(softcap(q[t]·k * scale)) · v` over what each query sees of its own sequence.
    /// `q` and `out` are `[n, n_head * head_dim]`, the queries of all sequences in order.
    ///
    /// # Panics
    /// If the caches are not all of one type.
    pub fn run(
        &self,
        cpu: &Cpu,
        seen: &[CausalRange<'_>],
        q: &[f32],
        partials: &mut Partials,
        out: &mut [f32],
    ) {
        macro_rules! of {
            ($ty:ident) => {{
                let parts = seen.iter().map(|seen| match (seen.k.slots(), seen.v.slots()) {
                    (Slots::$ty(k), Slots::$ty(v)) => Part { pos: seen.pos, n: seen.n, k, v },
                    _ => panic!("keys and values have one type"),
                });
                let parts: Vec<_> = parts.collect();
                self.heads(cpu, &parts, q, partials, out);
            }};
        }
        match seen.first().map(|first| first.k.slots()) {
            Some(Slots::F16(_)) => of!(F16),
            Some(Slots::Q8_0(_)) => of!(Q8_0),
            Some(Slots::F32(_)) => of!(F32),
            None => {}
        }
    }

    fn heads<U: Unit>(
        &self,
        cpu: &Cpu,
        parts: &[Part<'_, U>],
        mut q: &[f32],
        Partials(partials): &mut Partials,
        mut out: &mut [f32],
    ) {
        let span = |part: &Part<'_, U>, job: &Job, at: usize, partial: &mut Partial| {
            let (k, v) = (part.k.span(at, job.head_kv), part.v.span(at, job.head_kv));
            let span = Span { shape: self, pos: job.pos, q: &job.q, k, v, at };
            cpu.isa.run(span.into_op(partial));
        };
        let (mut many, mut few) = (Vec::new(), Vec::new());
        for part in parts {
            let (q_of, out_of);
            let len = part.n * self.n_head * self.head_dim;
            (q_of, q) = q.split_at(len);
            (out_of, out) = out.split_at_mut(len);
            let jobs = self.jobs(part.pos, q_of, out_of);
            match part.n > FEW {
                true => many.extend(jobs.into_iter().map(|job| (part, job))),
                false => few.push((part, jobs)),
            }
        }
        if !many.is_empty() {
            let new = || (Partial::default(), Partial::default());
            cpu.pool.for_each_with(many, new, |(sum, partial), (part, mut job)| {
                sum.clear();
                for at in self.spans(job.pos, job.out.len()) {
                    span(part, &job, at, partial);
                    sum.add(partial);
                }
                sum.write(&mut job.out, self.head_dim);
            });
        }
        // By span and then by head, as the caches lie in memory.
        let items: Vec<_> = few
            .iter()
            .flat_map(|(part, jobs)| {
                let spans = self.spans(part.pos, part.n);
                spans.flat_map(move |at| jobs.iter().map(move |job| (*part, job, at)))
            })
            .collect();
        partials.resize_with(items.len().max(partials.len()), Partial::default);
        let places = items.into_iter().zip(partials.iter_mut());
        cpu.pool.for_each(places, |((part, job, at), to)| span(part, job, at, to));
        let (mut sum, mut rest) = (Partial::default(), partials.as_slice());
        for (part, jobs) in few {
            let (of_part, others) =
                rest.split_at(jobs.len() * self.spans(part.pos, part.n).count());
            let n_job = jobs.len();
            for (i, mut job) in jobs.into_iter().enumerate() {
                sum.clear();
                of_part[i..].iter().step_by(n_job).for_each(|partial| sum.add(partial));
                sum.write(&mut job.out, self.head_dim);
            }
            rest = others;
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
