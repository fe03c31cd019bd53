//! Tiles of queries × keys, and of queries × values, whose sums fill the registers.

use std::ops::Range;

use super::unit::{Unit, Wide, UNIT};
use super::SPAN;
use crate::kernels::isa::Simd;

/// Units that many queries meet together: widened once, and small enough for the first-level cache.
const BLOCK: usize = 128;

/// From so many queries on, keys and values are widened for all of them.
const MANY: usize = 8;

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
fn prefetch<S: Simd, U: Unit>(s: S, x: &[U]) {
    let at = x.as_ptr().cast::<u8>().wrapping_add(AHEAD);
    for line in (0..size_of_val(x)).step_by(64) {
        s.prefetch(at.wrapping_add(line));
    }
}

/// `p[i][j] = q[i] · k[j]`
#[inline(always)]
pub fn scores<S: Simd, U: Unit>(
    s: S,
    q: &[Wide],
    k: &[U],
    units: usize,
    keys: Range<usize>,
    widened: &mut Vec<Wide>,
    p: &mut [f32],
) {
    let queries = q.len() / units;
    macro_rules! rows_of {
        ($k:expr, $at:expr) => {{
            let k = $k;
            macro_rules! tile {
                ($n:literal, $with:literal, $first:expr) => {{
                    let (q, p) = (&q[$first * units..], &mut p[$first * SPAN + $at..]);
                    score_row::<S, _, $n, $with>(s, q, k, units, p);
                }};
            }
            in_tiles!(S, queries, tile);
        }};
    }
    if queries < MANY {
        return rows_of!(&k[keys.start * units..keys.end * units], keys.start);
    }
    let together = (BLOCK / units).max(1);
    for at in keys.clone().step_by(together) {
        widened.clear();
        for key in &k[at * units..keys.end.min(at + together) * units] {
            s.prefetch((&raw const *key).wrapping_add(together * units).cast());
            widened.push(Wide::of(s, key));
        }
        rows_of!(&widened[..], at);
    }
}

/// `Q` queries × all keys, `K` at a time.
#[inline(always)]
fn score_row<S: Simd, U: Unit, const Q: usize, const K: usize>(
    s: S,
    q: &[Wide],
    k: &[U],
    units: usize,
    p: &mut [f32],
) {
    let keys = k.len() / units;
    let whole = keys / K * K;
    for j in (0..whole).step_by(K) {
        let k = &k[j * units..][..K * units];
        if U::FROM_MEMORY {
            prefetch(s, k);
        }
        score_tile::<S, U, Q, K>(s, q, k, units, &mut p[j..]);
    }
    for j in whole..keys {
        score_tile::<S, U, Q, 1>(s, q, &k[j * units..][..units], units, &mut p[j..]);
    }
}

#[inline(always)]
fn score_tile<S: Simd, U: Unit, const Q: usize, const K: usize>(
    s: S,
    q: &[Wide],
    k: &[U],
    units: usize,
    p: &mut [f32],
) {
    // Rows of one length and a known end, so that no index has to be checked in the loop.
    let (q, k) = (rows::<_, Q>(q, units), rows::<_, K>(k, units));
    let p = &mut p[..(Q - 1) * SPAN + K];
    let mut sums = [[s.splat(0.0); K]; Q];
    for unit in 0..units {
        for half in 0..2 {
            let mut keys = [s.splat(0.0); K];
            for j in 0..K {
                keys[j] = k[j][unit].load(s, half);
            }
            for i in 0..Q {
                let q = q[i][unit].load(s, half);
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

/// `sums[i] = Σ p[i][j] · v[j]`, from the first key to the last.
#[inline(always)]
pub fn weighted<S: Simd, U: Unit>(
    s: S,
    p: &[f32],
    v: &[U],
    units: usize,
    keys: Range<usize>,
    widened: &mut Vec<Wide>,
    sums: &mut [f32],
) {
    let queries = sums.len() / (units * UNIT);
    let sums = sums.as_chunks_mut::<UNIT>().0;
    if queries < MANY {
        let v = &v[keys.start * units..keys.end * units];
        macro_rules! tile {
            ($n:literal, $with:literal, $first:expr) => {{
                let (p, sums) = (&p[$first * SPAN + keys.start..], &mut sums[$first * units..]);
                weighted_row::<S, U, $n, { $with / 2 }>(s, p, v, units, sums);
            }};
        }
        in_tiles!(S, queries, tile);
        return;
    }
    for at in keys.clone().step_by(BLOCK) {
        let v = &v[at * units..keys.end.min(at + BLOCK) * units];
        for unit in 0..units {
            widened.clear();
            for row in v.chunks_exact(units) {
                // The last byte of the next one, which may begin on the line where this one ends.
                s.prefetch((&raw const row[unit]).wrapping_add(2).cast::<u8>().wrapping_sub(1));
                widened.push(Wide::of(s, &row[unit]));
            }
            macro_rules! tile {
                ($n:literal, $with:literal, $first:expr) => {{
                    let (p, sums) = (&p[$first * SPAN + at..], &mut sums[$first * units + unit..]);
                    weighted_tile::<S, _, $n, 1>(s, p, widened, 1, sums, units);
                }};
            }
            in_tiles!(S, queries, tile);
        }
    }
}

/// `Q` queries × all units of a head, `D` at a time.
#[inline(always)]
fn weighted_row<S: Simd, U: Unit, const Q: usize, const D: usize>(
    s: S,
    p: &[f32],
    v: &[U],
    units: usize,
    sums: &mut [[f32; UNIT]],
) {
    let whole = units / D * D;
    for first in (0..whole).step_by(D) {
        weighted_tile::<S, U, Q, D>(s, p, &v[first..], units, &mut sums[first..], units);
    }
    for first in whole..units {
        weighted_tile::<S, U, Q, 1>(s, p, &v[first..], units, &mut sums[first..], units);
    }
}

/// `Q` queries × the first `D` units of rows with `stride` units, which are added to those of `sums`
/// in rows of `width`. A last row may end after them.
#[inline(always)]
fn weighted_tile<S: Simd, U: Unit, const Q: usize, const D: usize>(
    s: S,
    p: &[f32],
    v: &[U],
    stride: usize,
    sums: &mut [[f32; UNIT]],
    width: usize,
) {
    let n = v.len().div_ceil(stride);
    let mut p_rows = [p; Q];
    for i in 0..Q {
        p_rows[i] = &p[i * SPAN..][..n];
    }
    let sums = &mut sums[..(Q - 1) * width + D];
    let mut tile = [[[s.splat(0.0); 2]; D]; Q];
    for i in 0..Q {
        for d in 0..D {
            let sums = sums[i * width + d].as_chunks().0;
            tile[i][d] = [s.load(&sums[0]), s.load(&sums[1])];
        }
    }
    for j in 0..n {
        let row = &v[j * stride..][..D];
        if U::FROM_MEMORY {
            prefetch(s, row);
        }
        let mut v = [[s.splat(0.0); 2]; D];
        for d in 0..D {
            v[d] = [row[d].load(s, 0), row[d].load(s, 1)];
        }
        for i in 0..Q {
            let p = s.splat(p_rows[i][j]);
            for d in 0..D {
                for half in 0..2 {
                    tile[i][d][half] = s.add(tile[i][d][half], s.mul(p, v[d][half]));
                }
            }
        }
    }
    for i in 0..Q {
        for d in 0..D {
            let sums = sums[i * width + d].as_chunks_mut().0;
            s.store(tile[i][d][0], &mut sums[0]);
            s.store(tile[i][d][1], &mut sums[1]);
        }
    }
}

/// The first `N` rows of `width` elements.
#[inline(always)]
fn rows<T, const N: usize>(x: &[T], width: usize) -> [&[T]; N] {
    let mut rows = [x; N];
    for i in 0..N {
        rows[i] = &x[i * width..][..width];
    }
    rows
}
