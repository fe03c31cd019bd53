//! The types whose blocks are unpacked by tables. Their rows become [`Symmetric`] blocks in memory, a
//! few at a time, for which there is one kernel.

use lapidary_formats::quant::blocks::{Symmetric, Unpack};

use super::{biased, Headers, KBlock, Rule};
use crate::kernels::isa::SimdInt;

/// Unpacks the blocks `w` of a type.
pub type UnpackBlocks = fn(w: &[u8], to: &mut [Symmetric]);

/// The [`UnpackBlocks`] of type `T`.
pub fn unpack_blocks<T: Unpack>(w: &[u8], to: &mut [Symmetric]) {
    let w: &[T] = bytemuck::cast_slice(w);
    w.iter().zip(to).for_each(|(w, to)| *to = w.unpack());
}

impl KBlock for Symmetric {
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 127;
    const SCALES: [i16; 2] = [-128, 127];
    const RULE: Rule = Rule::Signed;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        let q: &[[u8; 64]; 4] = bytemuck::cast_ref(&self.q);
        let load = |i: usize| biased(s, s.load_bytes(&q[i]));
        [load(0), load(1), load(2), load(3)]
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        let scales = s.load_quarters([
            bytemuck::cast_ref(&w[0].scales),
            bytemuck::cast_ref(&w[1].scales),
            bytemuck::cast_ref(&w[2].scales),
            bytemuck::cast_ref(&w[3].scales),
        ]);
        let d = [w[0].d, w[1].d, w[2].d, w[3].d];
        Headers { scales, mins: scales, d, dmin: [0.0; 4] }
    }
}
