//! Factors of the sub-blocks' own columns.

/// For every sub-block of sixteen and of 32 columns, a unit upper triangular matrix and what its errors
/// weigh.
#[derive(Debug, Default)]
pub struct Chains {
    sixteen: Factors,
    thirty_two: Factors,
}

#[derive(Debug, Default)]
struct Factors {
    /// By sub-block, `M` transposed: by column, what each row before it adds.
    m: Vec<f32>,
    d: Vec<f32>,
}

/// The factor of one sub-block.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    /// `M` transposed, `[sub, sub]`.
    pub m: &'a [f32],
    /// `D`, `[sub]`.
    pub d: &'a [f32],
}

impl Chains {
    /// The sub-blocks of a factor of all `n` columns.
    pub fn of_factor(n: usize, m: impl Fn(usize, usize) -> f32, d: &[f32]) -> Self {
        let factors = |sub: usize| {
            let mut all = Factors { m: Vec::with_capacity(n * sub), d: d.to_vec() };
            for i in 0..n {
                let start = i / sub * sub;
                all.m.extend((start..start + sub).map(|k| if k < i { m(k, i) } else { 0.0 }));
            }
            all
        };
        Self { sixteen: factors(16), thirty_two: factors(32) }
    }

    /// The factors of the sub-blocks on the diagonal of a matrix of `n` columns.
    pub fn of_blocks(n: usize, h: impl Fn(usize, usize) -> f32) -> Self {
        let factors = |sub: usize| {
            let mut all = Factors::default();
            for start in (0..n).step_by(sub) {
                let (m, d) = factor(sub, |k, i| f64::from(h(start + k, start + i)));
                all.m.extend(m.iter().map(|m| *m as f32));
                all.d.extend(d.iter().map(|d| *d as f32));
            }
            all
        };
        Self { sixteen: factors(16), thirty_two: factors(32) }
    }

    /// That of the sub-block of `sub` columns from `start` on.
    #[inline(always)]
    pub fn of(&self, start: usize, sub: usize) -> Chain<'_> {
        let all = if sub == 16 { &self.sixteen } else { &self.thirty_two };
        Chain { m: &all.m[start * sub..][..sub * sub], d: &all.d[start..][..sub] }
    }
}

/// `M` transposed and `D` of a small matrix, from the last column to the first.
fn factor(n: usize, h: impl Fn(usize, usize) -> f64) -> (Vec<f64>, Vec<f64>) {
    let (mut m, mut d) = (vec![0.0; n * n], vec![0.0; n]);
    for j in (0..n).rev() {
        let rest = |i: usize, m: &[f64], d: &[f64]| {
            h(i, j) - (j + 1..n).map(|k| m[k * n + i] * d[k] * m[k * n + j]).sum::<f64>()
        };
        // As for the matrix as a whole, rounding must not take it to zero.
        d[j] = rest(j, &m, &d).max(1e-6 * h(j, j).abs()).max(f64::from(f32::MIN_POSITIVE));
        for i in 0..j {
            m[j * n + i] = rest(i, &m, &d) / d[j];
        }
    }
    (m, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factors_multiply_to_the_matrix() {
        const N: usize = 16;
        let root = |i: usize, j: usize| ((i * 7 + j * 3) as f64).sin();
        let h = |i: usize, j: usize| {
            let product: f64 = (0..N).map(|k| root(i, k) * root(j, k)).sum();
            product + if i == j { 0.5 } else { 0.0 }
        };
        let (m, d) = factor(N, h);
        let m = |i: usize, k: usize| if i == k { 1.0 } else { m[k * N + i] };
        for i in 0..N {
            for j in 0..N {
                let product: f64 = (i.max(j)..N).map(|k| m(i, k) * d[k] * m(j, k)).sum();
                // Double precision, and a matrix whose condition is at most some hundreds.
                assert!((product - h(i, j)).abs() < 1e-9, "{i} {j}: {product} {}", h(i, j));
            }
        }
    }
}
