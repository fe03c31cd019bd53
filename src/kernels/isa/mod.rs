//! Instruction sets: one file each, chosen at run time. A kernel is an [`Op`] or an [`IntOp`]. It is
//! written once, in the operations of [`Simd`] and [`SimdInt`], and compiled for every instruction
//! set of the architecture.

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused))]
mod ops;
mod places;
mod scalar;
mod simd;
#[cfg_attr(not(target_arch = "x86_64"), allow(unused))]
mod tiles;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use lapidary_formats::quant::Plain;

pub use simd::{Simd, SimdInt};
#[cfg(test)]
pub use tiles::Emulated;
pub use tiles::{TileOp, Tiles, TILE};

#[cfg(target_arch = "aarch64")]
use neon::Neon;
#[cfg(target_arch = "x86_64")]
use {amx::Amx, avx2::Avx2, avx512::Avx512};

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Token);

/// The tokens prove that the machine has the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// A computation on floats that can be compiled for any instruction set.
pub trait Op {
    /// The result.
    type Out;
    /// Computes it. Implementations, and all that they call, are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// A computation that needs the integer operations, which [`Isa::SCALAR`] lacks.
pub trait IntOp {
    /// The result.
    type Out;
    /// Computes it. Implementations, and all that they call, are `#[inline(always)]`.
    fn run<S: SimdInt>(self, s: S) -> Self::Out;
}

/// Evaluates `$scalar` for the reference, and `$vector` with the token of any other instruction set
/// as `$s`.
macro_rules! with_token {
    ($isa:expr, scalar => $scalar:expr, $s:ident => $vector:expr) => {
        match $isa.0 {
            Token::Scalar => $scalar,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2($s) => $vector,
            #[cfg(target_arch = "x86_64")]
            Token::Avx512($s) => $vector,
            #[cfg(target_arch = "x86_64")]
            Token::Amx($s) => $vector,
            #[cfg(target_arch = "aarch64")]
            Token::Neon($s) => $vector,
        }
    };
}

impl Isa {
    /// No vector instructions but those that the compiler uses by itself: the reference.
    pub const SCALAR: Self = Self(Token::Scalar);

    /// The instruction sets of this machine, the best first. The last is [`SCALAR`](Self::SCALAR).
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Amx::detect().map(Token::Amx));
            all.extend(Avx512::detect().map(Token::Avx512));
            all.extend(Avx2::detect().map(Token::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(Neon::detect().map(Token::Neon));
        all.push(Token::Scalar);
        all.into_iter().map(Self).collect()
    }

    /// The best of this machine.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Its name in `--isa`.
    pub fn name(self) -> &'static str {
        with_token!(self, scalar => "scalar", s => s.name())
    }

    /// Runs a computation with this instruction set.
    pub fn run<O: Op>(self, op: O) -> O::Out {
        with_token!(self, scalar => op.run(Plain), s => s.enter(AnyOp(op)))
    }

    /// Runs a computation with this instruction set, or gives it back if that is the reference.
    pub fn run_int<O: IntOp>(self, op: O) -> Result<O::Out, O> {
        with_token!(self, scalar => Err(op), s => Ok(s.enter(op)))
    }

    /// Whether the instruction set has [`Tiles`].
    pub fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Amx(_) => true,
            _ => false,
        }
    }

    /// Runs a computation with tiles, or gives it back if this instruction set has none.
    pub fn run_tiles<const K: usize, O: TileOp<K>>(self, op: O) -> Result<O::Out, O> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Amx(amx) => Ok(amx.enter_tiles(op)),
            _ => Err(op),
        }
    }

    /// Columns that the matrix kernels compute side by side; 0 for the reference.
    pub fn columns(self) -> usize {
        self.run_int(Columns).unwrap_or(0)
    }
}

impl Default for Isa {
    fn default() -> Self {
        Self::best()
    }
}

/// See [`Isa::columns`].
struct Columns;

impl IntOp for Columns {
    type Out = usize;

    #[inline(always)]
    fn run<S: SimdInt>(self, _: S) -> usize {
        S::COLS
    }
}

/// An [`Op`] as an [`IntOp`].
struct AnyOp<O>(O);

impl<O: Op> IntOp for AnyOp<O> {
    type Out = O::Out;

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) -> O::Out {
        self.0.run(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Merge<'a>(&'a [i16; 32], &'a [i16; 32]);

    impl IntOp for Merge<'_> {
        type Out = [u8; 64];

        #[inline(always)]
        fn run<S: SimdInt>(self, s: S) -> [u8; 64] {
            let mut bytes = [0; 64];
            s.store_bytes(s.merge_words(s.load_words(self.0), s.load_words(self.1)), &mut bytes);
            bytes
        }
    }

    /// Which kernels use it depends on the instruction set.
    #[test]
    fn merged_words_alternate() {
        let a = std::array::from_fn(|i| 1009 * i as i16 - 9000);
        let b = std::array::from_fn(|i| 77 - 1013 * i as i16);
        for isa in Isa::available() {
            let Ok(bytes) = isa.run_int(Merge(&a, &b)) else { continue };
            for i in 0..32 {
                let found = [bytes[2 * i], bytes[2 * i + 1]];
                assert_eq!(found, [a[i] as u8, b[i] as u8], "{}", isa.name());
            }
        }
    }
}
