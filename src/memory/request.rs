//! What a sequence is given where memory is short.

use crate::kernels::KvType;
use crate::model::{StateOptions, N_UBATCH};

/// What is wanted; what is `None` is picked.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRequest {
    /// The most positions.
    pub n_ctx: usize,
    /// Whether fewer will do.
    pub shorter: bool,
    /// What keys and values are stored as.
    pub kv: Option<KvType>,
    /// Positions that are evaluated together.
    pub n_ubatch: Option<usize>,
}

/// The smallest ubatch that is picked: below, a prompt is read much slower, and little is won.
const SMALLEST_UBATCH: usize = 32;

/// Contexts that are picked are multiples of this, as the cache's spans are.
const STEP: usize = 256;

impl MemoryRequest {
    /// What there is without a word: [`N_UBATCH`], f16, and the whole context.
    pub fn whole(&self) -> StateOptions {
        let kv = self.kv.unwrap_or(KvType::F16);
        StateOptions {
            n_ubatch: self.n_ubatch.unwrap_or(N_UBATCH),
            ..StateOptions::new(self.n_ctx, kv)
        }
    }

    /// The first of what could be done that `fits`. What costs least is given up first: half of the
    /// cache's precision, then the speed of prompts, and the length of the context last.
    pub fn pick(&self, fits: impl Fn(&StateOptions) -> bool) -> Option<StateOptions> {
        let whole = self.candidates().find(&fits);
        if whole.is_some() || !self.shorter {
            return whole;
        }
        // The longest that fits. What fits goes on fitting when it gets shorter, so halving finds it.
        let steps = |n: usize| StateOptions { n_ctx: n * STEP, ..self.smallest() };
        let (mut fitting, mut too_long) = (0, self.n_ctx.div_ceil(STEP));
        while fitting + 1 < too_long {
            let middle = (fitting + too_long) / 2;
            match fits(&steps(middle)) {
                true => fitting = middle,
                false => too_long = middle,
            }
        }
        (fitting > 0).then(|| steps(fitting))
    }

    /// What takes the least memory of what [`pick`](Self::pick) tries.
    pub fn least(&self) -> StateOptions {
        let n_ctx = if self.shorter { self.n_ctx.min(STEP) } else { self.n_ctx };
        StateOptions { n_ctx, ..self.smallest() }
    }

    fn smallest(&self) -> StateOptions {
        self.candidates().last().unwrap_or(self.whole())
    }

    /// The whole context, from what is best to what takes least.
    fn candidates(&self) -> impl Iterator<Item = StateOptions> {
        let (whole, n_ubatch) = (self.whole(), self.n_ubatch);
        let eight_bits = StateOptions { kv: self.kv.unwrap_or(KvType::Q8_0), ..whole };
        let halves = std::iter::successors(Some(whole.n_ubatch / 2), |n_ubatch| Some(n_ubatch / 2));
        let smaller = halves.take_while(move |n| n_ubatch.is_none() && *n >= SMALLEST_UBATCH);
        let smaller = smaller.map(move |n_ubatch| StateOptions { n_ubatch, ..eight_bits });
        [whole, eight_bits].into_iter().chain(smaller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: MemoryRequest =
        MemoryRequest { n_ctx: 8192, shorter: true, kv: None, n_ubatch: None };

    /// Something that grows with everything.
    fn bytes(options: &StateOptions) -> usize {
        options.n_ctx * options.kv.head_bytes(128) + options.n_ubatch * 1000
    }

    fn pick(request: MemoryRequest, limit: usize) -> Option<(usize, KvType, usize)> {
        let options = request.pick(|options| bytes(options) <= limit)?;
        Some((options.n_ctx, options.kv, options.n_ubatch))
    }

    #[test]
    fn precision_goes_first_then_ubatches_then_the_context() {
        let (f16, q8_0) = (8192 * 256, 8192 * 136);
        for (limit, picked) in [
            (f16 + 512_000, (8192, KvType::F16, 512)),
            (f16 + 511_999, (8192, KvType::Q8_0, 512)),
            (q8_0 + 512_000, (8192, KvType::Q8_0, 512)),
            (q8_0 + 511_999, (8192, KvType::Q8_0, 256)),
            (q8_0 + 32_000, (8192, KvType::Q8_0, 32)),
            (q8_0 + 31_999, (8192 - 256, KvType::Q8_0, 32)),
            (256 * 136 + 32_000, (256, KvType::Q8_0, 32)),
        ] {
            assert_eq!(pick(REQUEST, limit), Some(picked), "{limit}");
        }
        assert_eq!(pick(REQUEST, 256 * 136 + 31_999), None);
        assert_eq!(bytes(&REQUEST.least()), 256 * 136 + 32_000);
    }

    #[test]
    fn what_was_asked_for_is_kept() {
        let f16 = MemoryRequest { kv: Some(KvType::F16), ..REQUEST };
        assert_eq!(pick(f16, 8192 * 256 + 100_000), Some((8192, KvType::F16, 64)));
        let n_ubatch = MemoryRequest { n_ubatch: Some(512), ..REQUEST };
        assert_eq!(pick(n_ubatch, 8191 * 136 + 512_000), Some((8192 - 256, KvType::Q8_0, 512)));
        let long = MemoryRequest { shorter: false, ..REQUEST };
        assert_eq!(pick(long, 8191 * 136), None);
        assert_eq!(long.least().n_ctx, 8192);
        // A context that is no multiple of a step, and one that is less than one.
        assert_eq!(
            pick(MemoryRequest { n_ctx: 1000, ..REQUEST }, 999 * 136 + 32_000).unwrap().0,
            768
        );
        assert_eq!(pick(MemoryRequest { n_ctx: 100, ..REQUEST }, 99 * 136), None);
    }
}
