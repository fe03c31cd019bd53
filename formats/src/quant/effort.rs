//! How long quantizers search for scales.

/// How long quantizers search for scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Half of the trials of `Default`.
    Fast,
    /// As many trials as pay off: twice as many of any kind lower the error by less than 0.5 %.
    #[default]
    Default,
    /// About thirty times as many trials for the types with minimums, and four times as many for
    /// those without. The squared error is up to 2 % lower.
    Best,
    /// The trials of `Best`, where what is searched for does not end with a block.
    Max,
}

impl Effort {
    /// Factors for the scales of the scales. Another scale rounds all integers differently, which
    /// may lower the error.
    #[inline(always)]
    pub(super) fn d_factors(self) -> &'static [f32] {
        match self {
            Self::Fast => &[1.0],
            Self::Default => &[1.0, 16.0 / 15.0],
            Self::Best | Self::Max => &[0.95, 1.0, 1.033, 1.067, 1.1, 1.15, 1.2],
        }
    }

    /// How often the scales of the scales are fitted to the integers, and the integers to them.
    #[inline(always)]
    pub(super) fn refits(self) -> usize {
        match self {
            Self::Fast => 1,
            Self::Default => 2,
            Self::Best | Self::Max => 6,
        }
    }

    /// Where the trials of the only scale of IQ4_NL begin, in units of their distance.
    #[inline(always)]
    pub(super) fn trial_shifts(self) -> &'static [f32] {
        match self {
            Self::Fast => &[0.0],
            Self::Default => &[0.0, 0.5],
            Self::Best | Self::Max => &[0.0, 0.25, 0.5, 0.75],
        }
    }

    /// Further offsets to choose codes for, beside the likeliest one. They are relative to the last
    /// offset and in units of the step between codes.
    #[inline(always)]
    pub(super) fn offset_shifts(self) -> &'static [f32] {
        match self {
            Self::Fast | Self::Default => &[],
            Self::Best | Self::Max => &[-0.4, -0.2, 0.0, 0.2, 0.4],
        }
    }
}
