//! The types whose codes of four bits stand for values at unequal distances. `formats` describes their
//! layouts.

use lapidary_formats::quant::blocks::{BlockIQ4NL, BlockIQ4XS, BlockMXFP4, IQ4_VALUES};

use super::k_quants::{begin, repeat};
use super::{Block32, Codes, Headers, KBlock, Rule};
use crate::kernels::isa::{Simd, SimdInt};

/// The values that the codes of two times 32 weights stand for, as `table` has them.
#[inline(always)]
fn values<S: SimdInt>(s: S, table: &[u8; 16], a: &[u8; 16], b: &[u8; 16]) -> S::Bytes {
    s.lookup(table, s.nibbles(a, b))
}

/// A table of values to which `bias` is added.
const fn table(values: [i8; 16], bias: u8) -> [u8; 16] {
    let (mut table, mut i) = ([0; 16], 0);
    while i < 16 {
        table[i] = (values[i] as u8).wrapping_add(bias);
        i += 1;
    }
    table
}

impl Block32 for BlockIQ4NL {
    const CODES: Codes = Codes::Signed;
    const MAX_CODE: u32 = 127;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        values(s, const { &table(IQ4_VALUES, 0) }, &a.qs, &b.qs)
    }

    #[inline(always)]
    fn d<S: Simd>(s: S, w: [&Self; 4]) -> [f32; 4] {
        widen_each!(s, w, d)
    }
}

impl Block32 for BlockMXFP4 {
    const CODES: Codes = Codes::Signed;
    const MAX_CODE: u32 = 12;

    #[inline(always)]
    fn codes<S: SimdInt>(s: S, a: &Self, b: &Self) -> S::Bytes {
        values(s, const { &table(Self::VALUES, 0) }, &a.qs, &b.qs)
    }

    #[inline(always)]
    fn d<S: Simd>(_: S, w: [&Self; 4]) -> [f32; 4] {
        w.map(Self::d)
    }
}

impl KBlock for BlockIQ4XS {
    const GROUP: usize = 32;
    const MAX_CODE: u32 = 127;
    const SCALES: [i16; 2] = [-32, 31];
    const RULE: Rule = Rule::Signed;

    #[inline(always)]
    fn codes<S: SimdInt>(&self, s: S) -> [S::Bytes; 4] {
        let table = const { &table(IQ4_VALUES, S::BIAS) };
        [
            values(s, table, &self.qs[0], &self.qs[1]),
            values(s, table, &self.qs[2], &self.qs[3]),
            values(s, table, &self.qs[4], &self.qs[5]),
            values(s, table, &self.qs[6], &self.qs[7]),
        ]
    }

    #[inline(always)]
    fn headers<S: SimdInt>(s: S, w: [&Self; 4]) -> Headers<S> {
        /// Where the low four bits of the scales lie in the first bytes of a block: in each dword those
        /// of scales `j` and `j + 4`, in its first two bytes.
        const LOW: [u8; 64] = repeat([4, 6, 6, 6, 4, 6, 6, 6, 5, 7, 7, 7, 5, 7, 7, 7]);
        /// Where the high two bits lie.
        const HIGH: [u8; 64] = repeat([2, 3, 3, 3, 2, 3, 3, 3, 2, 3, 3, 3, 2, 3, 3, 3]);
        /// From this order into that of the scales.
        const ORDER: [u8; 64] = repeat([0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0]);
        let begins = s.load_quarters([begin(w[0]), begin(w[1]), begin(w[2]), begin(w[3])]);
        let low = s.shift_dwords::<0, 4, 0, 4>(s.shuffle(begins, &LOW));
        let high = s.shift_dwords::<-4, -2, 0, 2>(s.shuffle(begins, &HIGH));
        let (low, high) = (s.and(low, s.splat_byte(15)), s.and(high, s.splat_byte(0x30)));
        // They are stored with 32 added.
        let scales = s.sub_bytes(s.or(low, high), s.splat_byte(32));
        let scales = s.shuffle(scales, &ORDER);
        let [d, _] = s.first_f16_pairs(begins);
        Headers { scales, mins: scales, d, dmin: [0.0; 4] }
    }
}
