//! Ranges of integers (codes or scales), kept as floats.

use super::lanes::Lanes;

/// Integers that values are rounded to.
pub(super) trait Integers: Copy {
    /// The multiples that the largest magnitude of a block is mapped to while a scale is searched: the
    /// first one, and how much smaller the last one is.
    fn trials(self) -> (f32, f32);
    /// The integer nearest to each lane, as a float.
    fn nearest_lanes<L: Lanes>(self, l: L, x: L::F) -> L::F;
    /// Up to which magnitude numbers are rounded to integers of the range without being clamped to it, and so
    /// that `-x` gives what `x` gives, negated.
    fn mirrored(self) -> f32;
    /// [`nearest_lanes`](Self::nearest_lanes) of numbers of up to this magnitude.
    fn nearest_mirrored<L: Lanes>(self, l: L, x: L::F) -> L::F;
    /// The nearest integer as a byte, in two's complement.
    fn code(self, x: f32) -> u8;
}

/// The integers `low..=high`, as floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) low: f32,
    pub(super) high: f32,
}

/// Adding this rounds to an integer, because floats from 2^23 up are integers. The last bits of the
/// sum are that integer. (`round_ties_even` is a library call on processors before SSE4.1.)
const ROUND: f32 = 1.5 * (1 << 23) as f32;

impl Range {
    /// The unsigned integers of `bits` bits.
    pub(super) const fn unsigned(bits: u32) -> Self {
        Self { low: 0.0, high: ((1 << bits) - 1) as f32 }
    }

    /// The integers of `bits` bits in two's complement.
    pub(super) const fn signed(bits: u32) -> Self {
        let half = (1 << (bits - 1)) as f32;
        Self { low: -half, high: half - 1.0 }
    }

    /// Limits `x` to the range, without rounding it. NaN gives `low`.
    #[inline(always)]
    pub(super) fn clamp(self, x: f32) -> f32 {
        // Each comparison compiles to one instruction; `f32::clamp` takes more.
        let x = if x > self.low { x } else { self.low };
        if x < self.high {
            x
        } else {
            self.high
        }
    }

    /// The integer in the range nearest to `x`, ties to even.
    #[inline(always)]
    pub(super) fn nearest(self, x: f32) -> f32 {
        (self.clamp(x) + ROUND) - ROUND
    }

    /// [`clamp`](Self::clamp) of each lane.
    #[inline(always)]
    pub(super) fn clamp_lanes<L: Lanes>(self, l: L, x: L::F) -> L::F {
        l.min(l.max(x, l.splat(self.low)), l.splat(self.high))
    }
}

impl Integers for Range {
    /// From just outside the range, which clips the largest magnitude a little in favour of the many
    /// small values, down to where the coarser steps cost more than another rounding can gain. These
    /// limits were found by trying, for all types.
    #[inline(always)]
    fn trials(self) -> (f32, f32) {
        let half = -self.low;
        (half + 0.5, 1.0 + half / 4.0)
    }

    #[inline(always)]
    fn nearest_lanes<L: Lanes>(self, l: L, x: L::F) -> L::F {
        l.round(self.clamp_lanes(l, x))
    }

    #[inline(always)]
    fn mirrored(self) -> f32 {
        self.high + 0.49
    }

    #[inline(always)]
    fn nearest_mirrored<L: Lanes>(self, l: L, x: L::F) -> L::F {
        l.round(x)
    }

    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        (self.clamp(x) + ROUND).to_bits() as u8
    }
}
