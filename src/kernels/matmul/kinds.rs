//! The two kinds of blocks, and how [`tile`](super::tile) unpacks and multiplies them.
#![allow(clippy::needless_range_loop, reason = "a tile's arrays are walked side by side")]

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};
use lapidary_formats::quant::blocks::Symmetric;

use super::amx;
use crate::kernels::activations::{Line, Places32, PlacesK};
use crate::kernels::isa::SimdInt;
use crate::kernels::unpack::{biased, Block32, Codes, KBlock, Rule, UnpackBlocks};

/// How blocks of a kind are unpacked and multiplied.
pub trait Kind: Copy {
    /// Weights of a block.
    const LEN: usize;
    /// An unpacked block, of which every few bytes can be broadcast to the columns of a register.
    type Unpacked: Pod;
    /// Registers that a block of activations takes in a panel one register wide, whose columns have
    /// `width` bytes each.
    fn registers(width: usize) -> usize;

    /// The parts of a thread's scratch memory: unpacked blocks and sums.
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<Self::Unpacked>, &mut Vec<Line>);

    /// Unpacks blocks from the file's bytes, for columns of `WIDTH` bytes.
    fn unpack<S: SimdInt, const WIDTH: usize>(self, s: S, w: &[u8], to: &mut [Self::Unpacked]);

    /// Adds the products of `R` blocks, of different rows, and a block `x` of the panel,
    /// `[registers][C]`, to the f32 `sums`. A column has `WIDTH` bytes of a register, and its sum is
    /// in all dwords of them.
    fn multiply<S: SimdInt, const R: usize, const C: usize, const WIDTH: usize>(
        s: S,
        w: [&Self::Unpacked; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    );
}

/// The k-quant `T`.
#[derive(Clone, Copy)]
pub struct KQuant<T>(pub PhantomData<T>);

/// The type `T`, with 32 weights a block.
#[derive(Clone, Copy)]
pub struct Legacy<T>(pub PhantomData<T>);

/// A type that is unpacked by tables.
#[derive(Clone, Copy)]
pub struct ByTable(pub UnpackBlocks);

/// A block of a k-quant, in whole cache lines.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct UnpackedK {
    /// In the weights' order.
    codes: [u8; 256],
    /// See `SimdInt::store_scales`, one for each group of weights.
    scales: [u32; 16],
    /// What the sums of the groups' activations are multiplied with.
    mins: [i16; 16],
    d: f32,
    dmin: f32,
    unused: [u32; 6],
}

/// A block of 32 weights.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Unpacked32 {
    /// In the weights' order.
    codes: [u8; 32],
    d: f32,
    m: f32,
}

/// Memory that a thread reuses for all its items of a product.
#[derive(Default)]
pub struct Scratch {
    k: Vec<UnpackedK>,
    legacy: Vec<Unpacked32>,
    /// Blocks of a type that is unpacked by tables, before they are multiplied.
    pub symmetric: Vec<Symmetric>,
    /// f32, `[rows, registers of columns]`
    sums: Vec<Line>,
    /// What the kernels with tiles use instead.
    pub tiles: amx::Scratch,
}

/// The number of steps whose sums of pairs fit 16 bits, with codes up to `max` and activations within
/// ±127.
const fn safe_steps(max: u32) -> usize {
    (i16::MAX as u32 / (2 * 127 * max)) as usize
}

/// The number of steps, of `steps`, that are summed at a time.
const fn steps_together<S: SimdInt>(signed: bool, max_code: u32, steps: usize) -> usize {
    if S::WIDE {
        return steps;
    }
    let safe = if signed { 1 } else { safe_steps(max_code) };
    if safe < steps {
        safe
    } else {
        steps
    }
}

/// Whether the sums of a group's products with activations within ±127 fit words in every dword of a
/// column, which has so many bytes.
const fn sums_fit_words<T: KBlock, const WIDTH: usize>() -> bool {
    let products = 4 * T::GROUP / WIDTH;
    !matches!(T::RULE, Rule::Signed) && products * 127 * T::MAX_CODE as usize <= i16::MAX as usize
}

/// What is added to the products of codes and scales so that they are unsigned bytes, if they all are
/// then and `step` sums them in 32 bits. Blocks are unpacked to these bytes, and no scale is left to
/// multiply with.
const fn scaled_bias<S: SimdInt, T: KBlock, const WIDTH: usize>() -> Option<i16> {
    let [least, most] = T::SCALES;
    let max_code = T::MAX_CODE as i16;
    match T::RULE {
        _ if !S::WIDE => None,
        Rule::Affine if max_code * most <= u8::MAX as i16 => Some(0),
        // This takes longer to unpack, and pays for many columns only.
        Rule::Symmetric(_) if WIDTH > 4 => None,
        // The code minus the offset is the lowest where the scale is the highest, or the other way round.
        Rule::Symmetric(offset) => {
            let (low, high) = (-(offset as i16), max_code - offset as i16);
            let min = if low * most < high * least { low * most } else { high * least };
            let max = if low * least > high * most { low * least } else { high * most };
            if max - min <= u8::MAX as i16 {
                Some(-min)
            } else {
                None
            }
        }
        _ => None,
    }
}

impl<T: KBlock> Kind for KQuant<T> {
    const LEN: usize = T::LEN;
    type Unpacked = UnpackedK;

    #[inline(always)]
    fn registers(width: usize) -> usize {
        PlacesK::new(width).registers
    }

    #[inline(always)]
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<UnpackedK>, &mut Vec<Line>) {
        (&mut scratch.k, &mut scratch.sums)
    }

    #[inline(always)]
    fn unpack<S: SimdInt, const WIDTH: usize>(self, s: S, w: &[u8], to: &mut [UnpackedK]) {
        let (quads, rest) = bytemuck::cast_slice::<_, T>(w).as_chunks::<4>();
        let (to_quads, to_rest) = to.as_chunks_mut::<4>();
        for ([a, b, c, d], to) in quads.iter().zip(to_quads) {
            unpack_k::<S, T, WIDTH, 4>(s, [a, b, c, d], to);
        }
        for (w, to) in rest.iter().zip(to_rest) {
            unpack_k::<S, T, WIDTH, 1>(s, [w; 4], std::array::from_mut(to));
        }
    }

    #[inline(always)]
    fn multiply<S: SimdInt, const R: usize, const C: usize, const WIDTH: usize>(
        s: S,
        w: [&UnpackedK; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    ) {
        let places = const { PlacesK::new(WIDTH) };
        let x = &x[..places.registers];
        // So that the steps of a group can be cut into equal parts of so many.
        const {
            assert!(
                safe_steps(T::MAX_CODE) >= T::GROUP / WIDTH
                    || safe_steps(T::MAX_CODE).is_power_of_two()
            )
        };
        let mut p = [[s.splat_u32(0); C]; R];
        let signed = T::RULE == Rule::Signed;
        // What was added to the codes.
        if matches!(T::RULE, Rule::Symmetric(_)) || signed && S::BIAS != 0 {
            add_mins::<S, T, R, C, WIDTH>(s, w, x, &mut p);
        }
        if const { scaled_bias::<S, T, WIDTH>().is_some() } {
            // With few sums at a time, several chains of additions, since each takes some cycles.
            let chains = if R * C < 8 { 4 } else { 1 };
            let steps = 256 / WIDTH / chains;
            for chain in 0..chains {
                let part = part::<S, R, C, WIDTH>(s, w, x, chain * steps, steps);
                for r in 0..R {
                    for c in 0..C {
                        p[r][c] = s.add_steps(p[r][c], part[r][c]);
                    }
                }
            }
        }
        let steps = T::GROUP / WIDTH;
        let safe = steps_together::<S>(signed, T::MAX_CODE, steps);
        let groups =
            if const { scaled_bias::<S, T, WIDTH>().is_some() } { 0 } else { 256 / T::GROUP };
        for group in 0..groups {
            let mut step = 0;
            while step < steps {
                let mut part = [[s.no_steps(); C]; R];
                for k in step..step + safe {
                    let at = group * steps + k;
                    for r in 0..R {
                        let codes = s.splat_bytes::<WIDTH>(&w[r].codes[at * WIDTH..]);
                        for c in 0..C {
                            part[r][c] = match signed {
                                true => s.step_signed(part[r][c], codes, x[at][c]),
                                false => s.step(part[r][c], codes, x[at][c]),
                            };
                        }
                    }
                }
                for r in 0..R {
                    let scale = s.splat_u32(w[r].scales[group]);
                    for c in 0..C {
                        p[r][c] = match sums_fit_words::<T, WIDTH>() {
                            true => s.flush_words(p[r][c], part[r][c], scale),
                            false => s.flush(p[r][c], part[r][c], scale),
                        };
                    }
                }
                step += safe;
            }
        }
        let a = &x[places.d];
        let mut m = [[s.splat_u32(0); C]; R];
        if T::RULE == Rule::Affine {
            add_mins::<S, T, R, C, WIDTH>(s, w, x, &mut m);
        }
        for r in 0..R {
            let (d, dmin) = (s.splat_u32(w[r].d.to_bits()), s.splat_u32(w[r].dmin.to_bits()));
            for c in 0..C {
                let p = s.to_float(s.add_dwords::<WIDTH>(p[r][c]));
                let product = match T::RULE {
                    Rule::Affine => {
                        let m = s.to_float(s.add_dwords::<WIDTH>(m[r][c]));
                        s.mul_f(a[c], s.sub_f(s.mul_f(d, p), s.mul_f(dmin, m)))
                    }
                    Rule::Symmetric(_) | Rule::Signed => s.mul_f(s.mul_f(a[c], d), p),
                };
                sums[r][c] = s.add_f(sums[r][c], product);
            }
        }
    }
}

/// The sums of `steps` steps from step `first` on.
#[inline(always)]
fn part<S: SimdInt, const R: usize, const C: usize, const WIDTH: usize>(
    s: S,
    w: [&UnpackedK; R],
    x: &[[S::Columns; C]],
    first: usize,
    steps: usize,
) -> [[S::Steps; C]; R] {
    let mut part = [[s.no_steps(); C]; R];
    for k in first..first + steps {
        for r in 0..R {
            let codes = s.splat_bytes::<WIDTH>(&w[r].codes[k * WIDTH..]);
            for c in 0..C {
                part[r][c] = s.step(part[r][c], codes, x[k][c]);
            }
        }
    }
    part
}

/// Unpacks the first `N` of four blocks: all of them, or one.
#[inline(always)]
fn unpack_k<S: SimdInt, T: KBlock, const WIDTH: usize, const N: usize>(
    s: S,
    w: [&T; 4],
    to: &mut [UnpackedK; N],
) {
    let headers = T::headers(s, w);
    let (mins, factor) = match T::RULE {
        Rule::Affine if T::GROUP == 32 => (s.shuffle(headers.mins, &UPPER_FIRST), 1),
        Rule::Affine => (headers.mins, 1),
        // Negative, since the kernel adds it.
        Rule::Symmetric(offset) => (headers.scales, -i16::from(offset)),
        Rule::Signed => (headers.scales, -i16::from(S::BIAS)),
    };
    let surplus = surplus::<S, T, WIDTH>(s, headers.scales);
    // Unrolled by hand, so that constants stay in registers.
    macro_rules! block {
        ($i:literal) => {
            if $i < N {
                let (mut codes, to) = (w[$i].codes(s), &mut to[$i]);
                if const { scaled_bias::<S, T, WIDTH>().is_some() } {
                    let scales = s.broadcast_quarter::<$i>(headers.scales);
                    let surplus = s.broadcast_quarter::<$i>(surplus);
                    codes = [
                        scaled::<S, T, 0>(s, codes[0], scales, surplus),
                        scaled::<S, T, 1>(s, codes[1], scales, surplus),
                        scaled::<S, T, 2>(s, codes[2], scales, surplus),
                        scaled::<S, T, 3>(s, codes[3], scales, surplus),
                    ];
                }
                let to_codes: &mut [[u8; 64]; 4] = bytemuck::cast_mut(&mut to.codes);
                s.store_bytes(codes[0], &mut to_codes[0]);
                s.store_bytes(codes[1], &mut to_codes[1]);
                s.store_bytes(codes[2], &mut to_codes[2]);
                s.store_bytes(codes[3], &mut to_codes[3]);
                let words = sums_fit_words::<T, WIDTH>();
                s.store_scales::<$i>(headers.scales, words, &mut to.scales);
                match const { (T::RULE, scaled_bias::<S, T, WIDTH>()) } {
                    (Rule::Symmetric(_), Some(bias)) => to.mins = [-bias; 16],
                    _ => s.store_words::<$i>(mins, factor, &mut to.mins),
                }
                (to.d, to.dmin) = (headers.d[$i], headers.dmin[$i]);
            }
        };
    }
    block!(0);
    block!(1);
    block!(2);
    block!(3);
}

/// For types with a [`scaled_bias`]: what the products of a code and each of the scales have too much.
#[inline(always)]
fn surplus<S: SimdInt, T: KBlock, const WIDTH: usize>(s: S, scales: S::Bytes) -> S::Bytes {
    let Rule::Symmetric(offset) = T::RULE else { return s.splat_byte(0) };
    let bias = const { scaled_bias::<S, T, WIDTH>() }.unwrap_or(0);
    let mut deficit = s.splat_byte(bias as u8);
    for _ in 0..offset {
        deficit = s.sub_bytes(deficit, scales);
    }
    s.sub_bytes(s.splat_byte(0), deficit)
}

/// Codes of register `U` of a block times their scales, without their `surplus`. Both are bytes, the same
/// in every quarter.
#[inline(always)]
fn scaled<S: SimdInt, T: KBlock, const U: usize>(
    s: S,
    codes: S::Bytes,
    scales: S::Bytes,
    surplus: S::Bytes,
) -> S::Bytes {
    let even = s.shuffle(scales, const { &groups(T::GROUP, U, Some(0)) });
    let odd = s.shuffle(scales, const { &groups(T::GROUP, U, Some(1)) });
    let products = s.merge_words(s.pairs(codes, even), s.pairs(codes, odd));
    match T::RULE {
        Rule::Affine => products,
        _ => s.sub_bytes(products, s.shuffle(surplus, const { &groups(T::GROUP, U, None) })),
    }
}

/// For `shuffle`: the group of each code of register `u`; only of every second one, the first or the
/// second of two, if `only` is 0 or 1.
const fn groups(group: usize, u: usize, only: Option<usize>) -> [u8; 64] {
    let (mut places, mut i) = ([255; 64], 0);
    while i < 64 {
        let counts = match only {
            None => true,
            Some(only) => i % 2 == only,
        };
        if counts {
            places[i] = ((64 * u + i) / group) as u8;
        }
        i += 1;
    }
    places
}

/// For `shuffle`: the upper eight bytes of every quarter, twice.
pub(super) const UPPER_FIRST: [u8; 64] = {
    let (mut places, mut i) = ([0; 64], 0);
    while i < 64 {
        places[i] = (8 + i % 8) as u8;
        i += 1;
    }
    places
};

/// Adds the products of the minimums and the sums of the activations.
#[inline(always)]
fn add_mins<S: SimdInt, T: KBlock, const R: usize, const C: usize, const WIDTH: usize>(
    s: S,
    w: [&UnpackedK; R],
    x: &[[S::Columns; C]],
    to: &mut [[S::Columns; C]; R],
) {
    let places = const { PlacesK::new(WIDTH) };
    // Two bytes for each group.
    let (first, count) = match (T::GROUP, T::RULE) {
        (32, _) => (places.pair_sums, 16 / WIDTH),
        // The same for all groups.
        (_, Rule::Symmetric(_)) if const { scaled_bias::<S, T, WIDTH>().is_some() } => {
            (places.pair_sums, 16 / WIDTH)
        }
        _ => (places.bsums, 32 / WIDTH),
    };
    for k in 0..count {
        let sums = &x[first + k];
        for r in 0..R {
            let mins: &[u8; 32] = bytemuck::cast_ref(&w[r].mins);
            let mins = s.splat_bytes::<WIDTH>(&mins[k * WIDTH..]);
            for c in 0..C {
                to[r][c] = s.pair_step(to[r][c], mins, sums[c]);
            }
        }
    }
}

impl Kind for ByTable {
    const LEN: usize = KQuant::<Symmetric>::LEN;
    type Unpacked = UnpackedK;

    #[inline(always)]
    fn registers(width: usize) -> usize {
        KQuant::<Symmetric>::registers(width)
    }

    #[inline(always)]
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<UnpackedK>, &mut Vec<Line>) {
        KQuant::<Symmetric>::scratch(scratch)
    }

    #[inline(always)]
    fn unpack<S: SimdInt, const WIDTH: usize>(self, s: S, w: &[u8], to: &mut [UnpackedK]) {
        let block_bytes = w.len() / to.len();
        for (w, to) in w.chunks(4 * block_bytes).zip(to.chunks_mut(4)) {
            let mut blocks = [Symmetric::zeroed(); 4];
            let blocks = &mut blocks[..to.len()];
            (self.0)(w, blocks);
            KQuant::<Symmetric>(PhantomData).unpack::<S, WIDTH>(
                s,
                bytemuck::cast_slice(blocks),
                to,
            );
        }
    }

    #[inline(always)]
    fn multiply<S: SimdInt, const R: usize, const C: usize, const WIDTH: usize>(
        s: S,
        w: [&UnpackedK; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    ) {
        KQuant::<Symmetric>::multiply::<S, R, C, WIDTH>(s, w, x, sums);
    }
}

impl<T: Block32> Kind for Legacy<T> {
    const LEN: usize = T::LEN;
    type Unpacked = Unpacked32;

    #[inline(always)]
    fn registers(width: usize) -> usize {
        Places32::new(width).registers
    }

    #[inline(always)]
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<Unpacked32>, &mut Vec<Line>) {
        (&mut scratch.legacy, &mut scratch.sums)
    }

    #[inline(always)]
    fn unpack<S: SimdInt, const WIDTH: usize>(self, s: S, w: &[u8], to: &mut [Unpacked32]) {
        let (quads, rest) = bytemuck::cast_slice::<_, T>(w).as_chunks::<4>();
        let (to_quads, to_rest) = to.as_chunks_mut::<4>();
        for ([a, b, c, d], to) in quads.iter().zip(to_quads) {
            unpack_32(s, [a, b, c, d], to);
        }
        for (w, to) in rest.iter().zip(to_rest) {
            let mut four = [*to; 4];
            unpack_32(s, [w; 4], &mut four);
            *to = four[0];
        }
    }

    #[inline(always)]
    fn multiply<S: SimdInt, const R: usize, const C: usize, const WIDTH: usize>(
        s: S,
        w: [&Unpacked32; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    ) {
        let places = const { Places32::new(WIDTH) };
        let x = &x[..places.registers];
        let (total, a) = (&x[places.sum], &x[places.d]);
        let mut p = [[s.splat_u32(0); C]; R];
        let (signed, steps) = (T::CODES == Codes::Signed, 32 / WIDTH);
        let safe = steps_together::<S>(signed, T::MAX_CODE, steps);
        for part_of in 0..steps / safe {
            let mut part = [[s.no_steps(); C]; R];
            for k in part_of * safe..(part_of + 1) * safe {
                for r in 0..R {
                    let codes = s.splat_bytes::<WIDTH>(&w[r].codes[k * WIDTH..]);
                    for c in 0..C {
                        part[r][c] = match signed {
                            true => s.step_signed(part[r][c], codes, x[k][c]),
                            false => s.step(part[r][c], codes, x[k][c]),
                        };
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    p[r][c] = s.add_steps(p[r][c], part[r][c]);
                }
            }
        }
        // What the codes have too much, times the sum of the activations.
        let offset = i16::from(match T::CODES {
            Codes::Offset(offset) => offset,
            Codes::Signed => S::BIAS,
        });
        // In the lower of two words: a sum of 32 codes fits one.
        let offset = s.splat_u32(u32::from(-offset as u16));
        for r in 0..R {
            let (d, m) = (s.splat_u32(w[r].d.to_bits()), s.splat_u32(w[r].m.to_bits()));
            for c in 0..C {
                let mut p = s.add_dwords::<WIDTH>(p[r][c]);
                if T::CODES != Codes::Offset(0) && (T::CODES != Codes::Signed || S::BIAS != 0) {
                    p = s.pair_step(p, offset, total[c]);
                }
                let mut product = s.mul_f(d, s.mul_f(a[c], s.to_float(p)));
                if T::HAS_M {
                    let m = s.mul_f(m, s.mul_f(a[c], s.to_float(total[c])));
                    product = s.add_f(product, m);
                }
                sums[r][c] = s.add_f(sums[r][c], product);
            }
        }
    }
}

/// Unpacks four blocks of a row.
#[inline(always)]
fn unpack_32<S: SimdInt, T: Block32>(s: S, w: [&T; 4], to: &mut [Unpacked32; 4]) {
    let (scales, ms) = (T::d(s, w), T::m(s, w));
    let [a, b, c, d] = to;
    for (w, to) in [([w[0], w[1]], [&mut *a, &mut *b]), ([w[2], w[3]], [&mut *c, &mut *d])] {
        let codes = T::codes(s, w[0], w[1]);
        // As `step` or `step_signed` takes them.
        let codes = if T::CODES == Codes::Signed { biased(s, codes) } else { codes };
        let [first, second] = to;
        s.store_halves(codes, &mut first.codes, &mut second.codes);
    }
    for (i, to) in [a, b, c, d].into_iter().enumerate() {
        (to.d, to.m) = (scales[i], ms[i]);
    }
}
