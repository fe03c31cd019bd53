//! Sixteen floats side by side. The search for scales is written in these operations, so that the same
//! code is the reference and, with an instruction set behind the operations, the fast quantizer. The
//! kernels that run models extend them.

/// How many floats there are.
pub const LANES: usize = 16;

/// Operations on sixteen floats. Each result is rounded by itself: a product is not contracted with a
/// sum unless it is exact, so that no result depends on whether a machine has fused multiply-add. All
/// implementations give the same bits. The methods are `#[inline(always)]`.
pub trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// From memory.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// To memory.
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second if one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second if one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { x } else { y }`
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;

    /// The nearest integer, ties to even, of numbers whose magnitude is at most 2^22.
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        // Floats from 2^23 on are integers, so that the addition rounds.
        let integers = self.splat(1.5 * (1 << 23) as f32);
        self.sub(self.add(x, integers), integers)
    }
    /// `sum + a * b`, where the product is exact as a float, so that a machine with fused multiply-add gives
    /// the same.
    #[inline(always)]
    fn add_exact_product(self, sum: Self::F, a: Self::F, b: Self::F) -> Self::F {
        self.add(sum, self.mul(a, b))
    }
    /// The last eight lanes and then the first eight.
    #[inline(always)]
    fn swap_halves(self, x: Self::F) -> Self::F {
        let x = self.to_array(x);
        self.load(&std::array::from_fn(|i| x[(i + LANES / 2) % LANES]))
    }

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, x: Self::F) -> [f32; LANES] {
        let mut y = [0.0; LANES];
        self.store(x, &mut y);
        y
    }

    /// The index of the smallest lane, the first of equals. No lane may be NaN.
    #[inline(always)]
    fn least(self, x: Self::F) -> usize {
        let x = self.to_array(x);
        let least = x.iter().fold(x[0], |least, x| if *x < least { *x } else { least });
        x.iter().position(|x| *x == least).unwrap_or(0)
    }
}

/// The reference: arrays, with the vector instructions that the compiler uses by itself.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    for i in 0..LANES {
        y[i] = f(a[i], b[i]);
    }
    y
}

impl Lanes for Plain {
    type F = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
}
