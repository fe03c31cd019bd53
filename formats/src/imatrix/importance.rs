//! Computes weights for the quantizer from an importance matrix, whose numbers may be anything.

use thiserror::Error;

use super::Entry;

/// How much each column of a matrix matters to its products.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// One weight per column, `[cols]`: finite, positive, 1 on average.
    pub weights: Vec<f32>,
    /// How many columns got a substitute weight because their number in the file is zero, negative
    /// or not finite.
    pub repaired: usize,
}

/// Why there are no weights for a matrix. It is then quantized as without an importance matrix. That
/// costs a little quality, so it is worth a warning but not an error.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum Flaw {
    /// The importance matrix has no entry for it.
    #[error("the importance matrix has no entry for it")]
    Missing,
    /// The entry has another number of columns than the matrix.
    #[error("the importance matrix has {found} columns for it, expected {expected}")]
    Length {
        /// Columns of the entry.
        found: usize,
        /// Columns of the matrix.
        expected: usize,
    },
    /// The entry's count is not positive: no token was seen.
    #[error("the importance matrix counts {0} tokens for it")]
    Count(f32),
    /// All columns are zero.
    #[error("the importance matrix is zero for it")]
    AllZero,
    /// No column has a positive finite number, and not all are zero.
    #[error("the importance matrix has no usable number for it")]
    NotFinite,
}

/// Smallest weight of a column, relative to the mean. Columns in use may have small weights (one in
/// the tiny fixture has 7e-8) and keep them. This limit only ensures that weighted sums of squares,
/// and their products, stay normal floats.
const LEAST: f64 = 1e-10;

impl Importance {
    /// The weights for a matrix of `cols` columns.
    ///
    /// A column with zero was never active in any token; that is how a column that the model does
    /// not use looks. It gets the smallest weight of the active columns. A column with a negative
    /// number, or one that is not finite, tells nothing and gets the mean. So no weight is zero, and
    /// blocks of inactive columns have equal weights, as without an importance matrix.
    pub(super) fn new(entry: &Entry, cols: usize) -> Result<Self, Flaw> {
        let sums = &entry.sums;
        if sums.len() != cols {
            return Err(Flaw::Length { found: sums.len(), expected: cols });
        }
        if !(entry.count.is_finite() && entry.count > 0.0) {
            return Err(Flaw::Count(entry.count));
        }
        let good: Vec<f64> =
            sums.iter().filter(|x| x.is_finite() && **x > 0.0).map(|x| f64::from(*x)).collect();
        if good.is_empty() {
            let zero = sums.iter().all(|x| *x == 0.0);
            return Err(if zero { Flaw::AllZero } else { Flaw::NotFinite });
        }
        let mean = good.iter().sum::<f64>() / good.len() as f64;
        let least = good.iter().copied().fold(f64::INFINITY, f64::min).max(mean * LEAST);
        let usable = |x: &f32| match f64::from(*x) {
            x if x.is_finite() && x >= 0.0 => x.max(least),
            _ => mean,
        };
        let total: f64 = sums.iter().map(usable).sum();
        let scale = cols as f64 / total;
        Ok(Self {
            weights: sums.iter().map(|x| (usable(x) * scale) as f32).collect(),
            repaired: cols - good.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn importance(sums: &[f32]) -> Result<Importance, Flaw> {
        Importance::new(&Entry { sums: sums.to_vec(), count: 512.0 }, sums.len())
    }

    #[test]
    fn weights_are_the_sums_with_a_mean_of_one() {
        let found = importance(&[1.0, 2.0, 5.0]).unwrap();
        assert_eq!(found, Importance { weights: vec![0.375, 0.75, 1.875], repaired: 0 });
        // The largest and the smallest floats.
        let found = importance(&[f32::MAX, f32::MAX, f32::MAX / 4.0]).unwrap();
        assert_eq!(found.weights, [4.0 / 3.0, 4.0 / 3.0, 1.0 / 3.0]);
        let found = importance(&[f32::from_bits(1), f32::from_bits(3)]).unwrap();
        assert_eq!(found.weights, [0.5, 1.5]);
    }

    #[test]
    fn single_bad_columns_are_repaired_and_counted() {
        // 1 and 3 are good; their mean is 2, the smaller is 1.
        let found = importance(&[1.0, 0.0, 3.0, -0.0]).unwrap();
        let weights = vec![1.0 / 1.5, 1.0 / 1.5, 3.0 / 1.5, 1.0 / 1.5];
        assert_eq!(found, Importance { weights, repaired: 2 });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, f32::MIN] {
            let found = importance(&[1.0, bad, 3.0]).unwrap();
            assert_eq!(found, Importance { weights: vec![0.5, 1.0, 1.5], repaired: 1 }, "{bad}");
        }
    }

    #[test]
    fn no_weight_is_so_small_that_its_square_vanishes() {
        let found = importance(&[1e-38, 0.0, 1e38]).unwrap();
        assert_eq!(found.repaired, 1);
        assert!(found.weights.iter().all(|w| (1e-10..3.1).contains(w)), "{:?}", found.weights);
    }

    #[test]
    fn entries_without_a_usable_column_are_flawed() {
        assert_eq!(importance(&[0.0, -0.0]), Err(Flaw::AllZero));
        assert_eq!(importance(&[]), Err(Flaw::AllZero));
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            assert_eq!(importance(&[0.0, bad]), Err(Flaw::NotFinite), "{bad}");
        }
        let entry = |count| Entry { sums: vec![1.0; 3], count };
        let length = Flaw::Length { found: 3, expected: 4 };
        assert_eq!(Importance::new(&entry(1.0), 4), Err(length));
        for count in [0.0, -1.0, f32::INFINITY] {
            assert_eq!(Importance::new(&entry(count), 3), Err(Flaw::Count(count)));
        }
        assert!(matches!(Importance::new(&entry(f32::NAN), 3), Err(Flaw::Count(_))));
    }
}
