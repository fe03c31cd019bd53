//! The values of IQ4_NL and IQ4_XS, which are closer together near 0, where most weights are.

use super::lanes::Lanes;
use super::range::Integers;

/// What the codes of four bits stand for
/// ([`kvalues_iq4nl`](https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h)).
pub const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The middle between each value and the next.
const MIDDLES: [f32; 15] = {
    let (mut middles, mut i) = ([0.0; 15], 0);
    while i < 15 {
        middles[i] = (IQ4_VALUES[i] as f32 + IQ4_VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The code of each value, by the value as an unsigned byte.
const CODES: [u8; 256] = {
    let (mut codes, mut i) = ([0; 256], 0);
    while i < 16 {
        codes[IQ4_VALUES[i] as u8 as usize] = i as u8;
        i += 1;
    }
    codes
};

/// [`IQ4_VALUES`], to round to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values;

impl Integers for Values {
    /// From where the largest magnitude is clipped to the last value, down to where a third of the range
    /// is left unused, for the sake of smaller values that are more important. Found by trying.
    #[inline(always)]
    fn trials(self) -> (f32, f32) {
        (160.0, 90.0)
    }

    #[inline(always)]
    fn nearest_lanes<L: Lanes>(self, l: L, x: L::F) -> L::F {
        let mut nearest = l.splat(f32::from(IQ4_VALUES[0]));
        for (middle, value) in MIDDLES.iter().zip(&IQ4_VALUES[1..]) {
            nearest = l.select_less(x, l.splat(*middle), nearest, l.splat(f32::from(*value)));
        }
        nearest
    }

    /// The values are others on the negative side.
    #[inline(always)]
    fn mirrored(self) -> f32 {
        0.0
    }

    #[inline(always)]
    fn nearest_mirrored<L: Lanes>(self, l: L, x: L::F) -> L::F {
        self.nearest_lanes(l, x)
    }

    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        let mut nearest = IQ4_VALUES[0];
        for (middle, value) in MIDDLES.iter().zip(&IQ4_VALUES[1..]) {
            nearest = if x < *middle { nearest } else { *value };
        }
        nearest as u8
    }
}

/// The values of 32 weights, from those of the codes: weight `i` has its code in the low half of byte
/// `i`, weight `i + 16` in the high half.
#[inline(always)]
pub(super) fn unpack(qs: &[u8; 16], values: &[i8; 16]) -> [i8; 32] {
    let mut y = [0; 32];
    for (i, byte) in qs.iter().enumerate() {
        y[i] = values[usize::from(byte & 15)];
        y[i + 16] = values[usize::from(byte >> 4)];
    }
    y
}

/// The reverse of [`unpack`] with [`IQ4_VALUES`], which are in two's complement.
#[inline(always)]
pub(super) fn pack(values: &[u8; 32]) -> [u8; 16] {
    let code = |i: usize| CODES[usize::from(values[i])];
    std::array::from_fn(|i| code(i) | code(i + 16) << 4)
}
