//! Rows × few columns: a row's blocks are read once, in the order of the file.

use lapidary_formats::quant::Block;

use super::Matrix;
use crate::kernels::activations::QuantizedRows;
use crate::kernels::isa::{IntOp, SimdInt};
use crate::kernels::unpack::{Block32, Codes, KBlock, Rule, Unpacked};

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
    qs: &'a [[[u8; 64]; 4]],
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
        let qs: &[[[u8; 64]; 4]] = bytemuck::cast_slice(&x.qs);
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
    // Written out, so that the sums stay in registers.
    macro_rules! block {
        ($($b:literal)*) => { $( if $b < B {
            let b = $b;
            prefetch(s, &w[b]);
            let u = w[b].unpack(s);
            let bits = w[b].scales_of_scales();
            (d[b], dmin[b]) = (s.half(bits.0), s.half(bits.1));
            for c in 0..N {
                (p[c][b], m[c][b]) = block_k::<S, T>(s, &u, &x[c].qs[at + b], &x[c].bsums[at + b]);
            }
        } )* };
    }
    block!(0 1 2 3);
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

/// The integers of a block: `(p, m)`, each the sum of its lanes.
#[inline(always)]
fn block_k<S: SimdInt, T: KBlock>(
    s: S,
    u: &Unpacked<S>,
    q: &[[u8; 64]; 4],
    bsums: &[i16; 16],
) -> (S::I, S::I) {
    let mut sum = s.zero();
    macro_rules! add {
        ($($k:literal)*) => { $(
            let pairs = s.pairs(u.q[$k], s.load_bytes(&q[$k]));
            sum = s.add_products(sum, pairs, s.scale::<$k>(u.scales));
        )* };
    }
    add!(0 1 2 3);
    match T::RULE {
        Rule::Affine => (sum, s.add_mins(s.zero(), u.mins, bsums)),
        Rule::Symmetric => (s.add_mins(sum, u.mins, bsums), s.zero()),
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
        prefetch(s, w);
        let q = x.qs[4 * i..].first_chunk().expect("columns are as long as rows");
        let p = products_32(s, w, q);
        for b in 0..4 {
            total += product_32(s, &w[b], x, 4 * i + b, p[b]);
        }
    }
    for (i, w) in rest.iter().enumerate() {
        let at = 4 * quads.len() + i;
        let p = products_32(s, &[*w; 4], &[x.qs[at]; 4]);
        total += product_32(s, w, x, at, p[0]);
    }
    total
}

/// Σ code · activation of four blocks.
#[inline(always)]
fn products_32<S: SimdInt, T: Block32>(s: S, w: &[T; 4], q: &[[u8; 32]; 4]) -> [i32; 4] {
    let codes = [T::codes(s, &w[0], &w[1]), T::codes(s, &w[2], &w[3])];
    let q = [s.load_halves(&q[0], &q[1]), s.load_halves(&q[2], &q[3])];
    s.half_sums(match T::CODES {
        Codes::Offset(_) => [s.dot(codes[0], q[0]), s.dot(codes[1], q[1])],
        Codes::Signed => [s.dot_signed(codes[0], q[0]), s.dot_signed(codes[1], q[1])],
    })
}

/// The product of a block and the column's block `at`, from the codes' products `p`.
#[inline(always)]
fn product_32<S: SimdInt, T: Block32>(s: S, w: &T, x: Column32, at: usize, p: i32) -> f32 {
    let (a, sum) = (x.d[at], x.sums[at]);
    let p = match T::CODES {
        Codes::Offset(offset) => p - i32::from(offset) * sum,
        Codes::Signed => p,
    };
    let scaled = s.half(w.d()) * (a * p as f32);
    if T::HAS_M {
        scaled + s.half(w.m()) * (a * sum as f32)
    } else {
        scaled
    }
}
