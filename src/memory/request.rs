//! Chooses the options of a sequence if memory is short.

use crate::kernels::KvType;
use crate::model::{StateOptions, N_UBATCH};

/// What was asked for. Options that are `None` are chosen.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRequest {
    /// Longest context, in tokens.
    pub n_ctx: usize,
    /// Whether a shorter context is acceptable.
    pub may_shorten: bool,
    /// Type of the KV cache.
    pub kv: Option<KvType>,
    /// Most tokens of a prompt that are evaluated together.
    pub n_ubatch: Option<usize>,
}

/// Smallest ubatch that is chosen. Smaller ones would save little memory and make prompts much
/// slower.
const MIN_UBATCH: usize = 32;

/// Contexts that are shortened are multiples of this, like the spans of the KV cache.
const CTX_STEP: usize = 256;

impl MemoryRequest {
    /// The options if memory is not short: the whole context and, where nothing else was asked for,
    /// an f16 cache and ubatches of [`N_UBATCH`].
    pub fn preferred(&self) -> StateOptions {
        let kv = self.kv.unwrap_or(KvType::F16);
        StateOptions {
            n_ubatch: self.n_ubatch.unwrap_or(N_UBATCH),
            ..StateOptions::new(self.n_ctx, kv)
        }
    }

    /// The first options that `fits` accepts, or `None`. What matters least is given up first: half
    /// of the cache's precision, then the speed of prompts, and the length of the context last.
    pub fn pick(&self, fits: impl Fn(&StateOptions) -> bool) -> Option<StateOptions> {
        let whole = self.candidates().find(&fits);
        if whole.is_some() || !self.may_shorten {
            return whole;
        }
        // Binary search for the longest context that fits. A shorter one than that fits as well.
        let steps = |n: usize| StateOptions { n_ctx: n * CTX_STEP, ..self.smallest_whole() };
        let (mut fitting, mut too_long) = (0, self.n_ctx.div_ceil(CTX_STEP));
        while fitting + 1 < too_long {
            let middle = (fitting + too_long) / 2;
            match fits(&steps(middle)) {
                true => fitting = middle,
                false => too_long = middle,
            }
        }
        (fitting > 0).then(|| steps(fitting))
    }

    /// The options that take the least memory of all that [`pick`](Self::pick) tries.
    pub fn smallest(&self) -> StateOptions {
        let n_ctx = if self.may_shorten { self.n_ctx.min(CTX_STEP) } else { self.n_ctx };
        StateOptions { n_ctx, ..self.smallest_whole() }
    }

    fn smallest_whole(&self) -> StateOptions {
        self.candidates().last().unwrap_or(self.preferred())
    }

    /// The options with the whole context, from the best to those that take the least memory.
    fn candidates(&self) -> impl Iterator<Item = StateOptions> {
        let (whole, n_ubatch) = (self.preferred(), self.n_ubatch);
        let eight_bits = StateOptions { kv: self.kv.unwrap_or(KvType::Q8_0), ..whole };
        let halves = std::iter::successors(Some(whole.n_ubatch / 2), |n_ubatch| Some(n_ubatch / 2));
        let smaller = halves.take_while(move |n| n_ubatch.is_none() && *n >= MIN_UBATCH);
        let smaller = smaller.map(move |n_ubatch| StateOptions { n_ubatch, ..eight_bits });
        [whole, eight_bits].into_iter().chain(smaller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: MemoryRequest =
        MemoryRequest { n_ctx: 8192, may_shorten: true, kv: None, n_ubatch: None };

    /// A stand-in for the memory plan that grows with every option.
    fn bytes(options: &StateOptions) -> usize {
        options.n_ctx * options.kv.head_bytes(128) + options.n_ubatch * 1000
    }

    fn pick(request: MemoryRequest, limit: usize) -> Option<(usize, KvType, usize)> {
        let options = request.pick(|options| bytes(options) <= limit)?;
        Some((options.n_ctx, options.kv, options.n_ubatch))
    }

    #[test]
    fn precision_is_given_up_first_then_the_ubatch_size_then_the_context() {
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
        assert_eq!(bytes(&REQUEST.smallest()), 256 * 136 + 32_000);
    }

    #[test]
    fn options_that_were_given_are_kept() {
        let f16 = MemoryRequest { kv: Some(KvType::F16), ..REQUEST };
        assert_eq!(pick(f16, 8192 * 256 + 100_000), Some((8192, KvType::F16, 64)));
        let n_ubatch = MemoryRequest { n_ubatch: Some(512), ..REQUEST };
        assert_eq!(pick(n_ubatch, 8191 * 136 + 512_000), Some((8192 - 256, KvType::Q8_0, 512)));
        let long = MemoryRequest { may_shorten: false, ..REQUEST };
        assert_eq!(pick(long, 8191 * 136), None);
        assert_eq!(long.smallest().n_ctx, 8192);
        // A context that is not a multiple of the step, and one that is shorter than the step.
        assert_eq!(
            pick(MemoryRequest { n_ctx: 1000, ..REQUEST }, 999 * 136 + 32_000).unwrap().0,
            768
        );
        assert_eq!(pick(MemoryRequest { n_ctx: 100, ..REQUEST }, 99 * 136), None);
    }
}
