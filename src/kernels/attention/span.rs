//! A few queries × the keys and values of one span.

use std::ops::Range;

use super::cache::{padded, Element};
use super::{Attention, SPAN};
use crate::kernels::isa::{Op, Simd};
use crate::kernels::math;

/// Queries and the span that they meet.
pub struct Span<'a, E> {
    pub shape: &'a Attention,
    /// The position of the first queries.
    pub pos: usize,
    /// By position, the queries of one group, `[group * head_dim]`.
    pub q: &'a [&'a [f32]],
    /// `[positions, padded head_dim]`
    pub k: &'a [E],
    /// `[positions, padded head_dim]`
    pub v: &'a [E],
    /// The first position of the span.
    pub at: usize,
}

/// What one span gives, or several: numerators and denominators of the weighted means.
#[derive(Debug, Default)]
pub struct Partial {
    /// Σ exp(score - max), `[queries]`.
    denominators: Vec<f32>,
    /// The largest score, or 0 where scores are bounded, `[queries]`.
    max: Vec<f32>,
    /// Σ exp(score - max) · v, `[queries, padded head_dim]`.
    sums: Vec<f32>,
    /// Of the span in the making: queries, `[queries, padded head_dim]`.
    q: Vec<f32>,
    /// Of the span in the making: scores, then their exponentials, `[queries, SPAN]`.
    p: Vec<f32>,
}

/// The most that scores may be squashed to for exp to need no maximum taken off: sums of 2^23 of
/// them are finite, and the smallest still normal.
const BOUNDED: f32 = 64.0;

impl<'a, E: Element> Span<'a, E> {
    /// The computation, which overwrites `partial`.
    pub fn into_op(self, partial: &'a mut Partial) -> impl Op<Out = ()> + 'a {
        SpanOp { span: self, to: partial }
    }
}

struct SpanOp<'a, E> {
    span: Span<'a, E>,
    to: &'a mut Partial,
}

impl<E: Element> Op for SpanOp<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { span, to } = self;
        let (d, width) = (span.shape.head_dim, padded(span.shape.head_dim));
        let queries = span.q.len() * (span.q[0].len() / d);
        // What some query sees of the span.
        let last = span.pos + span.q.len() - 1;
        let end = (last + 1).min(span.at + SPAN);
        let begin = span.shape.seen(span.pos).start.max(span.at);
        let keys = begin..end;
        let Partial { denominators, max, sums, q, p } = to;
        q.clear();
        for row in span.q {
            for head in row.chunks_exact(d) {
                q.extend_from_slice(head);
                q.resize(q.len().next_multiple_of(width), 0.0);
            }
        }
        p.resize(queries * SPAN, 0.0);
        scores(s, q, &span.k[..end * width], width, keys.clone(), span.at, p);
        denominators.clear();
        max.clear();
        let group = queries / span.q.len();
        for (i, p) in p.chunks_exact_mut(SPAN).enumerate() {
            let seen = span.shape.seen(span.pos + i / group);
            let first = seen.start.clamp(keys.start, keys.end) - span.at;
            let end = seen.end.clamp(keys.start, keys.end) - span.at;
            let (largest, sum) = exponentials(s, span.shape, p, first..end.max(first));
            max.push(largest);
            denominators.push(sum);
        }
        sums.clear();
        sums.resize(queries * width, 0.0);
        weighted(s, p, &span.v[..end * width], width, keys, span.at, sums);
    }
}

/// Calls `$tile` with a number of queries, and of keys or of a value's registers to meet them, whose
/// products fill the registers: many queries where there are many, so that each key or value is
/// loaded and widened once for all of them.
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

/// How far ahead of its use the cache is asked for, in bytes, where few queries meet it and memory is
/// what is waited for.
const AHEAD: usize = 4096;

/// Asks for `count` elements from [`AHEAD`] behind the beginning of `x` on.
#[inline(always)]
fn prefetch<S: Simd, T>(s: S, x: &[T], count: usize) {
    let at = x.as_ptr().cast::<u8>().wrapping_add(AHEAD);
    for line in (0..count * size_of::<T>()).step_by(64) {
        s.prefetch(at.wrapping_add(line));
    }
}

/// `p[i][j - at] = q[i] · k[j]`
#[inline(always)]
fn scores<S: Simd, E: Element>(
    s: S,
    q: &[f32],
    k: &[E],
    width: usize,
    keys: Range<usize>,
    at: usize,
    p: &mut [f32],
) {
    macro_rules! tile {
        ($n:literal, $with:literal, $first:expr) => {{
            let (q, p) = (&q[$first * width..], &mut p[$first * SPAN..]);
            score_row::<S, E, $n, $with>(s, q, k, width, &keys, at, p);
        }};
    }
    in_tiles!(S, q.len() / width, tile);
}

/// `Q` queries × all keys, `K` at a time.
#[inline(always)]
fn score_row<S: Simd, E: Element, const Q: usize, const K: usize>(
    s: S,
    q: &[f32],
    k: &[E],
    width: usize,
    keys: &Range<usize>,
    at: usize,
    p: &mut [f32],
) {
    let whole = keys.start + keys.len() / K * K;
    for j in (keys.start..whole).step_by(K) {
        if Q <= 2 {
            prefetch(s, &k[j * width..], K * width);
        }
        score_tile::<S, E, Q, K>(s, q, &k[j * width..], width, &mut p[j - at..]);
    }
    for j in whole..keys.end {
        score_tile::<S, E, Q, 1>(s, q, &k[j * width..], width, &mut p[j - at..]);
    }
}

#[inline(always)]
fn score_tile<S: Simd, E: Element, const Q: usize, const K: usize>(
    s: S,
    q: &[f32],
    k: &[E],
    width: usize,
    p: &mut [f32],
) {
    let (q, k) = (q.as_chunks::<16>().0, k.as_chunks::<16>().0);
    let steps = width / 16;
    let (q, k) = (&q[..Q * steps], &k[..K * steps]);
    let mut sums = [[s.splat(0.0); K]; Q];
    for step in 0..steps {
        let mut keys = [s.splat(0.0); K];
        for j in 0..K {
            keys[j] = E::load(s, &k[j * steps + step]);
        }
        for i in 0..Q {
            let q = s.load(&q[i * steps + step]);
            for j in 0..K {
                sums[i][j] = s.add(sums[i][j], s.mul(q, keys[j]));
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

/// Turns the scores of one query into exponentials, 0 outside of `seen`, and gives what was taken
/// off the scores and their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, shape: &Attention, p: &mut [f32], seen: Range<usize>) -> (f32, f32) {
    let end = seen.end;
    p[..seen.start].fill(0.0);
    p[end..].fill(0.0);
    let scale = s.splat(shape.scale);
    let (chunks, _) = p.as_chunks_mut::<16>();
    let chunks = &mut chunks[seen.start / 16..end.div_ceil(16)];
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
            let scores = p[seen.start..end].iter();
            scores.fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
        }
    };
    let (chunks, _) = p.as_chunks_mut::<16>();
    for x in &mut chunks[seen.start / 16..end.div_ceil(16)] {
        s.store(math::exp(s, s.sub(s.load(x), s.splat(max))), x);
    }
    p[..seen.start].fill(0.0);
    p[end..].fill(0.0);
    let mut sum = s.splat(0.0);
    for x in p.as_chunks::<16>().0 {
        sum = s.add(sum, s.load(x));
    }
    (max, s.sum(sum))
}

/// `sums[i] = Σ p[i][j - at] · v[j]`, from the first key to the last.
#[inline(always)]
fn weighted<S: Simd, E: Element>(
    s: S,
    p: &[f32],
    v: &[E],
    width: usize,
    keys: Range<usize>,
    at: usize,
    sums: &mut [f32],
) {
    macro_rules! tile {
        ($n:literal, $with:literal, $first:expr) => {{
            let (p, sums) = (&p[$first * SPAN..], &mut sums[$first * width..]);
            weighted_row::<S, E, $n, $with>(s, p, v, width, &keys, at, sums);
        }};
    }
    in_tiles!(S, sums.len() / width, tile);
}

/// `Q` queries × all registers of a head's width, `D` at a time.
#[inline(always)]
fn weighted_row<S: Simd, E: Element, const Q: usize, const D: usize>(
    s: S,
    p: &[f32],
    v: &[E],
    width: usize,
    keys: &Range<usize>,
    at: usize,
    sums: &mut [f32],
) {
    let registers = width / 16;
    let whole = registers / D * D;
    for first in (0..whole).step_by(D) {
        weighted_tile::<S, E, Q, D>(s, p, v, registers, keys, at, first, sums);
    }
    for first in whole..registers {
        weighted_tile::<S, E, Q, 1>(s, p, v, registers, keys, at, first, sums);
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn weighted_tile<S: Simd, E: Element, const Q: usize, const D: usize>(
    s: S,
    p: &[f32],
    v: &[E],
    registers: usize,
    keys: &Range<usize>,
    at: usize,
    first: usize,
    sums: &mut [f32],
) {
    let rows = v.as_chunks::<16>().0[keys.start * registers..].chunks_exact(registers);
    let p = &p[..Q * SPAN];
    let mut tile = [[s.splat(0.0); D]; Q];
    for (j, row) in (keys.start - at..keys.end - at).zip(rows) {
        if Q <= 2 && first == 0 {
            prefetch(s, row, registers);
        }
        let row = &row[first..first + D];
        let mut v = [s.splat(0.0); D];
        for d in 0..D {
            v[d] = E::load(s, &row[d]);
        }
        for i in 0..Q {
            let p = s.splat(p[i * SPAN + j]);
            for d in 0..D {
                tile[i][d] = s.add(tile[i][d], s.mul(p, v[d]));
            }
        }
    }
    let sums = sums.as_chunks_mut::<16>().0;
    for i in 0..Q {
        for d in 0..D {
            s.store(tile[i][d], &mut sums[i * registers + first + d]);
        }
    }
}

impl Partial {
    /// Nothing yet.
    pub fn clear(&mut self) {
        self.denominators.clear();
    }

    /// Adds another span's part, in the order of spans.
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

    /// Writes the means, by position `[group * head_dim]`.
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
