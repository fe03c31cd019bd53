//! A few queries × the keys and values of one span.

use std::ops::Range;

use super::unit::{Unit, UNIT};
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
    /// The queries of the span that is being computed, `[queries, padded head_dim]`.
    q: Vec<f32>,
    /// The scores of that span and then their exponentials, `[queries, SPAN]`.
    p: Vec<f32>,
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
        let Partial { denominators, max, sums, q, p } = to;
        q.clear();
        for row in span.q {
            for head in row.chunks_exact(d) {
                q.extend_from_slice(head);
                q.resize(q.len().next_multiple_of(width), 0.0);
            }
        }
        p.resize(queries * SPAN, 0.0);
        scores(s, q, span.k, width / UNIT, keys.clone(), p);
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
        weighted(s, p, span.v, width / UNIT, keys, sums);
    }
}

/// Covers all queries with tiles: `$tile` gets a number of queries, a number of keys (or of registers
/// of a value) and the first query. The sums of a tile fill the registers. Tiles have many queries if
/// there are many, so that each key or value is loaded and widened once for all of them.
macro_rules! in_tiles {
    ($s:ty, $queries:expr, $tile:ident) => {
        let mut first = 0;
        while first < $queries {
            match $queries - first {
                8.. if <$s>::FLOATS >= 32 => {
                    $tile!(8, 2, first);
                    first += 8;
                }
                2.. if <$s>::FLOATS >= 32 => {
                    $tile!(2, 8, first);
                    first += 2;
                }
                2.. => {
                    $tile!(2, 2, first);
                    first += 2;
                }
                _ => {
                    $tile!(1, 4, first);
                    first += 1;
                }
            }
        }
    };
}

/// How far ahead of its use the cache is prefetched, in bytes, where there are few queries and memory
/// is the limit.
const AHEAD: usize = 4096;

/// Prefetches as many bytes as `x` has, [`AHEAD`] bytes after it.
#[inline(always)]
fn prefetch<S: Simd, T>(s: S, x: &[T]) {
    let at = x.as_ptr().cast::<u8>().wrapping_add(AHEAD);
    for line in (0..size_of_val(x)).step_by(64) {
        s.prefetch(at.wrapping_add(line));
    }
}

/// `p[i][j] = q[i] · k[j]`
#[inline(always)]
fn scores<S: Simd, U: Unit>(
    s: S,
    q: &[f32],
    k: &[U],
    units: usize,
    keys: Range<usize>,
    p: &mut [f32],
) {
    macro_rules! tile {
        ($n:literal, $with:literal, $first:expr) => {{
            let (q, p) = (&q[$first * units * UNIT..], &mut p[$first * SPAN..]);
            score_row::<S, U, $n, $with>(s, q, k, units, &keys, p);
        }};
    }
    in_tiles!(S, q.len() / (units * UNIT), tile);
}

/// `Q` queries × all keys, `K` at a time.
#[inline(always)]
fn score_row<S: Simd, U: Unit, const Q: usize, const K: usize>(
    s: S,
    q: &[f32],
    k: &[U],
    units: usize,
    keys: &Range<usize>,
    p: &mut [f32],
) {
    let whole = keys.start + keys.len() / K * K;
    for j in (keys.start..whole).step_by(K) {
        let k = &k[j * units..][..K * units];
        if Q <= 2 {
            prefetch(s, k);
        }
        score_tile::<S, U, Q, K>(s, q, k, units, &mut p[j..]);
    }
    for j in whole..keys.end {
        score_tile::<S, U, Q, 1>(s, q, &k[j * units..][..units], units, &mut p[j..]);
    }
}

#[inline(always)]
fn score_tile<S: Simd, U: Unit, const Q: usize, const K: usize>(
    s: S,
    q: &[f32],
    k: &[U],
    units: usize,
    p: &mut [f32],
) {
    let (q, k) = (&q.as_chunks::<16>().0[..Q * 2 * units], &k[..K * units]);
    let mut sums = [[s.splat(0.0); K]; Q];
    for unit in 0..units {
        for half in 0..2 {
            let mut keys = [s.splat(0.0); K];
            for j in 0..K {
                keys[j] = k[j * units + unit].load(s, half);
            }
            for i in 0..Q {
                let q = s.load(&q[(i * units + unit) * 2 + half]);
                for j in 0..K {
                    sums[i][j] = s.add(sums[i][j], s.mul(q, keys[j]));
                }
            }
        }
    }
    for i in 0..Q {
        if K.is_multiple_of(4) {
            for j in (0..K).step_by(4) {
                let sums = &sums[i];
                let four = [sums[j], sums[j + 1], sums[j + 2], sums[j + 3]];
                p[i * SPAN + j..][..4].copy_from_slice(&s.sum_each(four));
            }
        } else if K == 2 && Q.is_multiple_of(2) {
            if i % 2 == 0 {
                let [a, b] = [&sums[i], &sums[i + 1]];
                let [a, b, c, d] = s.sum_each([a[0], a[1], b[0], b[1]]);
                p[i * SPAN..][..2].copy_from_slice(&[a, b]);
                p[(i + 1) * SPAN..][..2].copy_from_slice(&[c, d]);
            }
        } else {
            for j in 0..K {
                p[i * SPAN + j] = s.sum(sums[i][j]);
            }
        }
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

/// `sums[i] = Σ p[i][j] · v[j]`, from the first key to the last.
#[inline(always)]
fn weighted<S: Simd, U: Unit>(
    s: S,
    p: &[f32],
    v: &[U],
    units: usize,
    keys: Range<usize>,
    sums: &mut [f32],
) {
    macro_rules! tile {
        ($n:literal, $with:literal, $first:expr) => {{
            let (p, sums) = (&p[$first * SPAN..], &mut sums[$first * units * UNIT..]);
            weighted_row::<S, U, $n, { $with / 2 }>(s, p, v, units, &keys, sums);
        }};
    }
    in_tiles!(S, sums.len() / (units * UNIT), tile);
}

/// `Q` queries × all units of a head, `D` at a time.
#[inline(always)]
fn weighted_row<S: Simd, U: Unit, const Q: usize, const D: usize>(
    s: S,
    p: &[f32],
    v: &[U],
    units: usize,
    keys: &Range<usize>,
    sums: &mut [f32],
) {
    let whole = units / D * D;
    for first in (0..whole).step_by(D) {
        weighted_tile::<S, U, Q, D>(s, p, v, units, keys, first, sums);
    }
    for first in whole..units {
        weighted_tile::<S, U, Q, 1>(s, p, v, units, keys, first, sums);
    }
}

#[inline(always)]
fn weighted_tile<S: Simd, U: Unit, const Q: usize, const D: usize>(
    s: S,
    p: &[f32],
    v: &[U],
    units: usize,
    keys: &Range<usize>,
    first: usize,
    sums: &mut [f32],
) {
    let rows = v[keys.start * units..].chunks_exact(units);
    let p = &p[..Q * SPAN];
    let mut tile = [[[s.splat(0.0); 2]; D]; Q];
    for (j, row) in keys.clone().zip(rows) {
        if Q <= 2 && first == 0 {
            prefetch(s, row);
        }
        let row = &row[first..first + D];
        let mut v = [[s.splat(0.0); 2]; D];
        for d in 0..D {
            v[d] = [row[d].load(s, 0), row[d].load(s, 1)];
        }
        for i in 0..Q {
            let p = s.splat(p[i * SPAN + j]);
            for d in 0..D {
                for half in 0..2 {
                    tile[i][d][half] = s.add(tile[i][d][half], s.mul(p, v[d][half]));
                }
            }
        }
    }
    let sums = sums.as_chunks_mut::<16>().0;
    for i in 0..Q {
        for d in 0..D {
            for half in 0..2 {
                s.store(tile[i][d][half], &mut sums[(i * units + first + d) * 2 + half]);
            }
        }
    }
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
