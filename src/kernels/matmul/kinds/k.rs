//! Blocks of k-quants.
#![allow(clippy::needless_range_loop, reason = "a tile's arrays are walked side by side")]

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};
use lapidary_formats::quant::blocks::Symmetric;

use super::scaled::{scaled, scaled_bias, surplus};
use super::{safe_steps, steps_together, ByTable, KQuant, Kind, Scratch};
use crate::kernels::activations::{Line, PlacesK};
use crate::kernels::isa::SimdInt;
use crate::kernels::unpack::{KBlock, Rule};

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

/// Whether the sums of a group's products with activations within ±127 fit words in every dword of a
/// column, which has so many bytes.
const fn sums_fit_words<T: KBlock, const WIDTH: usize>() -> bool {
    let products = 4 * T::GROUP / WIDTH;
    !matches!(T::RULE, Rule::Signed) && products * 127 * T::MAX_CODE as usize <= i16::MAX as usize
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

/// For `shuffle`: the upper eight bytes of every quarter, twice.
pub const UPPER_FIRST: [u8; 64] = {
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
