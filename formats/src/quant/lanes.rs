//! Sixteen floats side by side: what the search for scales is written in, so that one text serves
//! as the reference and, with vector instructions behind it, as the fast quantizer.

/// How many floats there are.
pub const LANES: usize = 16;

/// Operations on sixteen floats, each rounded by itself: products are not contracted with sums. All
/// implementations give the same bits. They are `#[inline(always)]`.
pub trait Lanes: Copy {
    /// Sixteen f32.
    type V: Copy;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// From memory.
    fn load(self, x: &[f32; LANES]) -> Self::V;
    /// To memory.
    fn store(self, x: Self::V) -> [f32; LANES];
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: the second if one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: the second if one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { x } else { y }`
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;

    /// The first lane that is least; none is NaN.
    #[inline(always)]
    fn least(self, x: Self::V) -> usize {
        let x = self.store(x);
        let least = x.iter().fold(x[0], |least, x| if *x < least { *x } else { least });
        x.iter().position(|x| *x == least).unwrap_or(0)
    }
}

/// The reference: arrays, and what the compiler makes of them.
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
    type V = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, x: Self::V) -> [f32; LANES] {
        x
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
}
