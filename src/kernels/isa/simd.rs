//! The vector operations that kernels are written in. Each gives the same bits on every instruction
//! set, and is named for what it does to numbers and bytes: none knows how a type's blocks are laid
//! out, which is what `unpack` is for.
//!
//! An implementation is a token that exists only on a machine with its instructions, so its
//! methods are safe to call. They are `#[inline(always)]` and become single instructions where an
//! [`Op`](super::Op) runs.

use bytemuck::{Pod, Zeroable};
use lapidary_formats::quant::Lanes;

use super::places::in_order;

/// Sixteen floats side by side: what the kernels need besides [`Lanes`].
pub trait Simd: Lanes + Send + Sync + 'static {
    /// How many [`F`](Lanes::F) the registers hold.
    const FLOATS: usize;

    /// The f16 values with these bits, widened.
    fn load_f16(self, x: &[u16; 16]) -> Self::F;
    /// The bf16 values with these bits, widened.
    fn load_bf16(self, x: &[u16; 16]) -> Self::F;
    /// Integers, converted.
    fn load_i8(self, x: &[i8; 16]) -> Self::F;
    /// The absolute values.
    fn abs(self, a: Self::F) -> Self::F;
    /// `a` with the sign of `sign`.
    fn copy_sign(self, a: Self::F, sign: Self::F) -> Self::F;
    /// `a`, but 0 where it is NaN.
    fn zero_nan(self, a: Self::F) -> Self::F;
    /// 2^n for `t` = 1.5 · 2^23 + n, with n from -126 to 127: the last bits of such a sum are n.
    fn exp2_of_rounded(self, t: Self::F) -> Self::F;
    /// Truncated to integers, which must fit.
    fn to_i8(self, a: Self::F) -> [i8; 16];
    /// The f16 value with these bits, widened.
    fn widen_f16(self, bits: u16) -> f32;
    /// The f16 values with these bits, widened.
    fn widen_f16s(self, bits: [u16; 4]) -> [f32; 4];

    /// Asks for the cache line at `p` to be read into the cache. Any address will do.
    fn prefetch(self, p: *const u8);

    /// The sum of the lanes: the second half is added to the first until one lane is left.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let mut x = self.to_array(a);
        for n in [8, 4, 2, 1] {
            for l in 0..n {
                x[l] += x[l + n];
            }
        }
        x[0]
    }

    /// The [`sum`](Simd::sum) of each.
    #[inline(always)]
    fn sum_each(self, x: [Self::F; 4]) -> [f32; 4] {
        [self.sum(x[0]), self.sum(x[1]), self.sum(x[2]), self.sum(x[3])]
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        let mut x = self.to_array(a);
        for n in [8, 4, 2, 1] {
            for l in 0..n {
                x[l] = if x[l] > x[l + n] { x[l] } else { x[l + n] };
            }
        }
        x[0]
    }
}

/// Integers, in two shapes: bytes along a row of the matrix, for few columns, and columns side by
/// side, for many.
///
/// A word is an i16, and a dword is four bytes. Where a byte is called signed it is an i8.
pub trait SimdInt: Simd {
    /// 64 bytes: two halves of 32, or four quarters of 16.
    type Bytes: Copy;
    /// 32 words: two halves of 16, or four quarters of 8.
    type Words: Copy;
    /// i32, as many as suit the machine: only the sum of all of them means something.
    type Sums: Copy + Zeroable;
    /// i32, in two halves of which each has a sum of its own.
    type HalfSums: Copy;

    /// From memory.
    fn load_bytes(self, x: &[u8; 64]) -> Self::Bytes;
    /// The halves from memory.
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::Bytes;
    /// The quarters from memory.
    fn load_quarters(self, x: [&[u8; 16]; 4]) -> Self::Bytes;
    /// From memory, the same 32 bytes to both halves.
    fn load_twice(self, x: &[u8; 32]) -> Self::Bytes;
    /// By quarter: the low four bits of the bytes of `a`, their high four bits, and the same of `b`.
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> Self::Bytes;
    /// To memory.
    fn store_bytes(self, x: Self::Bytes, to: &mut [u8; 64]);
    /// The halves to memory.
    fn store_halves(self, x: Self::Bytes, a: &mut [u8; 32], b: &mut [u8; 32]);
    /// To memory, the bytes of quarter `Q`, signed, each as [`flush`](SimdInt::flush) takes a scale, or
    /// as [`flush_words`](SimdInt::flush_words) does if `words`.
    fn store_scales<const Q: i32>(self, x: Self::Bytes, words: bool, to: &mut [u32; 16]);
    /// To memory, the bytes of quarter `Q`, signed, each times `factor` as a word.
    fn store_words<const Q: i32>(self, x: Self::Bytes, factor: i16, to: &mut [i16; 16]);
    /// `x` in every byte.
    fn splat_byte(self, x: u8) -> Self::Bytes;
    /// `a & b`
    fn and(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a | b`
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a - b` of every byte, wrapping.
    fn sub_bytes(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// The bytes of the first half shifted right by `FIRST` bits and those of the second half by
    /// `SECOND`; left if negative. The bits that come in are any, and the caller masks them off.
    fn shift_halves<const FIRST: i32, const SECOND: i32>(self, a: Self::Bytes) -> Self::Bytes;
    /// The bytes of each quarter's four dwords shifted right by `A`, `B`, `C` and `D` bits; left if
    /// negative. The bits that come in are any, and the caller masks them off.
    fn shift_dwords<const A: i32, const B: i32, const C: i32, const D: i32>(
        self,
        a: Self::Bytes,
    ) -> Self::Bytes;
    /// Byte `i` becomes the one of its quarter that `places[i]` names, from 0 to 15, or 0 for a place
    /// of 128 and more. `places` is a constant.
    fn shuffle(self, x: Self::Bytes, places: &[u8; 64]) -> Self::Bytes;
    /// Byte `i` becomes `table[places[i]]`; places are at most 15. `table` is a constant.
    fn lookup(self, table: &[u8; 16], places: Self::Bytes) -> Self::Bytes;
    /// Quarter `Q`, in every quarter.
    fn broadcast_quarter<const Q: i32>(self, x: Self::Bytes) -> Self::Bytes;
    /// Byte `i` is 0xff if bit `i` of `bits` is set, and 0 if not.
    fn bit_mask(self, bits: u64) -> Self::Bytes;
    /// The first four bytes of a quarter as two f16 values, widened: the first one of each quarter,
    /// and then the second one of each.
    fn first_f16_pairs(self, x: Self::Bytes) -> [[f32; 4]; 2];

    /// From memory.
    fn load_words(self, x: &[i16; 32]) -> Self::Words;
    /// Every two bytes as a word, little-endian.
    fn words(self, x: Self::Bytes) -> Self::Words;
    /// The second one of every two bytes, signed, as a word.
    fn high_bytes(self, x: Self::Bytes) -> Self::Words;
    /// The lower bytes of the words of `a` and `b`, alternating: one of `a` first.
    fn merge_words(self, a: Self::Words, b: Self::Words) -> Self::Bytes;
    /// The bytes of the first half (`HALF` is 0) or the second (1), signed, each as a word.
    fn widen_half<const HALF: i32>(self, x: Self::Bytes) -> Self::Words;

    /// Sums of two products of bytes of the same quarter, as words in their quarter. Bytes of `u`
    /// are unsigned and at most 127, those of `s` are signed.
    fn pairs(self, u: Self::Bytes, s: Self::Bytes) -> Self::Words;
    /// `sum` plus the products of `a` and `b`.
    fn add_products(self, sum: Self::Sums, a: Self::Words, b: Self::Words) -> Self::Sums;
    /// `sum` plus the products of twice 64 codes `w`, unsigned and at most 63, with signed bytes `x`.
    /// Each is multiplied with the scale of its group of `GROUP` codes, 16 or 32. These are bytes, the
    /// same in every quarter of `scales`: the first codes have the first scales if `PAIR` is 0, and the
    /// others have those after them if it is 1. They are signed, or at most 127 if `SIGNED` is false.
    #[inline(always)]
    fn add_scaled<const GROUP: usize, const PAIR: usize, const SIGNED: bool>(
        self,
        sum: Self::Sums,
        w: [Self::Bytes; 2],
        x: [Self::Bytes; 2],
        scales: Self::Bytes,
    ) -> Self::Sums {
        let first = const { &in_order(GROUP, PAIR * 128 / GROUP, SIGNED) };
        let second = const { &in_order(GROUP, (PAIR * 128 + 64) / GROUP, SIGNED) };
        let words = |places| match SIGNED {
            true => self.high_bytes(self.shuffle(scales, places)),
            false => self.words(self.shuffle(scales, places)),
        };
        let sum = self.add_products(sum, self.pairs(w[0], x[0]), words(first));
        self.add_products(sum, self.pairs(w[1], x[1]), words(second))
    }
    /// The same of codes that are signed bytes plus [`BIAS`](SimdInt::BIAS), with bytes `x` that are at
    /// least -127, and signed scales.
    fn add_scaled_biased<const GROUP: usize, const PAIR: usize>(
        self,
        sum: Self::Sums,
        w: [Self::Bytes; 2],
        x: [Self::Bytes; 2],
        scales: Self::Bytes,
    ) -> Self::Sums;
    /// The products of `a` and `b`, added up within each half.
    fn products_by_half(self, a: Self::Words, b: Self::Words) -> Self::HalfSums;
    /// The sum of the products of `a` and `b` in each quarter.
    fn products_by_quarter(self, a: Self::Words, b: Self::Words) -> [i32; 4];
    /// The lanes of `a` added up into those of one half, the lanes of `b` into those of the other.
    fn fold(self, a: Self::Sums, b: Self::Sums) -> Self::HalfSums;
    /// Sums of four products of bytes of the same half. Bytes of `u` are unsigned and at most 127, those
    /// of `s` are signed.
    fn dot(self, u: Self::Bytes, s: Self::Bytes) -> Self::HalfSums;
    /// The same of signed bytes plus [`BIAS`](SimdInt::BIAS); those of `s` are at least -127.
    fn dot_biased(self, w: Self::Bytes, s: Self::Bytes) -> Self::HalfSums;
    /// The sums of the first and of the second half, of each.
    fn half_sums(self, x: [Self::HalfSums; 2]) -> [i32; 4];

    /// Four integers as f32.
    fn to_f32_4(self, a: [i32; 4]) -> [f32; 4];
    /// `a * b` of four f32.
    fn mul_4(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4];
    /// `a + b` of four f32.
    fn add_4(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4];
    /// `a - b` of four f32.
    fn sub_4(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4];
    /// `a - factor * b` of four integers, wrapping.
    fn sub_product_4(self, a: [i32; 4], factor: i32, b: [i32; 4]) -> [i32; 4];

    /// Dwords of a register that columns lie side by side in. A column has four, eight or sixteen bytes
    /// of it: then there are so many columns, half as many, or a quarter.
    const COLS: usize;
    /// Whether [`step`](SimdInt::step) sums in 32 bits and takes any unsigned byte. If not, it
    /// sums in 16 bits and takes bytes up to 127.
    const WIDE: bool;
    /// What has to be added to signed bytes before [`step_signed`](SimdInt::step_signed) and
    /// [`add_scaled_biased`](SimdInt::add_scaled_biased) take them: 128 if they multiply unsigned ones
    /// only, otherwise 0.
    const BIAS: u8;
    /// [`COLS`](SimdInt::COLS) dwords: four bytes, two words, an i32 or an f32 each.
    type Columns: Pod;
    /// Sums of a few steps.
    type Steps: Copy;

    /// `x`, whatever it stands for, in every dword.
    fn splat_u32(self, x: u32) -> Self::Columns;
    /// `x` in every two dwords.
    fn splat_u64(self, x: u64) -> Self::Columns;
    /// `x` in every four dwords.
    fn splat_16(self, x: &[u8; 16]) -> Self::Columns;
    /// The first `WIDTH` bytes of `x`, in every column of so many: 4, 8 or 16.
    #[inline(always)]
    fn splat_bytes<const WIDTH: usize>(self, x: &[u8]) -> Self::Columns {
        match WIDTH {
            4 => self.splat_u32(bytemuck::pod_read_unaligned(&x[..4])),
            8 => self.splat_u64(bytemuck::pod_read_unaligned(&x[..8])),
            _ => self.splat_16(x[..16].first_chunk().expect("sixteen bytes")),
        }
    }
    /// The sum of the two dwords of each column of eight bytes, in both.
    fn add_in_pairs(self, a: Self::Columns) -> Self::Columns;
    /// The sum of the four dwords of each column of sixteen bytes, in all of them.
    fn add_in_fours(self, a: Self::Columns) -> Self::Columns;
    /// The sum of the dwords of each column of `WIDTH` bytes, in all of them.
    #[inline(always)]
    fn add_dwords<const WIDTH: usize>(self, a: Self::Columns) -> Self::Columns {
        match WIDTH {
            4 => a,
            8 => self.add_in_pairs(a),
            _ => self.add_in_fours(a),
        }
    }
    /// No steps.
    fn no_steps(self) -> Self::Steps;
    /// Adds the products of four unsigned bytes `u` with four signed ones, in every dword.
    fn step(self, sum: Self::Steps, u: Self::Columns, s: Self::Columns) -> Self::Steps;
    /// Adds the products of four bytes `w`, which are signed bytes plus [`BIAS`](SimdInt::BIAS), with
    /// four signed ones that are at least -127. Unless the steps are [`WIDE`](SimdInt::WIDE), only one
    /// fits a sum.
    fn step_signed(self, sum: Self::Steps, w: Self::Columns, s: Self::Columns) -> Self::Steps;
    /// Adds `scale` times the steps' sums, i32; see [`store_scales`](SimdInt::store_scales).
    fn flush(self, sum: Self::Columns, steps: Self::Steps, scale: Self::Columns) -> Self::Columns;
    /// The same of steps whose sums fit words.
    #[inline(always)]
    fn flush_words(
        self,
        sum: Self::Columns,
        steps: Self::Steps,
        scale: Self::Columns,
    ) -> Self::Columns {
        self.flush(sum, steps, scale)
    }
    /// Adds the steps' sums, i32.
    fn add_steps(self, sum: Self::Columns, steps: Self::Steps) -> Self::Columns;
    /// Adds the sum of the products of two words each, i32.
    fn pair_step(self, sum: Self::Columns, a: Self::Columns, b: Self::Columns) -> Self::Columns;
    /// `(a << BITS) + b`, i32, wrapping.
    fn shift_add<const BITS: i32>(self, a: Self::Columns, b: Self::Columns) -> Self::Columns;
    /// i32 to f32.
    fn to_float(self, a: Self::Columns) -> Self::Columns;
    /// `a + b`, f32.
    fn add_f(self, a: Self::Columns, b: Self::Columns) -> Self::Columns;
    /// `a - b`, f32.
    fn sub_f(self, a: Self::Columns, b: Self::Columns) -> Self::Columns;
    /// `a * b`, f32.
    fn mul_f(self, a: Self::Columns, b: Self::Columns) -> Self::Columns;
}
