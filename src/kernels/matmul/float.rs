//! Rows of floats × columns of floats, in the order of the reference: product `i` is added to sum
//! `i % 32`, and then the second half of the sums to the first until one is left.

use std::marker::PhantomData;

use super::Matrix;
use crate::kernels::isa::{Op, Simd};
use crate::kernels::unpack::Float;

/// Some rows of a matrix, and the columns that they are multiplied with.
pub struct DotFloat<'a, 'o, T> {
    w: &'a [u8],
    cols: usize,
    /// `[columns, cols]`
    x: &'a [f32],
    /// By column, `[rows]` each.
    out: &'a mut [&'o mut [f32]],
    ty: PhantomData<T>,
}

impl<'a, 'o, T: Float> DotFloat<'a, 'o, T> {
    pub fn new(w: &Matrix<'a>, x: &'a [f32], out: &'a mut [&'o mut [f32]]) -> Self {
        Self { w: w.data, cols: w.cols, x, out, ty: PhantomData }
    }
}

impl<T: Float> Op for DotFloat<'_, '_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, cols, x, out, .. } = self;
        let w: &[T] = bytemuck::cast_slice(w);
        // As many columns at a time as there are registers for their sums. They stay in the first-level
        // cache while all rows are read.
        let together = if S::FLOATS > 16 { 4 } else { 2 };
        let mut first = 0;
        while first < out.len() {
            let left = out.len() - first;
            let n = if left >= together { together } else { 1 << left.ilog2() };
            let (x, out) = (&x[first * cols..][..n * cols], &mut out[first..][..n]);
            match n {
                4 => columns::<S, T, 2, 4>(s, w, cols, x, out),
                2 if S::FLOATS > 16 => columns::<S, T, 2, 2>(s, w, cols, x, out),
                2 => columns::<S, T, 1, 2>(s, w, cols, x, out),
                _ => columns::<S, T, 2, 1>(s, w, cols, x, out),
            }
            first += n;
        }
    }
}

/// All rows × `N` columns, `R` rows at a time.
#[inline(always)]
fn columns<S: Simd, T: Float, const R: usize, const N: usize>(
    s: S,
    w: &[T],
    cols: usize,
    x: &[f32],
    out: &mut [&mut [f32]],
) {
    let mut columns = [x; N];
    for t in 0..N {
        columns[t] = &x[t * cols..][..cols];
    }
    for (i, group) in w.chunks(R * cols).enumerate() {
        let mut rows = [&group[..cols]; R];
        for r in 1..R {
            // The last row again if there are no more.
            rows[r] = &group[(r * cols).min(group.len() - cols)..][..cols];
        }
        let sums = products::<S, T, R, N>(s, rows, columns);
        for r in 0..group.len() / cols {
            for t in 0..N {
                out[t][i * R + r] = sums[r][t];
            }
        }
    }
}

/// The products of `R` rows and `N` columns.
#[inline(always)]
fn products<S: Simd, T: Float, const R: usize, const N: usize>(
    s: S,
    w: [&[T]; R],
    x: [&[f32]; N],
) -> [[f32; N]; R] {
    let mut sums = [[[s.splat(0.0); 2]; N]; R];
    let chunks = x[0].len() / 32;
    for i in 0..chunks {
        let mut weights = [[s.splat(0.0); 2]; R];
        for r in 0..R {
            let w = w[r][32 * i..][..32].as_chunks::<16>().0;
            weights[r] = [T::load(s, &w[0]), T::load(s, &w[1])];
        }
        for t in 0..N {
            let x = x[t][32 * i..][..32].as_chunks::<16>().0;
            for h in 0..2 {
                let x = s.load(&x[h]);
                for r in 0..R {
                    sums[r][t][h] = s.add(sums[r][t][h], s.mul(weights[r][h], x));
                }
            }
        }
    }
    let rest = 32 * chunks..x[0].len();
    if !rest.is_empty() {
        for r in 0..R {
            let mut padded = [T::zeroed(); 32];
            padded[..rest.len()].copy_from_slice(&w[r][rest.clone()]);
            let w = padded.as_chunks::<16>().0;
            for t in 0..N {
                let mut padded = [0.0; 32];
                padded[..rest.len()].copy_from_slice(&x[t][rest.clone()]);
                let x = padded.as_chunks::<16>().0;
                for h in 0..2 {
                    let product = s.mul(T::load(s, &w[h]), s.load(&x[h]));
                    sums[r][t][h] = s.add(sums[r][t][h], product);
                }
            }
        }
    }
    let mut y = [[0.0; N]; R];
    for r in 0..R {
        for t in 0..N {
            y[r][t] = s.sum(s.add(sums[r][t][0], sums[r][t][1]));
        }
    }
    y
}
