//! Quantizing rows of weights, for conversion: the quantizers of the formats with every instruction set.

use lapidary_formats::quant::{Effort, QuantType, LANES};

use super::isa::{Isa, Op, Simd};

/// How rows are to be quantized.
#[derive(Clone, Copy, Debug)]
pub struct Quantize<'a> {
    /// The type that they get.
    pub ty: QuantType,
    /// How much each column's squared error counts, `[cols]`; equally much if not given.
    pub importance: Option<&'a [f32]>,
    /// How long to search for scales.
    pub effort: Effort,
}

impl Quantize<'_> {
    /// Writes the row `x`, `[cols]`, to `out`, unless it has values that are not finite. Returns its
    /// [`largest`] magnitude. The bytes do not depend on `isa`.
    pub fn row(&self, isa: Isa, x: &[f32], out: &mut [u8]) -> f32 {
        isa.run(Row { quantize: self, x, out })
    }
}

struct Row<'a> {
    quantize: &'a Quantize<'a>,
    x: &'a [f32],
    out: &'a mut [u8],
}

impl Op for Row<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Row { quantize: Quantize { ty, importance, effort }, x, out } = self;
        let largest = largest(x);
        if largest.is_finite() {
            ty.quantize_by(s, x, *importance, *effort, out);
        }
        largest
    }
}

/// The largest magnitude. Infinity is larger than every number, and NaN is larger than infinity, which
/// is the order of the bits without the sign.
#[inline(always)]
pub fn largest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits())))
}

/// `Σ w (x - y)²` and `Σ w x²` of a row `x` and its quantized values `y`, where `w` is the importance of
/// the columns, or 1.
pub fn weighted_error(isa: Isa, x: &[f32], y: &[f32], importance: Option<&[f32]>) -> [f64; 2] {
    isa.run(WeightedError { x, y, importance })
}

struct WeightedError<'a> {
    x: &'a [f32],
    y: &'a [f32],
    importance: Option<&'a [f32]>,
}

impl Op for WeightedError<'_> {
    type Out = [f64; 2];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [f64; 2] {
        let Self { x, y, importance } = self;
        let (mut error, mut square) = ([0.0; LANES], [0.0; LANES]);
        for (i, (x, y)) in x.chunks(LANES).zip(y.chunks(LANES)).enumerate() {
            let w = importance.map(|w| &w[i * LANES..]);
            for l in 0..x.len() {
                let w = f64::from(w.map_or(1.0, |w| w[l]));
                let (x, rest) = (f64::from(x[l]), f64::from(x[l]) - f64::from(y[l]));
                error[l] += w * (rest * rest);
                square[l] += w * (x * x);
            }
        }
        [error.iter().sum(), square.iter().sum()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapidary_formats::quant::Plain;

    #[test]
    fn the_largest_magnitude_knows_neither_sign_nor_order_of_nan() {
        assert_eq!(largest(&[]), 0.0);
        assert_eq!(largest(&[1.0, -3.0, 2.0, -0.0]), 3.0);
        assert_eq!(largest(&[1.0, f32::NEG_INFINITY, 2.0]), f32::INFINITY);
        assert!(largest(&[f32::INFINITY, -f32::NAN, 1.0]).is_nan());
        assert!(largest(&[f32::NAN, f32::INFINITY, 1.0]).is_nan());
    }

    /// Values with a bell-shaped distribution and a few outliers, and importances over three magnitudes.
    fn data(n: usize) -> (Vec<f32>, Vec<f32>) {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let x = (0..n).map(|i| {
            let bell = (0..4).map(|_| uniform() - 0.5).sum::<f32>();
            if i % 97 == 0 {
                8.0 * bell
            } else {
                0.03 * bell
            }
        });
        let x = x.collect();
        (x, (0..n).map(|_| 10f32.powf(3.0 * uniform() - 1.5)).collect())
    }

    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        const COLS: usize = 2048;
        let (x, w) = data(COLS);
        for ty in QuantType::all().filter(|ty| ty.is_written()) {
            for (importance, effort) in [
                (None, Effort::Fast),
                (None, Effort::Default),
                (Some(&w[..]), Effort::Default),
                (Some(&w[..]), Effort::Best),
            ] {
                let quantize = Quantize { ty, importance, effort };
                let run = |isa| {
                    let mut out = vec![0; ty.row_bytes(COLS).unwrap()];
                    let largest = quantize.row(isa, &x, &mut out);
                    (largest.to_bits(), out)
                };
                let reference = run(Isa::SCALAR);
                for isa in Isa::available() {
                    let weighted = importance.is_some();
                    assert!(run(isa) == reference, "{ty} on {}, weighted: {weighted}", isa.name());
                }
            }
        }
    }

    #[test]
    fn what_counts_more_errs_less() {
        const COLS: usize = 2048;
        let (x, w) = data(COLS);
        // Without outliers: a value much larger than the others leaves no choice of a scale.
        let x: Vec<f32> = x.into_iter().map(|x| x.clamp(-0.05, 0.05)).collect();
        let error = |ty: QuantType, importance| {
            let (mut bytes, mut y) = (vec![0; ty.row_bytes(COLS).unwrap()], vec![0.0; COLS]);
            ty.quantize_by(Plain, &x, importance, Effort::Default, &mut bytes);
            (ty.traits().dequantize)(&bytes, &mut y);
            weighted_error(Isa::best(), &x, &y, Some(&w))[0]
        };
        // Q8_0 gives the same bytes as ggml, and floats leave no choice.
        let choosing = QuantType::all().filter(|ty| {
            ty.is_written()
                && ty.block_len() > 1
                && !matches!(ty, QuantType::Q8_0 | QuantType::Q8_K)
        });
        for ty in choosing {
            // At least a tenth less, since the importances are spread over three magnitudes.
            let limit = 0.9;
            let ratio = error(ty, Some(&w)) / error(ty, None);
            assert!(ratio < limit, "{ty}: {ratio}");
        }
    }

    #[test]
    fn errors_are_weighted_sums() {
        let (x, y, w) = ([1.0, 2.0, 3.0], [1.0, 1.0, 5.0], [9.0, 2.0, 0.5]);
        for isa in Isa::available() {
            assert_eq!(weighted_error(isa, &x, &y, Some(&w)), [4.0, 21.5]);
            assert_eq!(weighted_error(isa, &x, &y, None), [5.0, 14.0]);
        }
    }
}
