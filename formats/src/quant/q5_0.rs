//! Q5_0: 32 weights of 5 bits and one scale, 5.5 bits per weight. `x = d * (q - 16)`, `q` in 0..32.
//!
//! Layout: `block_q5_0` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Quantize};
use super::effort::Effort;
use super::float::F16;
use super::lanes::Lanes;
use super::q8_0::BlockQ8_0;
use super::range::Range;
use super::search;
use super::second_order::{Codes, OnGrid, Parts};

const CODES: Range = Range::signed(5);

/// 32 weights in 22 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// The scale.
    pub d: F16,
    /// The fifth bit of weight `i` in bit `i`, little-endian.
    pub qh: [u8; 4],
    /// The low bits of weight `i` in the low half of byte `i`, of weight `i + 16` in the high half.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl BlockQ5_0 {
    /// The codes, in -16..16.
    pub fn codes(&self) -> [i8; 32] {
        unpack(&self.qs, self.qh).map(|q| q as i8 - 16)
    }
}

impl Block for BlockQ5_0 {
    const LEN: usize = 32;
    type Activation = BlockQ8_0;

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

impl Quantize for BlockQ5_0 {
    #[inline(always)]
    fn quantize<L: Lanes>(l: L, x: &[f32], w: &[f32], _: Effort) -> Self {
        let (x, w) = (search::finite::<32>(x), search::importance::<32>(w));
        let d = F16::from_f32(search::scale_of_block(l, &x, &w, CODES, &[0.0]));
        let mut q = [0; 32];
        search::encode(&x, d.to_f32(), 0.0, CODES, &mut q);
        let (qs, qh) = pack(&q.map(|q| q.wrapping_add(16)));
        Self { d, qh, qs }
    }
}

impl OnGrid for BlockQ5_0 {
    const SUB: usize = 32;
    const CODES: Codes = Codes::Range(CODES);
    const SCALES: Option<Range> = None;

    fn parts(&self) -> Parts {
        Parts::scale(self.d.to_f32())
    }

    fn from_parts(parts: &Parts, q: &[i8]) -> Self {
        let (qs, qh) = pack(&std::array::from_fn(|i| (q[i] + 16) as u8));
        Self { d: F16::from_f32(parts.d), qh, qs }
    }
}

/// Joins the low bits in `qs` and the fifth bits in `qh` to codes of 5 bits; Q5_1 uses it too. Works
/// on eight bytes at once in a 64-bit word: baseline x86-64 has no vector shift with a separate
/// count for each lane.
pub(super) fn unpack(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let mut q = [0; 32];
    let (first, second) = q.split_at_mut(16);
    for (i, bytes) in qs.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let low = (word & LOW) | bits_to_bytes(qh[i]) << 4;
        let high = (word >> 4 & LOW) | bits_to_bytes(qh[i + 2]) << 4;
        first[8 * i..][..8].copy_from_slice(&low.to_le_bytes());
        second[8 * i..][..8].copy_from_slice(&high.to_le_bytes());
    }
    q
}

/// Puts bit `i` into byte `i`.
fn bits_to_bytes(bits: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Every byte gets a copy of `bits` and keeps its own bit, which is then carried to the top.
    let own = (u64::from(bits) * ONES) & 0x8040_2010_0804_0201;
    ((own + 0x7f * ONES) >> 7) & ONES
}

/// The reverse of [`unpack`]: `(qs, qh)`.
#[inline(always)]
pub(super) fn pack(q: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let qs = std::array::from_fn(|i| (q[i] & 15) | q[i + 16] << 4);
    let qh = (0..32).fold(0, |qh, i| qh | u32::from(q[i] >> 4) << i);
    (qs, qh.to_le_bytes())
}
