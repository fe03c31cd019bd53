//! The two kinds of blocks, and how [`tile`](super::tile) unpacks and multiplies them.
#![allow(clippy::needless_range_loop, reason = "a tile's arrays are walked side by side")]

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};
use lapidary_formats::quant::blocks::Symmetric;

use crate::kernels::activations::{Line, K_REGISTERS, REGISTERS_32};
use crate::kernels::isa::SimdInt;
use crate::kernels::unpack::{biased, Block32, Codes, KBlock, Rule, UnpackBlocks};

/// How blocks of a kind are unpacked and multiplied.
pub trait Kind: Copy {
    /// Weights of a block.
    const LEN: usize;
    /// An unpacked block, of which each u32 can be broadcast to the columns of a register.
    type Unpacked: Pod;
    /// Registers that a block of activations takes in a panel one register wide.
    const REGISTERS: usize;

    /// The parts of a thread's scratch memory: unpacked blocks and sums.
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<Self::Unpacked>, &mut Vec<Line>);

    /// Unpacks blocks of a row, from the file's bytes.
    fn unpack<S: SimdInt>(self, s: S, w: &[u8], to: &mut [Self::Unpacked]);

    /// Adds the products of `R` blocks, of different rows, and a block `x` of the panel,
    /// `[REGISTERS][C]`, to the f32 `sums`.
    fn multiply<S: SimdInt, const R: usize, const C: usize>(
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

/// A block of a k-quant.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct UnpackedK {
    /// Four codes each, in the weights' order.
    codes: [u32; 64],
    /// See `SimdInt::scale_bits`, one for each group of weights.
    scales: [u32; 16],
    /// Two minimums each, of 16 weights each.
    mins: [u32; 8],
    /// Bits of f32.
    d: u32,
    /// Bits of f32.
    dmin: u32,
}

/// A block of 32 weights.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Unpacked32 {
    /// Four codes each, in the weights' order.
    codes: [u32; 8],
    /// Bits of f32.
    d: u32,
    /// Bits of f32.
    m: u32,
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

impl<T: KBlock> Kind for KQuant<T> {
    const LEN: usize = T::LEN;
    type Unpacked = UnpackedK;
    const REGISTERS: usize = K_REGISTERS;

    #[inline(always)]
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<UnpackedK>, &mut Vec<Line>) {
        (&mut scratch.k, &mut scratch.sums)
    }

    #[inline(always)]
    fn unpack<S: SimdInt>(self, s: S, w: &[u8], to: &mut [UnpackedK]) {
        let w: &[T] = bytemuck::cast_slice(w);
        for (w, to) in w.iter().zip(to) {
            unpack_k(s, w, to);
        }
    }

    #[inline(always)]
    fn multiply<S: SimdInt, const R: usize, const C: usize>(
        s: S,
        w: [&UnpackedK; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    ) {
        let x: &[[S::Columns; C]; K_REGISTERS] = x.first_chunk().expect("a whole block");
        // So that the steps of a group can be cut into equal parts of so many.
        const {
            assert!(
                safe_steps(T::MAX_CODE) >= T::GROUP / 4
                    || safe_steps(T::MAX_CODE).is_power_of_two()
            )
        };
        let mut p = [[s.splat_u32(0); C]; R];
        let signed = T::RULE == Rule::Signed;
        // What was added to the codes.
        if matches!(T::RULE, Rule::Symmetric(_)) || signed && S::BIAS != 0 {
            add_mins(s, w, x, &mut p);
        }
        let steps = T::GROUP / 4;
        let safe = steps_together::<S>(signed, T::MAX_CODE, steps);
        for group in 0..256 / T::GROUP {
            let mut step = 0;
            while step < steps {
                let mut part = [[s.no_steps(); C]; R];
                for k in step..step + safe {
                    let x = &x[group * steps + k];
                    for r in 0..R {
                        let codes = s.splat_u32(w[r].codes[group * steps + k]);
                        for c in 0..C {
                            part[r][c] = match signed {
                                true => s.step_signed(part[r][c], codes, x[c]),
                                false => s.step(part[r][c], codes, x[c]),
                            };
                        }
                    }
                }
                for r in 0..R {
                    let scale = s.splat_u32(w[r].scales[group]);
                    for c in 0..C {
                        p[r][c] = s.flush(p[r][c], part[r][c], scale);
                    }
                }
                step += safe;
            }
        }
        let a = &x[72];
        let mut m = [[s.splat_u32(0); C]; R];
        if T::RULE == Rule::Affine {
            add_mins(s, w, x, &mut m);
        }
        for r in 0..R {
            let (d, dmin) = (s.splat_u32(w[r].d), s.splat_u32(w[r].dmin));
            for c in 0..C {
                let p = s.to_float(p[r][c]);
                let product = match T::RULE {
                    Rule::Affine => {
                        let m = s.mul_f(dmin, s.to_float(m[r][c]));
                        s.mul_f(a[c], s.sub_f(s.mul_f(d, p), m))
                    }
                    Rule::Symmetric(_) | Rule::Signed => s.mul_f(s.mul_f(a[c], d), p),
                };
                sums[r][c] = s.add_f(sums[r][c], product);
            }
        }
    }
}

#[inline(always)]
fn unpack_k<S: SimdInt, T: KBlock>(s: S, w: &T, to: &mut UnpackedK) {
    let codes: &mut [[u8; 64]; 4] = bytemuck::cast_mut(&mut to.codes);
    let q = w.codes(s);
    for k in 0..4 {
        s.store_bytes(q[k], &mut codes[k]);
    }
    let (scales, mins) = w.scales_and_mins();
    for g in 0..256 / T::GROUP {
        to.scales[g] = S::scale_bits(i16::from(scales[g * T::GROUP / 16]));
    }
    let to_mins: &mut [i16; 16] = bytemuck::cast_mut(&mut to.mins);
    for g in 0..16 {
        to_mins[g] = match T::RULE {
            Rule::Affine => i16::from(mins[g]),
            // Negative, since the kernel adds it.
            Rule::Symmetric(offset) => -i16::from(offset) * i16::from(scales[g]),
            Rule::Signed => -i16::from(S::BIAS) * i16::from(scales[g]),
        };
    }
    let [d, dmin] = w.d(s);
    (to.d, to.dmin) = (d.to_bits(), dmin.to_bits());
}

/// Adds the products of the minimums and the sums of the activations.
#[inline(always)]
fn add_mins<S: SimdInt, const R: usize, const C: usize>(
    s: S,
    w: [&UnpackedK; R],
    x: &[[S::Columns; C]; K_REGISTERS],
    to: &mut [[S::Columns; C]; R],
) {
    for k in 0..8 {
        let sums = &x[64 + k];
        for r in 0..R {
            let mins = s.splat_u32(w[r].mins[k]);
            for c in 0..C {
                to[r][c] = s.pair_step(to[r][c], mins, sums[c]);
            }
        }
    }
}

impl Kind for ByTable {
    const LEN: usize = KQuant::<Symmetric>::LEN;
    type Unpacked = UnpackedK;
    const REGISTERS: usize = K_REGISTERS;

    #[inline(always)]
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<UnpackedK>, &mut Vec<Line>) {
        KQuant::<Symmetric>::scratch(scratch)
    }

    #[inline(always)]
    fn unpack<S: SimdInt>(self, s: S, w: &[u8], to: &mut [UnpackedK]) {
        let block_bytes = w.len() / to.len();
        for (w, to) in w.chunks_exact(block_bytes).zip(to) {
            let mut block = [Symmetric::zeroed()];
            (self.0)(w, &mut block);
            unpack_k(s, &block[0], to);
        }
    }

    #[inline(always)]
    fn multiply<S: SimdInt, const R: usize, const C: usize>(
        s: S,
        w: [&UnpackedK; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    ) {
        KQuant::<Symmetric>::multiply(s, w, x, sums);
    }
}

impl<T: Block32> Kind for Legacy<T> {
    const LEN: usize = T::LEN;
    type Unpacked = Unpacked32;
    const REGISTERS: usize = REGISTERS_32;

    #[inline(always)]
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<Unpacked32>, &mut Vec<Line>) {
        (&mut scratch.legacy, &mut scratch.sums)
    }

    #[inline(always)]
    fn unpack<S: SimdInt>(self, s: S, w: &[u8], to: &mut [Unpacked32]) {
        let w: &[T] = bytemuck::cast_slice(w);
        let (pairs, rest) = w.as_chunks::<2>();
        let (to_pairs, to_rest) = to.as_chunks_mut::<2>();
        for ([a, b], [to_a, to_b]) in pairs.iter().zip(to_pairs) {
            let codes = codes_32(s, a, b);
            *to_a = unpacked_32(s, a, codes[0]);
            *to_b = unpacked_32(s, b, codes[1]);
        }
        for (w, to) in rest.iter().zip(to_rest) {
            *to = unpacked_32(s, w, codes_32(s, w, w)[0]);
        }
    }

    #[inline(always)]
    fn multiply<S: SimdInt, const R: usize, const C: usize>(
        s: S,
        w: [&Unpacked32; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    ) {
        let x: &[[S::Columns; C]; REGISTERS_32] = x.first_chunk().expect("a whole block");
        let (total, a) = (&x[8], &x[9]);
        let mut p = [[s.splat_u32(0); C]; R];
        let signed = T::CODES == Codes::Signed;
        let safe = steps_together::<S>(signed, T::MAX_CODE, 8);
        for part_of in 0..8 / safe {
            let mut part = [[s.no_steps(); C]; R];
            for k in part_of * safe..(part_of + 1) * safe {
                for r in 0..R {
                    let codes = s.splat_u32(w[r].codes[k]);
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
        if offset != 0 {
            // In the lower of two words: a sum of 32 codes fits one.
            let offset = s.splat_u32(u32::from(-offset as u16));
            for r in 0..R {
                for c in 0..C {
                    p[r][c] = s.pair_step(p[r][c], offset, total[c]);
                }
            }
        }
        for r in 0..R {
            let (d, m) = (s.splat_u32(w[r].d), s.splat_u32(w[r].m));
            for c in 0..C {
                let mut product = s.mul_f(d, s.mul_f(a[c], s.to_float(p[r][c])));
                if T::HAS_M {
                    let m = s.mul_f(m, s.mul_f(a[c], s.to_float(total[c])));
                    product = s.add_f(product, m);
                }
                sums[r][c] = s.add_f(sums[r][c], product);
            }
        }
    }
}

/// The codes of two blocks, as `step` or `step_signed` takes them.
#[inline(always)]
fn codes_32<S: SimdInt, T: Block32>(s: S, a: &T, b: &T) -> [[u32; 8]; 2] {
    let codes = T::codes(s, a, b);
    let codes = if T::CODES == Codes::Signed { biased(s, codes) } else { codes };
    let mut bytes = [0; 64];
    s.store_bytes(codes, &mut bytes);
    bytemuck::cast(bytes)
}

#[inline(always)]
fn unpacked_32<S: SimdInt, T: Block32>(s: S, w: &T, codes: [u32; 8]) -> Unpacked32 {
    Unpacked32 { codes, d: w.d(s).to_bits(), m: w.m(s).to_bits() }
}
