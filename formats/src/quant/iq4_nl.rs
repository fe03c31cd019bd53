//! IQ4_NL: 32 weights of 4 bits and one scale, 4.5 bits per weight. `x = d * v[q]`, where `v` are 16
//! values at unequal distances ([`IQ4_VALUES`]).
//!
//! Layout: `block_iq4_nl` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::{ByEffort, Effort};
use super::float::F16;
use super::iq4::{self, Values, IQ4_VALUES};
use super::lanes::Lanes;
use super::q8_0::BlockQ8_0;
use super::range::Range;
use super::search;
use super::second_order::{Codes, OnGrid, Parts};

/// Where the trials of the scale begin, in units of their distance.
const SHIFTS: ByEffort<&[f32]> =
    ByEffort { fast: &[0.0], default: &[0.0, 0.5], best: &[0.0, 0.25, 0.5, 0.75] };

/// 32 weights in 18 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4NL {
    /// The scale.
    pub d: F16,
    /// Weight `i` in the low half of byte `i`, weight `i + 16` in the high half.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockIQ4NL>() == 18);

impl BlockIQ4NL {
    fn values(&self) -> [i8; 32] {
        iq4::unpack(&self.qs, &IQ4_VALUES)
    }
}

impl Block for BlockIQ4NL {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in y.iter_mut().zip(self.values()) {
            *y = d * f32::from(q);
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8_0]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.d.to_f32() * a.dot(&w.values()))
    }
}

impl Quantize for BlockIQ4NL {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], effort: Effort) -> Self {
        let (x, w) = (search::finite::<32>(x), search::importance::<32>(w));
        let shifts = SHIFTS.of(effort);
        let d = F16::from_f32(search::scale_of_block(l, &x, &w, Values, shifts));
        let mut values = [0; 32];
        search::encode(&x, d.to_f32(), 0.0, Values, &mut values);
        Self { d, qs: iq4::pack(&values) }
    }
}

impl OnGrid for BlockIQ4NL {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Values(Values);
    const SCALES: Option<Range> = None;

    fn parts(&self) -> Parts {
        Parts::scale(self.d.to_f32())
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        Self { d: F16::from_f32(parts.d), qs: iq4::pack(&std::array::from_fn(|i| q[i] as u8)) }
    }
}
