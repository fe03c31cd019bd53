//! Q8_K: 256 activations of 8 bits, one scale, and sums. `x = d * q`. The k-quants are multiplied
//! with these blocks; they never occur in files.
//!
//! Layout: `block_q8_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F32;
use super::lanes::Lanes;
use super::range::Range;
use super::search;

/// Without -128: see [`BlockQ8K::qs`].
const CODES: Range = Range { low: -127.0, high: 127.0 };

/// 256 activations in 292 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8K {
    /// The scale.
    pub d: F32,
    /// The codes, within ±127: kernels rely on -128 not occurring.
    pub qs: [i8; 256],
    /// The sums of every 16 codes, as `i16`.
    pub bsums: [[u8; 2]; 16],
}
const _: () = assert!(size_of::<BlockQ8K>() == 292);

impl BlockQ8K {
    /// The sum of the 16 codes from `16 * i`.
    pub fn bsum(&self, i: usize) -> i32 {
        i32::from(i16::from_le_bytes(self.bsums[i]))
    }
}

impl Block for BlockQ8K {
    const LEN: usize = 256;
    type Activation = BlockQ8K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in y.iter_mut().zip(self.qs) {
            *y = d * f32::from(q);
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8K]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| {
            let products: i32 =
                w.qs.iter().zip(&a.qs).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum();
            sum + w.d.to_f32() * a.d.to_f32() * products as f32
        })
    }
}

impl Quantize for BlockQ8K {
    /// `d` is the largest magnitude / 127, and the codes are `x * (1 / d)` rounded half to even.
    /// Every vector unit rounds that way by default, so fast kernels can give the same bytes.
    #[inline(always)]
    fn quantize<L: Lanes>(_: L, x: &[f32], _: &[f32], _: Effort) -> Self {
        let x = search::finite::<256>(x);
        let d = search::magnitude(&x) / 127.0;
        let inverse = search::inverse(d);
        let qs = x.map(|x| CODES.nearest(x * inverse) as i8);
        let sum = |i: usize| qs[16 * i..][..16].iter().map(|q| i16::from(*q)).sum::<i16>();
        Self { d: F32::from_f32(d), qs, bsums: std::array::from_fn(|i| sum(i).to_le_bytes()) }
    }
}
