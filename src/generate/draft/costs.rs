//! How long passes take, by the number of their rows.

use std::collections::BTreeMap;
use std::time::Duration;

/// Moving averages of the time that something takes, by its size.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs(BTreeMap<usize, f64>);

/// Weight of a shorter time in the average, and of a longer one. Other programs can only make a
/// pass longer, so a short time says more.
const SHORTER: f64 = 0.5;
const LONGER: f64 = 0.15;

/// What one more row costs in terms of the first, as long as only one size has been measured. Low,
/// so that other sizes are tried.
const SLOPE: f64 = 0.15;

impl Costs {
    /// Adds a measurement.
    pub fn add(&mut self, size: usize, time: Duration) {
        let new = time.as_secs_f64();
        let average = self.0.entry(size).or_insert(new);
        let weight = match new / *average {
            // What was measured before was not the pass but a wait, such as for a disk.
            ratio if ratio < 0.5 => 1.0,
            ratio if ratio < 1.0 => SHORTER,
            _ => LONGER,
        };
        *average += weight * (new - *average);
    }

    /// The average in seconds, if this size has been measured.
    pub fn measured(&self, size: usize) -> Option<f64> {
        self.0.get(&size).copied()
    }

    /// The seconds that this size takes: measured, or from a line between two measured sizes, or
    /// beyond them. `None` before the first measurement.
    pub fn estimate(&self, size: usize) -> Option<f64> {
        let below = self.0.range(..=size).next_back();
        let above = self.0.range(size..).next();
        let (first, last) = (self.0.first_key_value()?, self.0.last_key_value()?);
        let line = |(a, x): (&usize, &f64), (b, y): (&usize, &f64)| {
            x + (size as f64 - *a as f64) * (y - x) / (*b as f64 - *a as f64)
        };
        Some(match (below, above) {
            (Some((at, time)), _) if *at == size => *time,
            (Some(below), Some(above)) => line(below, above),
            _ if self.0.len() == 1 => {
                let relative = |n: usize| 1.0 + SLOPE * (n as f64 - 1.0);
                first.1 * relative(size) / relative(*first.0)
            }
            // No pass with more rows is shorter, whatever the noise of the measurements says.
            (Some(below), None) => line(first, last).max(*below.1),
            // The first row costs the most, so a part of the rows takes at least that part of the
            // time.
            (None, Some(above)) => {
                line(first, last).clamp(above.1 * size as f64 / *above.0 as f64, *above.1)
            }
            (None, None) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(measured: &[(usize, u64)]) -> Costs {
        let mut costs = Costs::default();
        for (size, ms) in measured {
            costs.add(*size, Duration::from_millis(*ms));
        }
        costs
    }

    fn near(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn sizes_between_and_beyond_the_measured_ones_are_on_a_line() {
        assert_eq!(costs(&[]).estimate(1), None);
        let two = costs(&[(2, 120), (6, 200)]);
        for (size, expected) in [(1, 0.1), (2, 0.12), (3, 0.14), (6, 0.2), (11, 0.3)] {
            near(two.estimate(size), expected);
        }
        assert_eq!((two.measured(2), two.measured(3)), (Some(0.12), None));
        // Of one size, the others follow by the assumed slope.
        let one = costs(&[(1, 100)]);
        near(one.estimate(3), 0.1 * (1.0 + 2.0 * SLOPE));
        near(costs(&[(3, 130)]).estimate(1), 0.13 / (1.0 + 2.0 * SLOPE));
    }

    #[test]
    fn noise_makes_no_size_free_or_negative() {
        let falling = costs(&[(1, 200), (4, 100)]);
        near(falling.estimate(8), 0.1);
        let steep = costs(&[(4, 100), (5, 200)]);
        near(steep.estimate(1), 0.025);
    }

    #[test]
    fn averages_follow_short_times_sooner_than_long_ones() {
        let mut times = costs(&[(1, 100)]);
        times.add(1, Duration::from_millis(200));
        near(times.measured(1), 0.1 + LONGER * 0.1);
        let mut times = costs(&[(1, 200)]);
        times.add(1, Duration::from_millis(120));
        near(times.measured(1), 0.2 - SHORTER * 0.08);
        times.add(1, Duration::from_millis(50));
        near(times.measured(1), 0.05);
        for _ in 0..60 {
            times.add(1, Duration::from_millis(300));
        }
        assert!(times.measured(1).unwrap() > 0.29);
    }
}
