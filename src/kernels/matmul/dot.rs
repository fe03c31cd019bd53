//! Rows × few columns: a row's blocks are read once, in the order of the file.

use lapidary_formats::quant::Block;

use super::Matrix;
use crate::kernels::activations::QuantizedRows;
use crate::kernels::isa::{IntOp, SimdInt};
use crate::kernels::unpack::{Block32, Codes, KBlock, Rule};

/// How far ahead of its use a row's memory is asked for, in bytes. Runs on into the next rows.
const AHEAD: usize = 4096;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for what will be read in a while, when `block` is.
#[inline(always)]
fn prefetch<S: SimdInt, T>(s: S, block: &T) {
    let at = std::ptr::from_ref(block).cast::<u8>().wrapping_add(AHEAD);
    for line in 0..size_of::<T>().div_ceil(LINE) {
        s.prefetch(at.wrapping_add(line * LINE));
    }
}

/// A part of a matrix, and the columns it meets.
struct Rows<'a, 'o, T> {
    w: &'a [T],
    /// Blocks of a row.
    blocks: usize,
    x: &'a QuantizedRows,
    /// By column, `[rows]` each.
    out: &'a mut [&'o mut [f32]],
}

impl<'a, 'o, T: Block> Rows<'a, 'o, T> {
    fn new(w: &Matrix<'a>, x: &'a QuantizedRows, out: &'a mut [&'o mut [f32]]) -> Self {
        Self { w: bytemuck::cast_slice(w.data), blocks: w.cols / T::LEN, x, out }
    }
}

/// Rows of a k-quant.
pub struct DotK<'a, 'o, T>(Rows<'a, 'o, T>);

/// Rows of a type with blocks of 32.
pub struct Dot32<'a, 'o, T>(Rows<'a, 'o, T>);

impl<'a, 'o, T: KBlock> DotK<'a, 'o, T> {
    pub fn new(w: &Matrix<'a>, x: &'a QuantizedRows, out: &'a mut [&'o mut [f32]]) -> Self {
        Self(Rows::new(w, x, out))
    }
}

impl<'a, 'o, T: Block32> Dot32<'a, 'o, T> {
    pub fn new(w: &Matrix<'a>, x: &'a QuantizedRows, out: &'a mut [&'o mut [f32]]) -> Self {
        Self(Rows::new(w, x, out))
    }
}

/// A column in Q8_K, by block.
#[derive(Clone, Copy)]
struct ColumnK<'a> {
    qs: &'a [[[u8; 32]; 8]],
    bsums: &'a [[i16; 16]],
    d: &'a [f32],
}

/// A column in Q8_0, by block.
#[derive(Clone, Copy)]
struct Column32<'a> {
    qs: &'a [[u8; 32]],
    sums: &'a [i32],
    d: &'a [f32],
}

impl<T: KBlock> IntOp for DotK<'_, '_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) {
        let Rows { w, blocks, x, out } = self.0;
        let qs = x.qs.as_chunks::<8>().0;
        let column = |t: usize| {
            let range = t * blocks..(t + 1) * blocks;
            ColumnK { qs: &qs[range.clone()], bsums: &x.bsums[range.clone()], d: &x.d[range] }
        };
        for (r, w) in w.chunks_exact(blocks).enumerate() {
            let mut t = 0;
            while t < out.len() {
                if out.len() - t >= 2 {
                    let y = row_k(s, w, [column(t), column(t + 1)]);
                    out[t][r] = y[0];
                    out[t + 1][r] = y[1];
                    t += 2;
                } else {
                    out[t][r] = row_k(s, w, [column(t)])[0];
                    t += 1;
                }
            }
        }
    }
}

#[inline(always)]
fn row_k<S: SimdInt, T: KBlock, const N: usize>(s: S, w: &[T], x: [ColumnK; N]) -> [f32; N] {
    let mut total = [0.0; N];
    let (quads, rest) = w.as_chunks::<4>();
    for (i, w) in quads.iter().enumerate() {
        blocks_k(s, w, &x, 4 * i, &mut total);
    }
    for (i, w) in rest.iter().enumerate() {
        blocks_k(s, std::array::from_ref(w), &x, 4 * quads.len() + i, &mut total);
    }
    total
}

/// Adds the products of `B` blocks from `at` on, `B` at most 4, whose sums are formed together.
#[inline(always)]
fn blocks_k<S: SimdInt, T: KBlock, const N: usize, const B: usize>(
    s: S,
    w: &[T; B],
    x: &[ColumnK; N],
    at: usize,
    total: &mut [f32; N],
) {
    let (mut p, mut m) = ([[s.zero(); 4]; N], [[s.zero(); 4]; N]);
    let (mut d, mut dmin) = ([0.0; 4], [0.0; 4]);
    for b in 0..B {
        prefetch(s, &w[b]);
        let u = w[b].unpack(s);
        let bits = w[b].scales_of_scales();
        (d[b], dmin[b]) = (s.half(bits.0), s.half(bits.1));
        for c in 0..N {
            let q = &x[c].qs[at + b];
            let mut sum = s.zero();
            macro_rules! add {
                ($($k:literal)*) => { $(
                    let pairs = s.pairs(u.q[$k], s.load_bytes(&q[$k]));
                    sum = s.add_products(sum, pairs, s.splat_in_halves::<$k>(u.scales));
                )* };
            }
            add!(0 1 2 3 4 5 6 7);
            let bsums = s.load_words(&x[c].bsums[at + b]);
            match T::RULE {
                Rule::Affine => m[c][b] = s.add_products(s.zero(), u.mins, bsums),
                Rule::Symmetric => sum = s.add_products(sum, u.mins, bsums),
            }
            p[c][b] = sum;
        }
    }
    for c in 0..N {
        let p = s.sums(p[c]);
        let m = if T::RULE == Rule::Affine { s.sums(m[c]) } else { [0; 4] };
        for b in 0..B {
            let a = x[c].d[at + b];
            total[c] += match T::RULE {
                Rule::Affine => a * (d[b] * p[b] as f32 - dmin[b] * m[b] as f32),
                Rule::Symmetric => a * d[b] * p[b] as f32,
            };
        }
    }
}

impl<T: Block32> IntOp for Dot32<'_, '_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) {
        let Rows { w, blocks, x, out } = self.0;
        for (r, w) in w.chunks_exact(blocks).enumerate() {
            for (t, out) in out.iter_mut().enumerate() {
                let range = t * blocks..(t + 1) * blocks;
                let (qs, sums) = (&x.qs[range.clone()], &x.sums[range.clone()]);
                out[r] = row_32(s, w, Column32 { qs, sums, d: &x.d[range] });
            }
        }
    }
}

#[inline(always)]
fn row_32<S: SimdInt, T: Block32>(s: S, w: &[T], x: Column32) -> f32 {
    let mut total = 0.0;
    let (quads, rest) = w.as_chunks::<4>();
    for (i, w) in quads.iter().enumerate() {
        blocks_32(s, w, x, 4 * i, &mut total);
    }
    for (i, w) in rest.iter().enumerate() {
        blocks_32(s, std::array::from_ref(w), x, 4 * quads.len() + i, &mut total);
    }
    total
}

#[inline(always)]
fn blocks_32<S: SimdInt, T: Block32, const B: usize>(
    s: S,
    w: &[T; B],
    x: Column32,
    at: usize,
    total: &mut f32,
) {
    prefetch(s, w);
    let ones = s.load_words(&[1; 16]);
    let mut p = [s.zero(); 4];
    for b in 0..B {
        let (codes, q) = (w[b].codes(s), s.load_bytes(&x.qs[at + b]));
        let pairs = match T::CODES {
            Codes::Offset(_) => s.pairs(codes, q),
            Codes::Signed => s.pairs_signed(codes, q),
        };
        p[b] = s.add_products(s.zero(), pairs, ones);
    }
    let p = s.sums(p);
    for b in 0..B {
        let (a, sum) = (x.d[at + b], x.sums[at + b]);
        let products = match T::CODES {
            Codes::Offset(offset) => p[b] - i32::from(offset) * sum,
            Codes::Signed => p[b],
        };
        let scaled = s.half(w[b].d()) * (a * products as f32);
        *total += if T::HAS_M { scaled + s.half(w[b].m()) * (a * sum as f32) } else { scaled };
    }
}
