//! Q5_0: 32 weights of 5 bits and one scale, 5.5 bits a weight. `x = d * (q - 16)`, `q` in 0..32.
//!
//! Layout: `block_q5_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::Block;
use super::float::F16;
use super::q8_0::BlockQ8_0;
use super::search::{self, Range};

const CODES: Range = Range::signed(5);

/// 32 weights in 22 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// The scale.
    pub d: F16,
    /// The fifth bit of weight `i` in bit `i`, little-endian.
    pub qh: [u8; 4],
    /// The low bits of weight `i` in the low, of weight `i + 16` in the high half of byte `i`.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl BlockQ5_0 {
    /// The codes, -16..16.
    pub fn codes(&self) -> [i8; 32] {
        unpack(&self.qs, self.qh).map(|q| q as i8 - 16)
    }
}

impl Block for BlockQ5_0 {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

    fn quantize(x: &[f32]) -> Self {
        let x = search::finite::<32>(x);
        let d = F16::from_f32(search::scale(&x, CODES));
        let q = search::encode(&x, d.to_f32(), 0.0, CODES);
        let (qs, qh) = pack(&q.map(|q| (q + 16.0) as u8));
        Self { d, qh, qs }
    }

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in y.iter_mut().zip(self.codes()) {
            *y = d * f32::from(q);
        }
    }

    fn dot_row(w: &[Self], a: &[BlockQ8_0]) -> f32 {
        w.iter().zip(a).fold(0.0, |sum, (w, a)| sum + w.d.to_f32() * a.dot(&w.codes()))
    }
}

/// Codes of 5 bits from the halves of `qs` and the bits of `qh`; also Q5_1's.
pub(super) fn unpack(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let qh = u32::from_le_bytes(qh);
    let mut q = [0; 32];
    for (i, byte) in qs.iter().enumerate() {
        q[i] = byte & 15;
        q[i + 16] = byte >> 4;
    }
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((qh >> i) as u8 & 1) << 4;
    }
    q
}

/// The reverse of [`unpack`]: `(qs, qh)`.
pub(super) fn pack(q: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let qs = std::array::from_fn(|i| (q[i] & 15) | q[i + 16] << 4);
    let qh = (0..32).fold(0, |qh, i| qh | u32::from(q[i] >> 4) << i);
    (qs, qh.to_le_bytes())
}
