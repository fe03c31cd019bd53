//! The registry: one row per type. It is the only list of types in the program.

use super::block::{self, Block, Quantize};
use super::effort::Effort;
use super::lanes::{Lanes, Plain};
use super::second_order::{Fit, Grid, OnGrid, Rows};
use super::{float, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, q8_k};
use super::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs};
use super::{mxfp4, tq1_0, tq2_0};

/// A tensor type, with ggml's number.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum QuantType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
}

/// See [`Traits::quantize`].
pub type QuantizeFn = fn(x: &[f32], y: &mut [u8]);

/// Everything that is specific to a type.
#[derive(Debug)]
pub struct Traits {
    /// The type this row describes.
    pub ty: QuantType,
    /// GGUF's name, such as `Q4_K`.
    pub name: &'static str,
    /// Weights per block.
    pub block_len: usize,
    /// Bytes per block.
    pub block_bytes: usize,
    /// The type that activations are quantized to before [`dot`](Traits::dot).
    pub activation: QuantType,
    /// Whether GGUF files contain it (Q8_K is for activations only).
    pub stored: bool,
    /// Quantizes whole blocks: `x.len()` values to `x.len() / block_len * block_bytes` bytes. All
    /// values are equally important. `None` for types that are only read.
    pub quantize: Option<QuantizeFn>,
    /// Dequantizes whole blocks, the reverse of [`quantize`](Traits::quantize).
    pub dequantize: fn(x: &[u8], y: &mut [f32]),
    /// Dot product of a row of this type with a row of type `activation`.
    pub dot: fn(w: &[u8], a: &[u8]) -> f32,
    /// What codes and scales its blocks have, if there is something to choose.
    pub(super) grid: Option<&'static Grid>,
}

const fn row<B: Block>(ty: QuantType, name: &'static str, activation: QuantType) -> Traits {
    Traits {
        ty,
        name,
        block_len: B::LEN,
        block_bytes: size_of::<B>(),
        activation,
        stored: !matches!(ty, QuantType::Q8_K),
        quantize: None,
        dequantize: block::dequantize::<B>,
        dot: block::dot::<B>,
        grid: None,
    }
}

/// The row of a type that is written too, with a grid.
const fn written<B: OnGrid>(ty: QuantType, name: &'static str, activation: QuantType) -> Traits {
    Traits { grid: Some(&const { Grid::of::<B>() }), ..plain::<B>(ty, name, activation) }
}

/// The row of a type that is written too, and has nothing to choose.
const fn plain<B: Quantize>(ty: QuantType, name: &'static str, activation: QuantType) -> Traits {
    Traits {
        quantize: Some(|x, y| block::quantize::<_, B>(Plain, x, None, Effort::Default, y)),
        ..row::<B>(ty, name, activation)
    }
}

/// Defines the rows, and the one function per type that must be inlined rather than called through
/// a pointer.
macro_rules! registry {
    (
        plain { $($plain:ident: $plain_block:ty, $plain_activation:ident;)* }
        written { $($ty:ident: $block:ty, $activation:ident;)* }
        read { $($read:ident: $read_block:ty, $read_activation:ident;)* }
    ) => {
        static REGISTRY: &[Traits] = &[
            $(plain::<$plain_block>(
                QuantType::$plain,
                stringify!($plain),
                QuantType::$plain_activation,
            ),)*
            $(written::<$block>(QuantType::$ty, stringify!($ty), QuantType::$activation),)*
            $(row::<$read_block>(
                QuantType::$read,
                stringify!($read),
                QuantType::$read_activation,
            ),)*
        ];

        impl QuantType {
            /// Quantizes whole blocks like [`Traits::quantize`], with the operations of `l`. All
            /// implementations of [`Lanes`] give the same bytes. `importance` weights the squared
            /// error of each value; without it all values are equally important.
            ///
            /// # Panics
            /// If the lengths do not match, or if the type [is not written](QuantType::is_written).
            #[inline(always)]
            pub fn quantize_by<L: Lanes>(
                self,
                l: L,
                x: &[f32],
                importance: Option<&[f32]>,
                effort: Effort,
                y: &mut [u8],
            ) {
                match self {
                    $(QuantType::$plain => {
                        block::quantize::<L, $plain_block>(l, x, importance, effort, y);
                    })*
                    $(QuantType::$ty => block::quantize::<L, $block>(l, x, importance, effort, y),)*
                    $(QuantType::$read)|* => panic!("{self} is read, not written"),
                }
            }
        }
    };
}

registry! {
    plain {
        F32: float::F32, F32;
        F16: float::F16, F32;
        BF16: float::Bf16, F32;
        Q8_K: q8_k::BlockQ8K, Q8_K;
    }
    written {
        Q4_0: q4_0::BlockQ4_0, Q8_0;
        Q4_1: q4_1::BlockQ4_1, Q8_0;
        Q5_0: q5_0::BlockQ5_0, Q8_0;
        Q5_1: q5_1::BlockQ5_1, Q8_0;
        Q8_0: q8_0::BlockQ8_0, Q8_0;
        Q2_K: q2_k::BlockQ2K, Q8_K;
        Q3_K: q3_k::BlockQ3K, Q8_K;
        Q4_K: q4_k::BlockQ4K, Q8_K;
        Q5_K: q5_k::BlockQ5K, Q8_K;
        Q6_K: q6_k::BlockQ6K, Q8_K;
        IQ4_NL: iq4_nl::BlockIQ4NL, Q8_0;
        IQ4_XS: iq4_xs::BlockIQ4XS, Q8_K;
    }
    read {
        IQ1_S: iq1_s::BlockIQ1S, Q8_K;
        IQ1_M: iq1_m::BlockIQ1M, Q8_K;
        IQ2_XXS: iq2_xxs::BlockIQ2XXS, Q8_K;
        IQ2_XS: iq2_xs::BlockIQ2XS, Q8_K;
        IQ2_S: iq2_s::BlockIQ2S, Q8_K;
        IQ3_XXS: iq3_xxs::BlockIQ3XXS, Q8_K;
        IQ3_S: iq3_s::BlockIQ3S, Q8_K;
        TQ1_0: tq1_0::BlockTQ1_0, Q8_K;
        TQ2_0: tq2_0::BlockTQ2_0, Q8_K;
        MXFP4: mxfp4::BlockMXFP4, Q8_0;
    }
}

impl QuantType {
    /// Every type, in the registry's order.
    pub fn all() -> impl Iterator<Item = QuantType> {
        REGISTRY.iter().map(|t| t.ty)
    }

    /// The type with ggml's number `n`.
    pub fn from_ggml(n: u32) -> Option<Self> {
        Self::all().find(|t| *t as u32 == n)
    }

    /// The type called `name` in GGUF (`Q4_K`), in upper or lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Quantizes rows as [`Rows`] says, to `y`, `[rows, bytes of a row]`. `fit` is the usual quantizer
    /// of this type. All implementations of [`Lanes`] give the same bytes.
    ///
    /// # Panics
    /// If the type has nothing to choose ([`has_grid`](Self::has_grid)), or lengths do not match.
    #[inline(always)]
    pub fn quantize_rows<L: Lanes>(self, l: L, rows: &Rows<'_>, fit: Fit<'_>, y: &mut [u8]) {
        rows.quantize(l, self.traits().grid.expect("a type with codes on a grid"), fit, y);
    }

    /// Whether blocks have codes and scales that [`quantize_rows`](Self::quantize_rows) can choose.
    pub fn has_grid(self) -> bool {
        self.traits().grid.is_some()
    }

    /// Whether files of this type are written, or only read.
    pub fn is_written(self) -> bool {
        self.traits().quantize.is_some()
    }

    /// This type's row.
    pub fn traits(self) -> &'static Traits {
        REGISTRY.iter().find(|t| t.ty == self).expect("every type has a row")
    }

    /// GGUF's name.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// Weights per block.
    pub fn block_len(self) -> usize {
        self.traits().block_len
    }

    /// Bytes of a row of `n` values; `None` if `n` is not a whole number of blocks or too large.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let t = self.traits();
        n.is_multiple_of(t.block_len).then(|| (n / t.block_len).checked_mul(t.block_bytes))?
    }
}

impl std::fmt::Display for QuantType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
