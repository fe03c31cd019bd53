//! What kernels ask of an instruction set: plain vector operations with the same result, bit for
//! bit, on every one of them.
//!
//! An implementation is a token that exists only on a machine with its instructions, so its
//! methods are safe to call. They are `#[inline(always)]` and become single instructions where an
//! [`Op`](super::Op) runs.

use bytemuck::Pod;

/// Sixteen floats side by side. No operation is contracted (a product is rounded before it is
/// added), so that sums do not depend on whether a machine has fused multiply-add.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type F: Copy;

    /// How many [`F`](Simd::F) the registers hold.
    const FLOATS: usize;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// From memory.
    fn load(self, x: &[f32; 16]) -> Self::F;
    /// To memory.
    fn store(self, x: Self::F, to: &mut [f32; 16]);
    /// Widened halves.
    fn load_f16(self, x: &[u16; 16]) -> Self::F;
    /// Widened bfloat16.
    fn load_bf16(self, x: &[u16; 16]) -> Self::F;
    /// Widened integers.
    fn load_i8(self, x: &[i8; 16]) -> Self::F;
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second if one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second if one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { x } else { y }`
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Without the sign.
    fn abs(self, a: Self::F) -> Self::F;
    /// `a` with the sign of `sign`.
    fn copy_sign(self, a: Self::F, sign: Self::F) -> Self::F;
    /// With 0 for NaN.
    fn zero_nan(self, a: Self::F) -> Self::F;
    /// 2^n for `t` = 1.5 · 2^23 + n, with n from -126 to 127: the sum's last bits are n.
    fn exp2_of_rounded(self, t: Self::F) -> Self::F;
    /// Truncated to integers, which must fit.
    fn to_i8(self, a: Self::F) -> [i8; 16];
    /// A half, widened.
    fn half(self, bits: u16) -> f32;
    /// Halves, widened.
    fn halves(self, bits: [u16; 4]) -> [f32; 4];

    /// Asks for the line at `p` to be read into the cache. Any address will do.
    fn prefetch(self, p: *const u8);

    /// The sum of the lanes: halves are added to each other until one is left.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let mut x = [0.0; 16];
        self.store(a, &mut x);
        for n in [8, 4, 2, 1] {
            for l in 0..n {
                x[l] += x[l + n];
            }
        }
        x[0]
    }

    /// [`sum`](Simd::sum) of each.
    #[inline(always)]
    fn sum_each(self, x: [Self::F; 4]) -> [f32; 4] {
        [self.sum(x[0]), self.sum(x[1]), self.sum(x[2]), self.sum(x[3])]
    }

    /// The first lane that is least; none is NaN.
    #[inline(always)]
    fn least(self, a: Self::F) -> usize {
        let mut x = [0.0; 16];
        self.store(a, &mut x);
        let least = x.iter().fold(x[0], |least, x| if *x < least { *x } else { least });
        x.iter().position(|x| *x == least).unwrap_or(0)
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        let mut x = [0.0; 16];
        self.store(a, &mut x);
        for n in [8, 4, 2, 1] {
            for l in 0..n {
                x[l] = if x[l] > x[l + n] { x[l] } else { x[l + n] };
            }
        }
        x[0]
    }
}

/// Integers, for quantized blocks: 64 codes at a time along a row, and columns side by side.
///
/// Four groups of 16 codes each are told apart, since some types change scale that often.
pub trait SimdInt: Simd {
    /// 64 bytes, codes of a row, in two halves.
    type B: Copy;
    /// 32 i16, in four groups of eight.
    type W: Copy;
    /// Sixteen bytes for each of four blocks: scales, minimums.
    type H: Copy;
    /// i32, as many as suit the machine: only their sum counts.
    type I: Copy;
    /// i32, in two halves that are summed apart.
    type D: Copy;

    /// From memory.
    fn load_bytes(self, x: &[u8; 64]) -> Self::B;
    /// From memory, 32 bytes to each half.
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::B;
    /// From memory, the same 32 bytes to both halves.
    fn load_twice(self, x: &[u8; 32]) -> Self::B;
    /// The low four bits of the 16 bytes of `a` and then their high four bits; then those of `b`.
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> Self::B;
    /// To memory.
    fn store_bytes(self, x: Self::B, to: &mut [u8; 64]);
    /// `x` in every byte.
    fn splat_byte(self, x: u8) -> Self::B;
    /// `a & b`
    fn and(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a | b`
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// The bytes of the first half shifted right by `FIRST` bits and those of the second by
    /// `SECOND`, or left by negative ones; other bits come in, for the caller to mask.
    fn shift_halves<const FIRST: i32, const SECOND: i32>(self, a: Self::B) -> Self::B;
    /// Byte `i` is 0xff if bit `i` of `bits` is set, and 0 if not.
    fn bit_mask(self, bits: u64) -> Self::B;

    /// From memory.
    fn load_heads(self, x: [&[u8; 16]; 4]) -> Self::H;
    /// The low or the high four bits of every byte.
    fn nibble_heads(self, x: Self::H, high: bool) -> Self::H;
    /// Of blocks that begin as Q4_K's and Q5_K's do: eight scales and then eight minimums.
    fn six_bit_heads(self, x: Self::H) -> Self::H;
    /// Of blocks that end as Q3_K's do: sixteen scales.
    fn signed_six_bit_heads(self, x: Self::H) -> Self::H;
    /// The first two halves of each block's bytes, widened.
    fn first_halves(self, x: Self::H) -> [[f32; 4]; 2];
    /// Byte `2 * U` of block `B` in the words of the first two groups, the next byte in the others.
    fn scale_32<const B: i32, const U: i32>(self, x: Self::H) -> Self::W;
    /// Bytes `4 * U` and up of block `B`, signed, each in the words of a group.
    fn scale_16<const B: i32, const U: i32>(self, x: Self::H) -> Self::W;
    /// For each block, the sum of the products of its upper eight bytes, unsigned, and its `sums`.
    fn products_32(self, x: Self::H, sums: &[[i16; 8]; 4]) -> [i32; 4];
    /// For each block, the sum of the products of its bytes, signed, and its `sums`.
    fn products_16(self, x: Self::H, sums: &[[i16; 16]; 4]) -> [i32; 4];

    /// Sums of the products of neighbours; bytes of `u` are unsigned and at most 127, those of `s`
    /// are signed.
    fn pairs(self, u: Self::B, s: Self::B) -> Self::W;
    /// The products of `a` and `b`, added up in some order.
    fn products(self, a: Self::W, b: Self::W) -> Self::I;
    /// `sum` plus the products of `a` and `b`.
    fn add_products(self, sum: Self::I, a: Self::W, b: Self::W) -> Self::I;
    /// The lanes of `a` added up into those of one half, the lanes of `b` into those of the other.
    fn fold(self, a: Self::I, b: Self::I) -> Self::D;

    /// `a · (d · p - dmin · m)`
    fn affine(
        self,
        a: &[f32; 4],
        d: [f32; 4],
        p: [i32; 4],
        dmin: [f32; 4],
        m: [i32; 4],
    ) -> [f32; 4];
    /// `(a · d) · (p - offset · m)`
    fn symmetric(
        self,
        a: &[f32; 4],
        d: [f32; 4],
        p: [i32; 4],
        offset: i32,
        m: [i32; 4],
    ) -> [f32; 4];

    /// Sums of the products of four neighbours; bytes of `u` are unsigned and at most 127, those
    /// of `s` are signed.
    fn dot(self, u: Self::B, s: Self::B) -> Self::D;
    /// Sums of the products of four neighbours, signed; those of `s` are at least -127.
    fn dot_signed(self, w: Self::B, s: Self::B) -> Self::D;
    /// The sums of the lanes of the halves: first and second half of each.
    fn half_sums(self, x: [Self::D; 2]) -> [i32; 4];

    /// Columns side by side in a register.
    const COLS: usize;
    /// Whether [`step`](SimdInt::step) sums in 32 bits and takes any unsigned byte. If not, it
    /// sums in 16 bits and takes bytes up to 127.
    const WIDE: bool;
    /// Four bytes for each of [`COLS`](SimdInt::COLS) columns, or an i32 or a pair of i16 or an
    /// f32 for each.
    type V: Pod;
    /// Sums of a few steps.
    type A: Copy;

    /// Four bytes (or a pair of words, or an integer) in every column.
    fn splat_v(self, x: u32) -> Self::V;
    /// No steps.
    fn no_steps(self) -> Self::A;
    /// Adds the products of four unsigned bytes `u` with four signed ones.
    fn step(self, sum: Self::A, u: Self::V, s: Self::V) -> Self::A;
    /// A scale as [`flush`](SimdInt::flush) takes it.
    fn scale_bits(scale: i16) -> u32;
    /// Adds `scale` times the steps' sums, i32.
    fn flush(self, sum: Self::V, steps: Self::A, scale: Self::V) -> Self::V;
    /// Adds the steps' sums, i32.
    fn add_steps(self, sum: Self::V, steps: Self::A) -> Self::V;
    /// Adds the products of four signed bytes, i32.
    fn step_signed(self, sum: Self::V, w: Self::V, s: Self::V) -> Self::V;
    /// Adds the sums of the products of two pairs of words, i32.
    fn pair_step(self, sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// i32 to f32.
    fn to_float(self, a: Self::V) -> Self::V;
    /// `a + b`, f32.
    fn add_f(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`, f32.
    fn sub_f(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`, f32.
    fn mul_f(self, a: Self::V, b: Self::V) -> Self::V;
}

/// Where the low bits of Q3_K's scales lie in the last sixteen bytes of a block, of which the first
/// two are others' and the last two are `d`; twice, for the low and for the high nibbles.
pub(super) const Q3_LOW: [u8; 16] = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9];
/// Where their high bits lie: two for every fourth scale in a byte.
pub(super) const Q3_HIGH: [u8; 16] =
    [10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13];
