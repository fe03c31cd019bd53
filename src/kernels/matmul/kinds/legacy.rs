//! Blocks of 32 weights.
#![allow(clippy::needless_range_loop, reason = "a tile's arrays are walked side by side")]

use bytemuck::{Pod, Zeroable};

use super::{steps_together, Kind, Legacy, Scratch};
use crate::kernels::activations::{Line, Places32};
use crate::kernels::isa::SimdInt;
use crate::kernels::unpack::{biased, Block32, Codes};

/// A block of 32 weights.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Unpacked32 {
    /// In the weights' order.
    codes: [u8; 32],
    d: f32,
    m: f32,
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
