//! What codes and scales a type has.

use crate::quant::block::Quantize;
use crate::quant::iq4::Values;
use crate::quant::range::Range;

/// A type whose blocks have codes on a grid that scales choose.
pub(in crate::quant) trait OnGrid: Quantize {
    /// Weights that share a scale: 16 or 32.
    const SUB: usize;
    /// What codes are rounded to.
    const CODES: Codes;
    /// The integers that are scales, and minimums if there are any. `None` if `d` is the only scale.
    const SCALES: Option<Range>;

    /// The scales of a block.
    fn parts(&self) -> Parts;
    /// The block with these scales and codes, `[LEN]`.
    fn from_parts(parts: &Parts, q: &[i8]) -> Self;
}

/// Codes on a grid that scales choose. The value of weight `i` in sub-block `j` is
/// `d * scales[j] * q[i] - dmin * mins[j]`.
#[derive(Debug)]
pub struct Grid {
    /// Weights per block.
    pub(in crate::quant) len: usize,
    /// Bytes per block.
    pub(in crate::quant) block_bytes: usize,
    /// Weights that share a scale: 16 or 32.
    pub(in crate::quant) sub: usize,
    /// What codes are rounded to.
    pub(in crate::quant) codes: Codes,
    /// The integers that are scales, and minimums if there are any. `None` if `d` is the only scale:
    /// `scales` are 1 then, and `mins` are 1 or 0.
    pub(in crate::quant) scales: Option<Range>,
    /// The scales of a block.
    pub(in crate::quant) parts: fn(&[u8]) -> Parts,
    /// A block with these scales and codes.
    pub(in crate::quant) pack: fn(&Parts, &[i8], &mut [u8]),
}

impl Grid {
    /// That of a type.
    pub(in crate::quant) const fn of<B: OnGrid>() -> Self {
        Self {
            len: B::LEN,
            block_bytes: size_of::<B>(),
            sub: B::SUB,
            codes: B::CODES,
            scales: B::SCALES,
            parts: |bytes| bytemuck::from_bytes::<B>(bytes).parts(),
            pack: |parts, q, bytes| *bytemuck::from_bytes_mut(bytes) = B::from_parts(parts, q),
        }
    }
}

/// What codes are rounded to.
#[derive(Clone, Copy, Debug)]
pub(in crate::quant) enum Codes {
    Range(Range),
    Values(Values),
}

/// The scales of a block.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    pub(in crate::quant) d: f32,
    pub(in crate::quant) dmin: f32,
    /// Those of types without integer scales are 1.
    pub(in crate::quant) scales: [f32; 16],
    /// Those of types without minimums are 0, and those of types with an offset are 1.
    pub(in crate::quant) mins: [f32; 16],
}

impl Parts {
    /// Those of a block with one scale.
    pub(in crate::quant) fn scale(d: f32) -> Self {
        Self { d, dmin: 0.0, scales: [1.0; 16], mins: [0.0; 16] }
    }

    /// Those of a block with one scale and an offset.
    pub(in crate::quant) fn scale_offset(d: f32, m: f32) -> Self {
        Self { d, dmin: -m, scales: [1.0; 16], mins: [1.0; 16] }
    }
}
