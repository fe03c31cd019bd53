//! Means with their standard errors, and quantiles.

/// A mean, or a value computed from one, with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its standard error, from the variance of the values that were averaged.
    pub standard_error: f64,
}

/// The running mean of values that are added one by one.
#[derive(Debug, Default)]
pub(super) struct Mean {
    n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Mean {
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        self.sum += value;
        self.sum_of_squares += value * value;
    }

    /// How many values were added.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The mean.
    pub fn estimate(&self) -> Estimate {
        let n = self.n as f64;
        let mean = self.sum / n;
        let variance = (self.sum_of_squares / n - mean * mean).max(0.0);
        Estimate { value: mean, standard_error: (variance / (n - 1.0)).sqrt() }
    }

    /// exp of the mean; the standard error is propagated.
    pub fn exp(&self) -> Estimate {
        let Estimate { value, standard_error } = self.estimate();
        let value = value.exp();
        Estimate { value, standard_error: value * standard_error }
    }

    /// Root mean square of the values.
    pub fn root_mean_square(&self) -> f64 {
        (self.sum_of_squares / self.n as f64).sqrt()
    }
}

/// The value below which `share` (0 to 1) of `values` lie, interpolated linearly between two of them.
/// Changes their order.
///
/// # Panics
/// If there are no values.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    let at = share * (values.len() - 1) as f64;
    let (_, low, above) = values.select_nth_unstable_by(at as usize, f64::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_numbers() {
        // 0 to 100 in another order: 37 has no factor in common with 101.
        let mut values: Vec<f64> = (0..101).map(|i| f64::from(i * 37 % 101)).collect();
        for (share, expected) in [(0.0, 0.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(quantile(&mut values, share), expected);
        }
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 0.25), 1.75);
        assert_eq!(quantile(&mut [7.0], 0.99), 7.0);
    }

    #[test]
    fn mean_and_error_of_known_numbers() {
        let mut mean = Mean::default();
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|x| mean.add(x));
        // The squared deviations are 4, 1, 0, 9: variance 14 / 3, and variance of the mean 14 / 12.
        let error = (14.0f64 / 12.0).sqrt();
        let Estimate { value, standard_error } = mean.estimate();
        assert_eq!(value, 3.0);
        assert!((standard_error - error).abs() < 1e-12);
        assert_eq!(mean.exp().value, 3f64.exp());
        assert!((mean.exp().standard_error - 3f64.exp() * error).abs() < 1e-10);
        assert_eq!(mean.root_mean_square(), 12.5f64.sqrt());
        assert_eq!(mean.n(), 4);
    }
}
