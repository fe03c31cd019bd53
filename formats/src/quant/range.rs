//! Integers of a range, as codes and scales are, among floats.

use super::lanes::Lanes;

/// The integers `low..=high`, of codes or of scales, as floats.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) low: f32,
    pub(super) high: f32,
}

/// Adding it rounds to an integer, as floats from 2^23 up are integers; the sum's last bits are that
/// integer. (`round_ties_even` is a library call on processors before SSE4.1.)
const ROUND: f32 = 1.5 * (1 << 23) as f32;

impl Range {
    /// What `bits` hold without a sign.
    pub(super) const fn unsigned(bits: u32) -> Self {
        Self { low: 0.0, high: ((1 << bits) - 1) as f32 }
    }

    /// What `bits` hold in two's complement.
    pub(super) const fn signed(bits: u32) -> Self {
        let half = (1 << (bits - 1)) as f32;
        Self { low: -half, high: half - 1.0 }
    }

    /// The value of the range nearest to `x`, which need not be whole. NaN gives `low`.
    #[inline(always)]
    pub(super) fn clamp(self, x: f32) -> f32 {
        // Comparisons compile to one instruction each, `f32::clamp` to more.
        let x = if x > self.low { x } else { self.low };
        if x < self.high {
            x
        } else {
            self.high
        }
    }

    /// The integer of the range nearest to `x`, ties to even.
    #[inline(always)]
    pub(super) fn nearest(self, x: f32) -> f32 {
        (self.clamp(x) + ROUND) - ROUND
    }

    /// The same as a byte, in two's complement.
    #[inline(always)]
    pub(super) fn code(self, x: f32) -> u8 {
        (self.clamp(x) + ROUND).to_bits() as u8
    }

    /// [`clamp`](Self::clamp) of each lane.
    #[inline(always)]
    pub(super) fn clamp_lanes<L: Lanes>(self, l: L, x: L::V) -> L::V {
        l.min(l.max(x, l.splat(self.low)), l.splat(self.high))
    }

    /// [`nearest`](Self::nearest) of each lane.
    #[inline(always)]
    pub(super) fn nearest_lanes<L: Lanes>(self, l: L, x: L::V) -> L::V {
        let round = l.splat(ROUND);
        l.sub(l.add(self.clamp_lanes(l, x), round), round)
    }
}
