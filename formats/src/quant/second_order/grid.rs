//! What codes and scales a type has.

use crate::quant::block::{dequantize, Quantize};
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
    /// The values of a block.
    pub(in crate::quant) values: fn(&[u8], &mut [f32]),
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
            values: dequantize::<B>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::float::F16;
    use crate::quant::iq4::IQ4_VALUES;
    use crate::quant::QuantType;

    /// Numbers below 2^31, the same on every call.
    fn numbers() -> impl FnMut() -> u32 {
        let mut state = 5u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32
        }
    }

    fn types() -> impl Iterator<Item = (QuantType, &'static Grid)> {
        QuantType::all().filter_map(|ty| Some((ty, ty.traits().grid?)))
    }

    fn values(ty: QuantType, block: &[u8]) -> Vec<f32> {
        let mut y = vec![0.0; ty.block_len()];
        (ty.traits().dequantize)(block, &mut y);
        y
    }

    /// The distance between neighbouring codes of weight `i`, and what code 0 stands for.
    fn line(grid: &Grid, parts: &Parts, i: usize) -> (f32, f32) {
        let j = i / grid.sub;
        (parts.d * parts.scales[j], -(parts.dmin * parts.mins[j]))
    }

    /// Whether values have an offset: a block of ones has one then.
    fn has_mins(grid: &Grid) -> bool {
        (grid.parts)(&vec![0x3c; grid.block_bytes]).dmin != 0.0
    }

    fn integer(range: Range, number: u32) -> f32 {
        range.low + (number % (range.high - range.low + 1.0) as u32) as f32
    }

    #[test]
    fn any_scales_and_codes_are_kept_and_mean_what_they_should() {
        let mut next = numbers();
        for (ty, grid) in types() {
            for _ in 0..100 {
                let mut f16 = || loop {
                    let x = F16::from_bits(next() as u16).to_f32();
                    if x.is_finite() {
                        return x;
                    }
                };
                // What a block of zero bytes has says which of the numbers the type has.
                let mut parts = (grid.parts)(&vec![0; grid.block_bytes]);
                let (d, dmin) = (f16(), f16());
                parts.d = d;
                let has_mins = has_mins(grid);
                parts.dmin = if has_mins { dmin } else { 0.0 };
                for j in 0..grid.len / grid.sub {
                    let Some(range) = grid.scales else { continue };
                    parts.scales[j] = integer(range, next());
                    parts.mins[j] = if has_mins { integer(range, next()) } else { 0.0 };
                }
                let q: Vec<i8> = (0..grid.len)
                    .map(|_| match grid.codes {
                        Codes::Range(range) => integer(range, next()) as i8,
                        Codes::Values(_) => IQ4_VALUES[next() as usize % 16],
                    })
                    .collect();
                let mut block = vec![0; grid.block_bytes];
                (grid.pack)(&parts, &q, &mut block);
                let found = (grid.parts)(&block);
                assert_eq!(format!("{found:?}"), format!("{parts:?}"), "{ty}");
                for (i, y) in values(ty, &block).into_iter().enumerate() {
                    let (step, zero) = line(grid, &parts, i);
                    assert_eq!(y, step * f32::from(q[i]) + zero, "{ty} {i}");
                }
            }
        }
    }

    #[test]
    fn blocks_of_the_usual_quantizer_are_taken_apart_and_put_together() {
        let mut next = numbers();
        for (ty, grid) in types() {
            for round in 0..20 {
                let size = [1.0, 0.02, 300.0, 1e-3][round % 4];
                let x: Vec<f32> = (0..grid.len)
                    .map(|_| size * (next() as f32 / (1u32 << 30) as f32 - 1.0))
                    .collect();
                let mut block = vec![0; grid.block_bytes];
                (ty.traits().quantize.unwrap())(&x, &mut block);
                let parts = (grid.parts)(&block);
                let code = |(i, y): (usize, f32)| match line(grid, &parts, i) {
                    (0.0, _) => 0,
                    (step, zero) => ((y - zero) / step).round() as i8,
                };
                let values = values(ty, &block);
                let q: Vec<i8> = values.iter().copied().enumerate().map(code).collect();
                let mut again = vec![0; grid.block_bytes];
                (grid.pack)(&parts, &q, &mut again);
                assert!(again == block, "{ty}, round {round}: {parts:?}");
            }
        }
    }
}
