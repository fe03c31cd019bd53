//! Rows × few columns: the blocks of a row are read once, in the order of the file.

use bytemuck::Zeroable;
use lapidary_formats::quant::Block;

use super::{prefetch, Matrix};
use crate::kernels::activations::{QuantizedRows, WRAPPED};
use crate::kernels::isa::{IntOp, SimdInt};
use crate::kernels::unpack::{biased, Block32, Codes, KBlock, Rule};

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

/// Four blocks of a column in Q8_K.
#[derive(Clone, Copy)]
struct Four<'a> {
    qs: &'a [[[u8; 64]; 4]; 4],
    bsums: &'a [[i16; 16]; 4],
    pair_sums: &'a [[i16; 8]; 4],
    d: &'a [f32; 4],
}

impl<'a> ColumnK<'a> {
    /// The blocks from `at` on.
    #[inline(always)]
    fn four(&self, at: usize) -> Four<'a> {
        Four {
            qs: four(self.qs, at),
            bsums: four(self.bsums, at),
            pair_sums: four(self.pair_sums, at),
            d: four(self.d, at),
        }
    }
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
        // The sums of two columns stay in registers.
        for out in out.chunks_mut(2) {
            let column = |t: usize| ColumnK {
                qs: &qs[(first + t) * stride..][..stride],
                bsums: &x.bsums[(first + t) * stride..][..stride],
                pair_sums: &x.pair_sums[(first + t) * stride..][..stride],
                d: &x.d[(first + t) * stride..][..stride],
            };
            match out {
                [a, b] => rows_k(s, w, blocks, [column(0), column(1)], [a, b]),
                [a] => rows_k(s, w, blocks, [column(0)], [a]),
                _ => {}
            }
            first += 2;
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
    for quad in quads {
        prefetch(s, quad.as_ptr().cast(), size_of_val(quad));
        let [a, b, c, d] = quad;
        add!(blocks_k::<S, T, N, 4>(s, [a, b, c, d], &x, at), 4);
    }
    for w in rest {
        add!(blocks_k::<S, T, N, 1>(s, [w; 4], &x, at), 1);
    }
}

/// The products of `B` blocks, 4 or 1, and the blocks of each column from `at` on. The headers of four
/// blocks are unpacked together, and their sums are formed together.
#[inline(always)]
fn blocks_k<S: SimdInt, T: KBlock, const N: usize, const B: usize>(
    s: S,
    w: [&T; 4],
    x: &[ColumnK; N],
    at: usize,
) -> [[f32; 4]; N] {
    // Here, so that no check of a length comes between the loads. And without closures, which are not
    // always inlined.
    let columns = x;
    let mut x = [columns[0].four(at); N];
    for c in 1..N {
        x[c] = columns[c].four(at);
    }
    let headers = T::headers(s, w);
    // Unrolled by hand, with the sums of two blocks in one register, so that they stay in registers.
    let mut sums = [[None; 2]; N];
    macro_rules! block {
        ($b:literal) => {{
            let q = w[$b].codes(s);
            let mut sums = [None; N];
            for c in 0..N {
                let x = &x[c].qs[$b];
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
        let mins = |s| mins_k::<S, T>(s, headers.mins, &x[c]);
        let a = *x[c].d;
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
fn mins_k<S: SimdInt, T: KBlock>(s: S, mins: S::Bytes, x: &Four) -> [i32; 4] {
    if T::GROUP == 32 {
        let mins = match T::RULE {
            Rule::Affine => s.words(s.shuffle(mins, &UPPER_AS_WORDS)),
            // The scales.
            _ => s.high_bytes(s.shuffle(mins, &FIRST_AS_HIGH_BYTES)),
        };
        return s.products_by_quarter(mins, s.load_words(bytemuck::cast_ref(x.pair_sums)));
    }
    let sums: &[[i16; 32]; 2] = bytemuck::cast_ref(x.bsums);
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

/// For `shuffle`: no byte's place, which gives 0.
const ZERO: u8 = 255;

/// Σ scale · code · activation of the `B`-th block of four; only the sum of the lanes counts.
#[inline(always)]
fn block_k<S: SimdInt, T: KBlock, const B: i32>(
    s: S,
    codes: [S::Bytes; 4],
    scales: S::Bytes,
    x: &[[u8; 64]; 4],
) -> S::Sums {
    let scales = s.broadcast_quarter::<B>(scales);
    let [a, b, c, d] = codes;
    let (p, q, r, t) =
        (s.load_bytes(&x[0]), s.load_bytes(&x[1]), s.load_bytes(&x[2]), s.load_bytes(&x[3]));
    let sum = Zeroable::zeroed();
    macro_rules! add {
        ($method:ident, $group:literal $(, $signed:literal)?) => {{
            let sum = s.$method::<$group, 0 $(, $signed)?>(sum, [a, b], [p, q], scales);
            s.$method::<$group, 1 $(, $signed)?>(sum, [c, d], [r, t], scales)
        }};
    }
    match (T::RULE, T::GROUP) {
        (Rule::Affine, 32) => add!(add_scaled, 32, false),
        (Rule::Affine, _) => add!(add_scaled, 16, false),
        (Rule::Symmetric(_), 32) => add!(add_scaled, 32, true),
        (Rule::Symmetric(_), _) => add!(add_scaled, 16, true),
        (Rule::Signed, 32) => add!(add_scaled_biased, 32),
        (Rule::Signed, _) => add!(add_scaled_biased, 16),
    }
}

impl<T: Block32> IntOp for Dot32<'_, '_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) {
        let Rows { w, blocks, x, out } = self.0;
        let column = |t: usize| {
            let range = t * blocks..(t + 1) * blocks;
            Column32 { qs: &x.qs[range.clone()], sums: &x.sums[range.clone()], d: &x.d[range] }
        };
        let mut first = 0;
        for out in out.chunks_mut(2) {
            for (r, w) in w.chunks_exact(blocks).enumerate() {
                match out {
                    [a, b] => [a[r], b[r]] = row_32(s, w, [column(first), column(first + 1)]),
                    [a] => [a[r]] = row_32(s, w, [column(first)]),
                    _ => {}
                }
            }
            first += 2;
        }
    }
}

/// A row × `N` columns.
#[inline(always)]
fn row_32<S: SimdInt, T: Block32, const N: usize>(s: S, w: &[T], x: [Column32; N]) -> [f32; N] {
    let mut total = [0.0; N];
    let (quads, rest) = w.as_chunks::<4>();
    for (i, quad) in quads.iter().enumerate() {
        prefetch(s, quad.as_ptr().cast(), size_of_val(quad));
        let w = quad.each_ref();
        let codes = [T::codes(s, w[0], w[1]), T::codes(s, w[2], w[3])];
        let (d, m) = (T::d(s, w), T::m(s, w));
        for c in 0..N {
            let x = &x[c];
            let (qs, sums, a) = (four(x.qs, 4 * i), four(x.sums, 4 * i), four(x.d, 4 * i));
            for product in products_32::<S, T>(s, codes, d, m, qs, sums, a) {
                total[c] += product;
            }
        }
    }
    for (i, w) in rest.iter().enumerate() {
        let at = 4 * quads.len() + i;
        let (codes, w) = ([T::codes(s, w, w); 2], [w; 4]);
        for c in 0..N {
            let (qs, sums, a) = ([x[c].qs[at]; 4], [x[c].sums[at]; 4], [x[c].d[at]; 4]);
            let (d, m) = (T::d(s, w), T::m(s, w));
            total[c] += products_32::<S, T>(s, codes, d, m, &qs, &sums, &a)[0];
        }
    }
    total
}

/// The products of four blocks of a row, which have these codes, scales and minimums, and of a column,
/// which have these codes, sums and scales.
#[inline(always)]
fn products_32<S: SimdInt, T: Block32>(
    s: S,
    codes: [S::Bytes; 2],
    d: [f32; 4],
    m: [f32; 4],
    q: &[[u8; 32]; 4],
    sums: &[i32; 4],
    a: &[f32; 4],
) -> [f32; 4] {
    let q = [s.load_halves(&q[0], &q[1]), s.load_halves(&q[2], &q[3])];
    let (dots, offset) = match T::CODES {
        Codes::Signed => {
            let codes = [biased(s, codes[0]), biased(s, codes[1])];
            ([s.dot_biased(codes[0], q[0]), s.dot_biased(codes[1], q[1])], S::BIAS)
        }
        Codes::Offset(offset) => ([s.dot(codes[0], q[0]), s.dot(codes[1], q[1])], offset),
    };
    let p = match offset {
        0 => s.half_sums(dots),
        offset => s.sub_product_4(s.half_sums(dots), i32::from(offset), *sums),
    };
    let scaled = s.mul_4(d, s.mul_4(*a, s.to_f32_4(p)));
    if T::HAS_M {
        return s.add_4(scaled, s.mul_4(m, s.mul_4(*a, s.to_f32_4(*sums))));
    }
    scaled
}
