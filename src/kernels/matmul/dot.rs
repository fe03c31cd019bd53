//! Rows × few columns: the blocks of a row are read once, in the order of the file.

use bytemuck::Zeroable;
use lapidary_formats::quant::Block;

use super::Matrix;
use crate::kernels::activations::{QuantizedRows, WRAPPED};
use crate::kernels::isa::{IntOp, SimdInt};
use crate::kernels::unpack::{Block32, Codes, KBlock, Rule};

/// How far ahead of their use weights are prefetched, in bytes; at the end of a row, from the next.
const AHEAD: usize = 4096;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Prefetches what lies [`AHEAD`] bytes after `block`.
#[inline(always)]
fn prefetch<S: SimdInt, T>(s: S, block: &T) {
    let at = std::ptr::from_ref(block).cast::<u8>().wrapping_add(AHEAD);
    for line in 0..size_of::<T>().div_ceil(LINE) {
        s.prefetch(at.wrapping_add(line * LINE));
    }
}

/// Some rows of a matrix, and the columns that they are multiplied with.
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

    /// Rows of `blocks` blocks `w`, which may be unpacked ones.
    pub fn of_blocks(
        w: &'a [T],
        blocks: usize,
        x: &'a QuantizedRows,
        out: &'a mut [&'o mut [f32]],
    ) -> Self {
        Self(Rows { w, blocks, x, out })
    }
}

impl<'a, 'o, T: Block32> Dot32<'a, 'o, T> {
    pub fn new(w: &Matrix<'a>, x: &'a QuantizedRows, out: &'a mut [&'o mut [f32]]) -> Self {
        Self(Rows::new(w, x, out))
    }
}

/// A column in Q8_K, by block. The first blocks follow once more after the last.
#[derive(Clone, Copy)]
struct ColumnK<'a> {
    qs: &'a [[[u8; 64]; 4]],
    bsums: &'a [[i16; 16]],
    pair_sums: &'a [[i16; 8]],
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
        let (stride, mut first) = (blocks + WRAPPED, 0);
        // With 32 registers, the sums of four columns stay in them.
        let together = if S::WIDE { 4 } else { 2 };
        for out in out.chunks_mut(together) {
            let column = |t: usize| ColumnK {
                qs: &qs[(first + t) * stride..][..stride],
                bsums: &x.bsums[(first + t) * stride..][..stride],
                pair_sums: &x.pair_sums[(first + t) * stride..][..stride],
                d: &x.d[(first + t) * stride..][..stride],
            };
            match out {
                [a, b, c, d] => {
                    let x = [column(0), column(1), column(2), column(3)];
                    rows_k(s, w, blocks, x, [a, b, c, d]);
                }
                [a, b, c] => {
                    rows_k(s, w, blocks, [column(0), column(1), column(2)], [a, b, c]);
                }
                [a, b] => rows_k(s, w, blocks, [column(0), column(1)], [a, b]),
                [a] => rows_k(s, w, blocks, [column(0)], [a]),
                _ => {}
            }
            first += together;
        }
    }
}

/// All rows × `N` columns. Blocks are taken four at a time, which may belong to two rows.
#[inline(always)]
fn rows_k<S: SimdInt, T: KBlock, const N: usize>(
    s: S,
    w: &[T],
    blocks: usize,
    x: [ColumnK; N],
    out: [&mut [f32]; N],
) {
    let (mut total, mut at, mut row) = ([0.0; N], 0, 0);
    macro_rules! add {
        ($products:expr, $count:literal) => {
            let products = $products;
            if at + $count < blocks {
                for c in 0..N {
                    for b in 0..$count {
                        total[c] += products[c][b];
                    }
                }
                at += $count;
                continue;
            }
            for b in 0..$count {
                for c in 0..N {
                    total[c] += products[c][b];
                }
                at += 1;
                if at == blocks {
                    for c in 0..N {
                        out[c][row] = total[c];
                    }
                    (total, at, row) = ([0.0; N], 0, row + 1);
                }
            }
        };
    }
    let (quads, rest) = w.as_chunks::<4>();
    for [a, b, c, d] in quads {
        add!(blocks_k::<S, T, N, 4>(s, [a, b, c, d], &x, at), 4);
    }
    for w in rest {
        add!(blocks_k::<S, T, N, 1>(s, [w; 4], &x, at), 1);
    }
}

/// The products of `B` blocks, 4 or 1, and the blocks of each column from `at` on. The headers of
/// four blocks are unpacked together, and their sums are formed together.
#[inline(always)]
fn blocks_k<S: SimdInt, T: KBlock, const N: usize, const B: usize>(
    s: S,
    w: [&T; 4],
    x: &[ColumnK; N],
    at: usize,
) -> [[f32; 4]; N] {
    let headers = T::headers(s, w);
    // Unrolled by hand, with the sums of two blocks in one register, so that they stay in registers.
    let mut sums = [[None; 2]; N];
    macro_rules! block {
        ($b:literal) => {{
            prefetch(s, w[$b]);
            let q = w[$b].codes(s);
            let mut sums = [None; N];
            for c in 0..N {
                let x = &x[c].qs[at + $b];
                sums[c] = Some(block_k::<S, T, $b>(s, q, headers.scales, x));
            }
            sums
        }};
    }
    macro_rules! pair {
        ($half:literal, $first:literal, $second:literal) => {
            let first = block!($first);
            let second = if $second < B { block!($second) } else { first };
            for c in 0..N {
                sums[c][$half] = first[c].zip(second[c]).map(|(a, b)| s.fold(a, b));
            }
        };
    }
    pair!(0, 0, 1);
    if B > 2 {
        pair!(1, 2, 3);
    }
    let mut products = [[0.0; 4]; N];
    for c in 0..N {
        let first = sums[c][0].expect("there is a first block");
        let p = s.half_sums([first, sums[c][1].unwrap_or(first)]);
        let mins = |s| mins_k::<S, T>(s, headers.mins, &x[c], at);
        let a = *four(x[c].d, at);
        products[c] = match T::RULE {
            Rule::Affine => {
                let m = mins(s);
                let p = s.mul_4(headers.d, s.to_f32_4(p));
                s.mul_4(a, s.sub_4(p, s.mul_4(headers.dmin, s.to_f32_4(m))))
            }
            Rule::Symmetric(offset) => {
                let p = s.to_f32_4(s.sub_product_4(p, i32::from(offset), mins(s)));
                s.mul_4(s.mul_4(a, headers.d), p)
            }
            Rule::Signed => {
                let p = match S::BIAS {
                    0 => p,
                    bias => s.sub_product_4(p, i32::from(bias), mins(s)),
                };
                s.mul_4(s.mul_4(a, headers.d), s.to_f32_4(p))
            }
        };
    }
    products
}

/// Four elements from `at` on.
#[inline(always)]
fn four<T>(x: &[T], at: usize) -> &[T; 4] {
    x[at..].first_chunk().expect("the first blocks follow the last")
}

/// Σ min · activation of four blocks, from the sums of activations that share a minimum.
#[inline(always)]
fn mins_k<S: SimdInt, T: KBlock>(s: S, mins: S::Bytes, x: &ColumnK, at: usize) -> [i32; 4] {
    if T::GROUP == 32 {
        let mins = match T::RULE {
            Rule::Affine => s.words(s.shuffle(mins, &UPPER_AS_WORDS)),
            // The scales.
            _ => s.high_bytes(s.shuffle(mins, &FIRST_AS_HIGH_BYTES)),
        };
        let sums = bytemuck::cast_ref(four(x.pair_sums, at));
        return s.products_by_quarter(mins, s.load_words(sums));
    }
    let sums: &[[i16; 32]; 2] = bytemuck::cast_ref(four(x.bsums, at));
    s.half_sums([
        s.products_by_half(s.widen_half::<0>(mins), s.load_words(&sums[0])),
        s.products_by_half(s.widen_half::<1>(mins), s.load_words(&sums[1])),
    ])
}

/// For `shuffle`: the upper eight bytes of every quarter, as words.
const UPPER_AS_WORDS: [u8; 64] = {
    let (mut places, mut i) = ([ZERO; 64], 0);
    while i < 64 {
        places[i] = (8 + i % 16 / 2) as u8;
        i += 2;
    }
    places
};

/// For `shuffle`: the first eight bytes of every quarter, as the upper bytes of words.
const FIRST_AS_HIGH_BYTES: [u8; 64] = {
    let (mut places, mut i) = ([ZERO; 64], 0);
    while i < 64 {
        places[i + 1] = (i % 16 / 2) as u8;
        i += 2;
    }
    places
};

/// For `shuffle`: the bytes of a quarter from `first` on, each in all words of `len` bytes: as their
/// lower bytes, or as their upper bytes if `upper`. The other bytes are 0.
const fn in_words_of(len: usize, first: u8, upper: bool) -> [u8; 64] {
    let (mut places, mut i) = ([ZERO; 64], 0);
    while i < 64 {
        places[i + upper as usize] = first + (i / len) as u8;
        i += 2;
    }
    places
}

/// For `shuffle`: no byte's place, which gives 0.
const ZERO: u8 = 255;

/// The signed scales of 64 codes, as the upper bytes of words.
macro_rules! signed_scales {
    ($s:expr, $scales:expr, $u:literal) => {
        match T::GROUP {
            32 => $s.shuffle($scales, const { &in_words_of(32, 2 * $u, true) }),
            _ => $s.shuffle($scales, const { &in_words_of(16, 4 * $u, true) }),
        }
    };
}

/// Σ scale · code · activation of the `B`-th block of four; only the sum of the lanes counts.
#[inline(always)]
fn block_k<S: SimdInt, T: KBlock, const B: i32>(
    s: S,
    codes: [S::Bytes; 4],
    scales: S::Bytes,
    x: &[[u8; 64]; 4],
) -> S::Sums {
    let scales = s.broadcast_quarter::<B>(scales);
    if T::RULE == Rule::Signed {
        macro_rules! add_scaled {
            ($sum:expr, $u:literal) => {
                s.add_scaled($sum, codes[$u], s.load_bytes(&x[$u]), signed_scales!(s, scales, $u))
            };
        }
        let sum = add_scaled!(Zeroable::zeroed(), 0);
        let sum = add_scaled!(sum, 1);
        let sum = add_scaled!(sum, 2);
        return add_scaled!(sum, 3);
    }
    macro_rules! scale {
        ($u:literal) => {
            match (T::RULE, T::GROUP) {
                // Unsigned.
                (Rule::Affine, 32) => {
                    s.words(s.shuffle(scales, const { &in_words_of(32, 2 * $u, false) }))
                }
                (Rule::Affine, _) => {
                    s.words(s.shuffle(scales, const { &in_words_of(16, 4 * $u, false) }))
                }
                _ => s.high_bytes(signed_scales!(s, scales, $u)),
            }
        };
    }
    macro_rules! pairs {
        ($u:literal) => {
            s.pairs(codes[$u], s.load_bytes(&x[$u]))
        };
    }
    let sum = s.products(pairs!(0), scale!(0));
    let sum = s.add_products(sum, pairs!(1), scale!(1));
    let sum = s.add_products(sum, pairs!(2), scale!(2));
    s.add_products(sum, pairs!(3), scale!(3))
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
    let scaled = w.d(s) * (a * p as f32);
    if T::HAS_M {
        scaled + w.m(s) * (a * sum as f32)
    } else {
        scaled
    }
}
