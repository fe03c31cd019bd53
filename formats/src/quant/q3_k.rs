//! Q3_K: 256 weights of 3 bits in 16 sub-blocks of 16, each with a signed scale of 6 bits, 3.4375
//! bits a weight. `x = d * (scale - 32) * (q - 4)`, `q` in 0..8.
//!
//! Layout: `block_q3_K` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::Block;
use super::float::F16;
use super::q2_k;
use super::q8_k::BlockQ8K;
use super::search::Range;
use super::symmetric::Symmetric;

/// 256 weights in 110 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// The third bits: of weight `32 * k + i` in bit `k` of byte `i`.
    pub hmask: [u8; 32],
    /// The low bits: of every 128 weights, those of weight `32 * k + i` in bits `2 * k` and up of
    /// byte `i`.
    pub qs: [u8; 64],
    /// The scales plus 32: the low four bits of scale `j` in the low, of scale `j + 8` in the high
    /// half of byte `j`; the upper two bits of scale `j` in byte `8 + j % 4`, from bit `j / 4 * 2`.
    pub scales: [u8; 12],
    /// The scale of the scales.
    pub d: F16,
}
const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    /// The block's numbers, each by itself.
    pub fn unpack(&self) -> Symmetric {
        let low = q2_k::unpack(&self.qs);
        let mut q = [0; 256];
        for (k, (q, low)) in q.chunks_exact_mut(32).zip(low.chunks_exact(32)).enumerate() {
            for i in 0..32 {
                q[i] = (low[i] | (self.hmask[i] >> k & 1) << 2) as i8 - 4;
            }
        }
        Symmetric { d: self.d.to_f32(), scales: self.unpack_scales(), q }
    }

    /// The scales, within -32..32.
    #[inline]
    pub fn unpack_scales(&self) -> [i8; 16] {
        // Four at a time, a byte each.
        let [a, b, high] =
            [0, 4, 8].map(|i| u32::from_le_bytes([0, 1, 2, 3].map(|k| self.scales[i + k])));
        let join = |low: u32, high: u32| (low & 0x0f0f_0f0f) | (high & 0x0303_0303) << 4;
        let four =
            [join(a, high), join(b, high >> 2), join(a >> 4, high >> 4), join(b >> 4, high >> 6)];
        let bytes: [u8; 16] = bytemuck::cast(four.map(u32::to_le_bytes));
        bytes.map(|scale| scale as i8 - 32)
    }

    fn pack(x: &Symmetric) -> Self {
        let q = x.q.map(|q| (q + 4) as u8);
        let mut hmask = [0; 32];
        for (k, q) in q.chunks_exact(32).enumerate() {
            for i in 0..32 {
                hmask[i] |= (q[i] >> 2) << k;
            }
        }
        let scales = pack_scales(&x.scales);
        Self { hmask, qs: q2_k::pack(&q), scales, d: F16::from_f32(x.d) }
    }
}

impl Block for BlockQ3K {
    const LEN: usize = 256;
    type Activation = BlockQ8K;

    fn quantize(x: &[f32]) -> Self {
        Self::pack(&Symmetric::fit(x, Range::signed(3), Range::signed(6)))
    }

    fn dequantize(&self, y: &mut [f32]) {
        self.unpack().dequantize(y);
    }

    fn dot_row(w: &[Self], a: &[BlockQ8K]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.unpack().dot(a))
    }
}

/// See [`BlockQ3K::scales`].
fn pack_scales(scales: &[i8; 16]) -> [u8; 12] {
    let mut b = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        b[j % 8] |= (scale & 15) << (j / 8 * 4);
        b[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
    b
}
