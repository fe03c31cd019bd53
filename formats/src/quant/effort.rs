//! How long quantizers search for scales.

/// How long to search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Half as long as it pays.
    Fast,
    /// As long as it pays: twice as many trials of one kind lower the error by less than 0.5 %.
    #[default]
    Default,
    /// Some thirty times as long for the types with minimums and four times for those without, for
    /// another 1 or 2 % off the squared error.
    Best,
}

impl Effort {
    /// What the scales of scales are multiplied with: other ones round all integers anew, which is
    /// another chance.
    #[inline(always)]
    pub(super) fn stretches(self) -> &'static [f32] {
        match self {
            Self::Fast => &[1.0],
            Self::Default => &[1.0, 16.0 / 15.0],
            Self::Best => &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15, 1.2],
        }
    }

    /// How often scales of scales are fitted to the integers, and integers to them.
    #[inline(always)]
    pub(super) fn refits(self) -> usize {
        match self {
            Self::Fast => 1,
            Self::Default => 2,
            Self::Best => 6,
        }
    }

    /// Offsets that codes are chosen for, beside the likeliest: so many codes from the last.
    #[inline(always)]
    pub(super) fn shifts(self) -> &'static [f32] {
        match self {
            Self::Fast | Self::Default => &[],
            Self::Best => &[-0.4, -0.2, 0.0, 0.2, 0.4],
        }
    }
}
