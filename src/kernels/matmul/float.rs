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
        // A few columns at a time, which stay in the first-level cache while all rows are read.
        for (out, x) in out.chunks_mut(4).zip(x.chunks(4 * cols)) {
            if let [a, b, c, d] = out {
                let x = [0, 1, 2, 3].map(|t| &x[t * cols..][..cols]);
                for (r, w) in w.chunks_exact(cols).enumerate() {
                    [a[r], b[r], c[r], d[r]] = row::<S, T, 4>(s, w, x);
                }
                continue;
            }
            for (out, x) in out.iter_mut().zip(x.chunks(cols)) {
                for (out, w) in out.iter_mut().zip(w.chunks_exact(cols)) {
                    [*out] = row::<S, T, 1>(s, w, [x]);
                }
            }
        }
    }
}

#[inline(always)]
fn row<S: Simd, T: Float, const N: usize>(s: S, w: &[T], x: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[s.splat(0.0); 2]; N];
    let (chunks, rest) = w.as_chunks::<32>();
    for (i, w) in chunks.iter().enumerate() {
        let w = w.as_chunks::<16>().0;
        let w = [T::load(s, &w[0]), T::load(s, &w[1])];
        for t in 0..N {
            let x = x[t][32 * i..][..32].as_chunks::<16>().0;
            for h in 0..2 {
                sums[t][h] = s.add(sums[t][h], s.mul(w[h], s.load(&x[h])));
            }
        }
    }
    if !rest.is_empty() {
        let (mut padded, at) = ([T::zeroed(); 32], w.len() - rest.len());
        padded[..rest.len()].copy_from_slice(rest);
        let w = padded.as_chunks::<16>().0;
        for t in 0..N {
            let mut padded = [0.0; 32];
            padded[..rest.len()].copy_from_slice(&x[t][at..]);
            let x = padded.as_chunks::<16>().0;
            for h in 0..2 {
                sums[t][h] = s.add(sums[t][h], s.mul(T::load(s, &w[h]), s.load(&x[h])));
            }
        }
    }
    let mut y = [0.0; N];
    for t in 0..N {
        y[t] = s.sum(s.add(sums[t][0], sums[t][1]));
    }
    y
}
