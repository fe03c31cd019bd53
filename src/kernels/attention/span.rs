//! A few queries × the keys and values of one span.

use std::ops::Range;

use super::tiles::{scores, weighted};
use super::unit::{Unit, Wide, UNIT};
use super::{Attention, SPAN};
use crate::kernels::isa::{Op, Simd};
use crate::kernels::math;

/// Queries and the span that they meet.
pub struct Span<'a, U> {
    pub shape: &'a Attention,
    /// The position of the first queries.
    pub pos: usize,
    /// By position, the query heads of one key/value head, `[group * head_dim]`.
    pub q: &'a [&'a [f32]],
    /// From `at` on, `[positions, units of a head]`.
    pub k: &'a [U],
    /// From `at` on, `[positions, units of a head]`.
    pub v: &'a [U],
    /// The first position of the span.
    pub at: usize,
}

/// The result of one span, or the sum of several: numerators and denominators of the weighted means.
#[derive(Debug, Default)]
pub struct Partial {
    /// Σ exp(score - max), `[queries]`.
    denominators: Vec<f32>,
    /// The largest score, or 0 where scores are bounded, `[queries]`.
    max: Vec<f32>,
    /// Σ exp(score - max) · v, `[queries, padded head_dim]`.
    sums: Vec<f32>,
    /// The queries of the span that is being computed, `[queries, units of a head]`.
    q: Vec<Wide>,
    /// The scores of that span and then their exponentials, `[queries, SPAN]`.
    p: Vec<f32>,
    /// Keys or values in single precision.
    widened: Vec<Wide>,
}

/// With scores squashed to at most this, no maximum has to be subtracted before exp: sums of 2^23
/// exponentials are finite, and the smallest exponential is still a normal number.
const BOUNDED: f32 = 64.0;

impl<'a, U: Unit> Span<'a, U> {
    /// The computation, which overwrites `partial`.
    pub fn into_op(self, partial: &'a mut Partial) -> impl Op<Out = ()> + 'a {
        SpanOp { span: self, to: partial }
    }
}

struct SpanOp<'a, U> {
    span: Span<'a, U>,
    to: &'a mut Partial,
}

impl<U: Unit> Op for SpanOp<'_, U> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { span, to } = self;
        let (d, width) = (span.shape.head_dim, padded(span.shape.head_dim));
        let queries = span.q.len() * (span.q[0].len() / d);
        // The keys of the span in a query's causal range, counted from the span's beginning; and those
        // in the range of any query.
        let causal_range = |query| {
            let Range { start, end } = span.shape.causal_range(span.pos + query);
            start.saturating_sub(span.at)..end.saturating_sub(span.at).min(SPAN)
        };
        let keys = causal_range(0).start..causal_range(span.q.len() - 1).end;
        let Partial { denominators, max, sums, q, p, widened } = to;
        q.clear();
        for row in span.q {
            for head in row.chunks_exact(d) {
                q.extend(head.chunks(UNIT).map(Wide::padded));
            }
        }
        p.resize(queries * SPAN, 0.0);
        scores(s, q, span.k, width / UNIT, keys.clone(), widened, p);
        denominators.clear();
        max.clear();
        let group = queries / span.q.len();
        for (i, p) in p.chunks_exact_mut(SPAN).enumerate() {
            let Range { start, end } = causal_range(i / group);
            let start = start.min(keys.end);
            let (largest, sum) = exponentials(s, span.shape, p, start..end.max(start));
            max.push(largest);
            denominators.push(sum);
        }
        sums.clear();
        sums.resize(queries * width, 0.0);
        weighted(s, p, span.v, width / UNIT, keys, widened, sums);
    }
}

/// Turns the scores of one query into exponentials, 0 outside of `keys`. Returns what was subtracted
/// from the scores, and the sum of the exponentials.
#[inline(always)]
fn exponentials<S: Simd>(s: S, shape: &Attention, p: &mut [f32], keys: Range<usize>) -> (f32, f32) {
    let Range { start, end } = keys;
    p[..start].fill(0.0);
    p[end..].fill(0.0);
    let scale = s.splat(shape.scale);
    let (chunks, _) = p.as_chunks_mut::<16>();
    let chunks = &mut chunks[start / 16..end.div_ceil(16)];
    for x in chunks.iter_mut() {
        let score = s.mul(s.load(x), scale);
        let score = match shape.softcap {
            Some(cap) => math::softcap(s, score, cap),
            None => score,
        };
        s.store(score, x);
    }
    let max = match shape.softcap {
        Some(cap) if cap <= BOUNDED => 0.0,
        _ => {
            let scores = p[start..end].iter();
            scores.fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
        }
    };
    let (chunks, _) = p.as_chunks_mut::<16>();
    for x in &mut chunks[start / 16..end.div_ceil(16)] {
        s.store(math::exp(s, s.sub(s.load(x), s.splat(max))), x);
    }
    p[..start].fill(0.0);
    p[end..].fill(0.0);
    let mut sum = s.splat(0.0);
    for x in p.as_chunks::<16>().0 {
        sum = s.add(sum, s.load(x));
    }
    (max, s.sum(sum))
}

/// Width of a head in whole units.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(UNIT)
}

impl Partial {
    /// Makes it the sum of no spans.
    pub fn clear(&mut self) {
        self.denominators.clear();
    }

    /// Adds the result of another span. Spans have to come in order.
    pub fn add(&mut self, next: &Partial) {
        let queries = next.denominators.len();
        if self.denominators.is_empty() {
            self.denominators.clone_from(&next.denominators);
            self.max.clone_from(&next.max);
            self.sums.clone_from(&next.sums);
            return;
        }
        let width = self.sums.len() / queries;
        let rows = self.sums.chunks_exact_mut(width).zip(next.sums.chunks_exact(width));
        for (i, (sums, next_sums)) in rows.enumerate() {
            if next.denominators[i] == 0.0 {
                continue;
            }
            let max = self.max[i].max(next.max[i]);
            let mut factors = [1.0; 2];
            if max != self.max[i] || max != next.max[i] {
                factors = [self.max[i], next.max[i]].map(|m| (m - max).exp());
            }
            let [old, new] = factors;
            self.max[i] = max;
            self.denominators[i] = self.denominators[i] * old + next.denominators[i] * new;
            for (sum, next) in sums.iter_mut().zip(next_sums) {
                *sum = *sum * old + next * new;
            }
        }
    }

    /// Writes the weighted means, by position `[group * head_dim]`.
    pub fn write(&self, out: &mut [&mut [f32]], head_dim: usize) {
        let width = padded(head_dim);
        let heads = out.iter_mut().flat_map(|out| out.chunks_exact_mut(head_dim));
        let queries = self.sums.chunks_exact(width).zip(&self.denominators);
        for (out, (sums, denominator)) in heads.zip(queries) {
            let factor = 1.0 / denominator;
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
        }
    }
}
