//! Weights for the quantizer, out of numbers that may be anything.

use thiserror::Error;

use super::Entry;

/// How much each column of a matrix matters to its products.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// One weight a column, `[cols]`: finite, positive, 1 on average.
    pub weights: Vec<f32>,
    /// Columns whose weight is made up, because what the file has for them is zero, negative or no
    /// finite number.
    pub repaired: usize,
}

/// Why there are no weights for a matrix. It is then quantized as if there were no importance
/// matrix, which costs a little quality and is worth a warning, but no reason to stop.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum Flaw {
    /// There is no entry.
    #[error("the importance matrix has no entry for it")]
    Missing,
    /// The entry is for a matrix of another width.
    #[error("the importance matrix has {found} columns for it, expected {expected}")]
    Length {
        /// Columns of the entry.
        found: usize,
        /// Columns of the matrix.
        expected: usize,
    },
    /// The entry counts no tokens: the matrix was never used.
    #[error("the importance matrix has seen it used {0} times")]
    Count(f32),
    /// Nothing was ever multiplied with any column.
    #[error("the importance matrix is zero for it")]
    AllZero,
    /// No column has a positive number, and at least one has none that is finite, or a negative
    /// one.
    #[error("the importance matrix has no usable number for it")]
    NotFinite,
}

/// Least weight of a column. Columns that are in use may have little (one in the tiny fixture has
/// 7e-8), and should keep what they have; this only sees to it that sums of weighted squares, and their
/// products, stay normal floats.
const LEAST: f64 = 1e-10;

impl Importance {
    /// The weights for a matrix of `cols` columns.
    ///
    /// A column that is zero was silent in every token, which is how a column looks that the model
    /// does not use: it gets the least weight of all that were heard. Of a column with no finite
    /// number, or a negative one, nothing is known: it gets the mean. So no weight is zero, and
    /// blocks of silent columns have equal weights, as without an importance matrix.
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
        // As large and as small as floats are.
        let found = importance(&[f32::MAX, f32::MAX, f32::MAX / 4.0]).unwrap();
        assert_eq!(found.weights, [4.0 / 3.0, 4.0 / 3.0, 1.0 / 3.0]);
        let found = importance(&[f32::from_bits(1), f32::from_bits(3)]).unwrap();
        assert_eq!(found.weights, [0.5, 1.5]);
    }

    #[test]
    fn single_bad_columns_are_repaired_and_counted() {
        // 1 and 3 are good; their mean is 2, their least 1.
        let found = importance(&[1.0, 0.0, 3.0, -0.0]).unwrap();
        let weights = vec![1.0 / 1.5, 1.0 / 1.5, 3.0 / 1.5, 1.0 / 1.5];
        assert_eq!(found, Importance { weights, repaired: 2 });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, f32::MIN] {
            let found = importance(&[1.0, bad, 3.0]).unwrap();
            assert_eq!(found, Importance { weights: vec![0.5, 1.0, 1.5], repaired: 1 }, "{bad}");
        }
    }

    #[test]
    fn no_weight_is_so_small_that_squares_vanish() {
        let found = importance(&[1e-38, 0.0, 1e38]).unwrap();
        assert_eq!(found.repaired, 1);
        assert!(found.weights.iter().all(|w| (1e-10..3.1).contains(w)), "{:?}", found.weights);
    }

    #[test]
    fn entries_without_a_good_column_are_flawed() {
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
