//! The cache of keys or of values of one layer.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::isa::Simd;

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Half precision, what every peer does by default.
    F16,
    /// Single precision, for exact comparisons.
    F32,
}

impl KvType {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => size_of::<f16>(),
            Self::F32 => size_of::<f32>(),
        }
    }
}

/// The keys (or the values) of one layer, by head, so that attention reads each head's in a row;
/// grows as they come.
#[derive(Debug)]
pub struct KvRows {
    head_dim: usize,
    heads: Heads,
}

/// `[n_head_kv][positions, padded head_dim]`
#[derive(Debug)]
pub(super) enum Heads {
    F16(Vec<Vec<f16>>),
    F32(Vec<Vec<f32>>),
}

/// Width of a row of a head in the cache, which is whole registers: zeros follow.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

impl KvRows {
    /// No rows yet.
    pub fn new(ty: KvType, n_head_kv: usize, head_dim: usize) -> Self {
        let heads = match ty {
            KvType::F16 => Heads::F16(vec![Vec::new(); n_head_kv]),
            KvType::F32 => Heads::F32(vec![Vec::new(); n_head_kv]),
        };
        Self { head_dim, heads }
    }

    /// Appends rows, `[n, n_head_kv * head_dim]`.
    pub fn push(&mut self, x: &[f32]) {
        let (d, width) = (self.head_dim, padded(self.head_dim));
        match &mut self.heads {
            Heads::F16(heads) => append(heads, x, d, width, |to, x| {
                to.convert_from_f32_slice(x);
                // Not infinite: what a query does not see is multiplied by 0, which must give 0.
                to.iter_mut().for_each(|x| *x = finite(*x));
            }),
            Heads::F32(heads) => append(heads, x, d, width, |to, x| to.copy_from_slice(x)),
        }
    }

    /// Keeps the first `len` positions.
    pub fn truncate(&mut self, len: usize) {
        let values = len * padded(self.head_dim);
        match &mut self.heads {
            Heads::F16(heads) => heads.iter_mut().for_each(|head| head.truncate(values)),
            Heads::F32(heads) => heads.iter_mut().for_each(|head| head.truncate(values)),
        }
    }

    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }
}

/// The largest half in place of an infinite one.
fn finite(x: f16) -> f16 {
    if x.is_infinite() {
        f16::MAX.copysign(x)
    } else {
        x
    }
}

fn append<T: Copy + Default>(
    heads: &mut [Vec<T>],
    x: &[f32],
    head_dim: usize,
    width: usize,
    convert: impl Fn(&mut [T], &[f32]),
) {
    let n_head = heads.len();
    for (h, head) in heads.iter_mut().enumerate() {
        for x in x.chunks_exact(head_dim).skip(h).step_by(n_head) {
            let at = head.len();
            head.resize(at + width, T::default());
            convert(&mut head[at..at + head_dim], x);
        }
    }
}

/// A value in the cache.
pub(super) trait Element: Copy + Sync {
    /// Sixteen of them, widened.
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F;
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F {
        s.load_f16(x.reinterpret_cast().first_chunk().expect("sixteen"))
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; 16]) -> S::F {
        s.load(x)
    }
}
