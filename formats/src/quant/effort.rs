//! How long quantizers search for scales.

/// How long quantizers search for scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// About half of the trials of `Default`.
    Fast,
    /// As many trials as pay off.
    #[default]
    Default,
    /// About eighty times as many trials for the types with minimums, and four times as many for
    /// those without. The squared error is up to 2 % lower.
    Best,
    /// The trials of `Best`, where what is searched for does not end with a block.
    Max,
}

/// What a type tries with each effort.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByEffort<T> {
    pub(super) fast: T,
    pub(super) default: T,
    pub(super) best: T,
}

impl<T> ByEffort<T> {
    #[inline(always)]
    pub(super) fn of(&self, effort: Effort) -> &T {
        match effort {
            Effort::Fast => &self.fast,
            Effort::Default => &self.default,
            Effort::Best | Effort::Max => &self.best,
        }
    }
}
