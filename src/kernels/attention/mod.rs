//! Attention over a cache of keys and values.
//!
//! Positions are taken in spans of [`SPAN`], which begin at the same positions for every query.
//! Within a span the order of additions is fixed, and spans are added in order. So the result does
//! not depend on which queries are computed together, and the spans of one query can go to several
//! threads.

mod cache;
mod span;
mod tiles;
mod unit;

use std::ops::Range;

pub use cache::{KvRows, KvType};

use super::Cpu;
use cache::{Slots, Spans};
use span::{Partial, Span};
use unit::{Unit, UNIT};

/// Positions in a span, whose scores are held at a time.
pub const SPAN: usize = 256;

/// How many queries share the reading of keys and values: query heads of one group times positions.
/// Fewer where there would be too few groups for all threads.
const QUERIES: Range<usize> = 16..128;

/// A sequence with at most so many new positions has its spans shared out to the threads. More
/// positions are shared out themselves. All of these few positions are in one [`QueryGroup`] for each
/// key/value head.
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
    /// Positions that a query attends to, its own included.
    pub window: usize,
}

/// Memory that is kept between calls.
#[derive(Debug, Default)]
pub struct Partials(Vec<Partial>);

impl Partials {
    /// Bytes for one sequence of `n_ctx` positions: for every query head and span, the query, its
    /// scores and the sum of the values.
    pub fn bytes(n_ctx: usize, n_head: usize, head_dim: usize) -> usize {
        n_ctx.div_ceil(SPAN) * n_head * (2 * head_dim + SPAN) * size_of::<f32>()
    }
}

/// The keys and values of one sequence, and the positions of its queries.
#[derive(Clone, Copy, Debug)]
pub struct CausalRange<'c> {
    /// The first query's position.
    pub pos: usize,
    /// Number of queries, at least one.
    pub n: usize,
    /// The keys that they attend to, up to position `pos + n`.
    pub k: &'c KvRows,
    /// The values of the same positions.
    pub v: &'c KvRows,
}

/// A [`CausalRange`] with the type of its keys and values.
struct TypedRange<'c, U> {
    pos: usize,
    n: usize,
    k: &'c Spans<U>,
    v: &'c Spans<U>,
}

/// The queries of one key/value head at a few positions, and where their output goes.
struct QueryGroup<'a> {
    head_kv: usize,
    /// The first position.
    pos: usize,
    /// By position, the query heads of the group, `[group * head_dim]` each.
    q: Vec<&'a [f32]>,
    out: Vec<&'a mut [f32]>,
}

impl Attention {
    /// `out[t] = softmax(softcap(q[t]·k * scale)) · v` over the positions that each query attends to
    /// in its own sequence. `q` and `out` are `[n, n_head * head_dim]`, the queries of all
    /// sequences in the order of `ranges`.
    ///
    /// # Panics
    /// If the caches are not all of one type.
    pub fn run(
        &self,
        cpu: &Cpu,
        ranges: &[CausalRange<'_>],
        q: &[f32],
        partials: &mut Partials,
        out: &mut [f32],
    ) {
        macro_rules! of {
            ($ty:ident) => {{
                let ranges = ranges.iter().map(|range| match (range.k.slots(), range.v.slots()) {
                    (Slots::$ty(k), Slots::$ty(v)) => {
                        TypedRange { pos: range.pos, n: range.n, k, v }
                    }
                    _ => panic!("keys and values have one type"),
                });
                let ranges: Vec<_> = ranges.collect();
                self.run_typed(cpu, &ranges, q, partials, out);
            }};
        }
        match ranges.first().map(|first| first.k.slots()) {
            Some(Slots::F16(_)) => of!(F16),
            Some(Slots::Q8_0(_)) => of!(Q8_0),
            Some(Slots::F32(_)) => of!(F32),
            None => {}
        }
    }

    fn run_typed<U: Unit>(
        &self,
        cpu: &Cpu,
        ranges: &[TypedRange<'_, U>],
        mut q: &[f32],
        Partials(partials): &mut Partials,
        mut out: &mut [f32],
    ) {
        let span = |range: &TypedRange<'_, U>, group: &QueryGroup, at, partial: &mut Partial| {
            let (k, v) = (range.k.span(at, group.head_kv), range.v.span(at, group.head_kv));
            let span = Span { shape: self, pos: group.pos, q: &group.q, k, v, at };
            cpu.isa.run(span.into_op(partial));
        };
        let (mut many, mut few) = (Vec::new(), Vec::new());
        for range in ranges {
            let (q_of, out_of);
            let len = range.n * self.n_head * self.head_dim;
            (q_of, q) = q.split_at(len);
            (out_of, out) = out.split_at_mut(len);
            let groups = self.query_groups(range.pos, cpu.threads(), q_of, out_of);
            match range.n > FEW {
                true => many.extend(groups.into_iter().map(|group| (range, group))),
                false => few.push((range, groups)),
            }
        }
        if !many.is_empty() {
            let new = || (Partial::default(), Partial::default());
            cpu.pool.for_each_with(many, new, |(sum, partial), (range, mut group)| {
                sum.clear();
                for at in self.spans(group.pos, group.out.len()) {
                    span(range, &group, at, partial);
                    sum.add(partial);
                }
                sum.write(&mut group.out, self.head_dim);
            });
        }
        // By span and then by head, as the caches lie in memory.
        let items: Vec<_> = few
            .iter()
            .flat_map(|(range, groups)| {
                let spans = self.spans(range.pos, range.n);
                spans.flat_map(move |at| groups.iter().map(move |group| (*range, group, at)))
            })
            .collect();
        partials.resize_with(items.len().max(partials.len()), Partial::default);
        let places: Vec<_> = items.into_iter().zip(partials.iter_mut()).collect();
        let positions = |range: &TypedRange<'_, U>, at: usize| (range.pos + range.n - at).min(SPAN);
        let positions: usize = places.iter().map(|((range, _, at), _)| positions(range, *at)).sum();
        let bytes = positions * 2 * self.head_dim.div_ceil(UNIT) * size_of::<U>();
        cpu.for_each_reading(
            bytes,
            places,
            || (),
            |(), ((range, group, at), to)| span(range, group, at, to),
        );
        let (mut sum, mut rest) = (Partial::default(), partials.as_slice());
        for (range, groups) in few {
            let (of_range, others) =
                rest.split_at(groups.len() * self.spans(range.pos, range.n).count());
            let n_group = groups.len();
            for (i, mut group) in groups.into_iter().enumerate() {
                sum.clear();
                of_range[i..].iter().step_by(n_group).for_each(|partial| sum.add(partial));
                sum.write(&mut group.out, self.head_dim);
            }
            rest = others;
        }
    }

    /// The queries in groups that share keys and values: by some positions, and then by key/value
    /// head.
    fn query_groups<'a>(
        &self,
        pos: usize,
        threads: usize,
        q: &'a [f32],
        out: &'a mut [f32],
    ) -> Vec<QueryGroup<'a>> {
        let row = self.n_head * self.head_dim;
        let group_row = row / self.n_head_kv;
        let (queries, n_groups) = (q.len() / self.head_dim, 4 * threads);
        let queries = (queries / n_groups).clamp(QUERIES.start, QUERIES.end);
        let together = (queries * self.n_head_kv / self.n_head).max(FEW);
        let mut groups = Vec::new();
        for (i, (q, out)) in
            q.chunks(together * row).zip(out.chunks_mut(together * row)).enumerate()
        {
            let pos = pos + i * together;
            let first = groups.len();
            let new = |head_kv| QueryGroup { head_kv, pos, q: Vec::new(), out: Vec::new() };
            groups.extend((0..self.n_head_kv).map(new));
            for (q, out) in q.chunks(row).zip(out.chunks_mut(row)) {
                let rows = q.chunks(group_row).zip(out.chunks_mut(group_row));
                for (group, (q, out)) in groups[first..].iter_mut().zip(rows) {
                    group.q.push(q);
                    group.out.push(out);
                }
            }
        }
        groups
    }

    /// The positions that a query at `pos` attends to.
    fn causal_range(&self, pos: usize) -> Range<usize> {
        (pos + 1).saturating_sub(self.window)..pos + 1
    }

    /// The first positions of the spans that queries at `n` positions from `pos` on attend to.
    fn spans(&self, pos: usize, n: usize) -> impl Iterator<Item = usize> + Clone {
        let first = self.causal_range(pos).start / SPAN * SPAN;
        (first..pos + n).step_by(SPAN)
    }
}

#[cfg(test)]
mod tests;
