//! Attention over a cache of keys and values, one group of query heads at a time.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::softcap;

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

/// The keys (or the values) of one layer, `[positions, n_embd_kv]`; grows as they come.
#[derive(Debug)]
pub enum KvRows {
    /// Stored as [`KvType::F16`].
    F16(Vec<f16>),
    /// Stored as [`KvType::F32`].
    F32(Vec<f32>),
}

impl KvRows {
    /// No rows yet.
    pub fn new(ty: KvType) -> Self {
        match ty {
            KvType::F16 => Self::F16(Vec::new()),
            KvType::F32 => Self::F32(Vec::new()),
        }
    }

    /// Appends rows.
    pub fn push(&mut self, x: &[f32]) {
        match self {
            Self::F16(rows) => rows.extend(x.iter().map(|x| f16::from_f32(*x))),
            Self::F32(rows) => rows.extend_from_slice(x),
        }
    }

    /// Keeps the first `values` values.
    pub fn truncate(&mut self, values: usize) {
        match self {
            Self::F16(rows) => rows.truncate(values),
            Self::F32(rows) => rows.truncate(values),
        }
    }

    /// `buffer.len()` values from `at` on, in `buffer` unless they are f32 already.
    fn get<'a>(&'a self, at: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(rows) => &rows[at..at + buffer.len()],
            Self::F16(rows) => {
                rows[at..at + buffer.len()].convert_to_f32_slice(buffer);
                buffer
            }
        }
    }
}

/// The shape of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Squashes scores, if given.
    pub softcap: Option<f32>,
    /// Positions that a query sees, its own included.
    pub window: usize,
}

impl Attention {
    /// `out[t] = softmax(softcap(q[t]·k * scale)) · v` over what position `pos + t` sees.
    /// `q` and `out` are `[n, n_head * head_dim]`; `k` and `v` hold rows up to `pos + n`.
    pub fn run(&self, pos: usize, q: &[f32], k: &KvRows, v: &KvRows, out: &mut [f32]) {
        let group = self.n_head / self.n_head_kv * self.head_dim;
        let groups = out.par_chunks_mut(group).zip(q.par_chunks(group)).enumerate();
        groups.for_each_init(Scratch::default, |scratch, (i, (out, q))| {
            let (t, head_kv) = (i / self.n_head_kv, i % self.n_head_kv);
            self.group(pos + t, head_kv, q, k, v, out, scratch);
        });
    }

    /// The query heads that share key/value head `head_kv`, at position `pos`: each row of keys
    /// and of values is read once for all of them.
    #[allow(clippy::too_many_arguments)]
    fn group(
        &self,
        pos: usize,
        head_kv: usize,
        q: &[f32],
        k: &KvRows,
        v: &KvRows,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let d = self.head_dim;
        let first = (pos + 1).saturating_sub(self.window);
        let seen = pos + 1 - first;
        let at = |j: usize| ((first + j) * self.n_head_kv + head_kv) * d;
        let Scratch { row, scores } = scratch;
        row.resize(d, 0.0);
        scores.resize(q.len() / d * seen, 0.0);
        for j in 0..seen {
            let k = k.get(at(j), row);
            for (q, scores) in q.chunks_exact(d).zip(scores.chunks_exact_mut(seen)) {
                let score = dot(q, k) * self.scale;
                scores[j] = self.softcap.map_or(score, |cap| softcap(score, cap));
            }
        }
        scores.chunks_exact_mut(seen).for_each(softmax);
        out.fill(0.0);
        for j in 0..seen {
            let v = v.get(at(j), row);
            for (out, scores) in out.chunks_exact_mut(d).zip(scores.chunks_exact(seen)) {
                out.iter_mut().zip(v).for_each(|(out, v)| *out += scores[j] * v);
            }
        }
    }
}

/// What a thread needs beside the inputs.
#[derive(Default)]
struct Scratch {
    /// A row of keys or values as f32, `[head_dim]`.
    row: Vec<f32>,
    /// `[query heads of the group, positions seen]`
    scores: Vec<f32>,
}

/// Eight sums side by side, so that the order is fixed and the loop vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for x in x.iter_mut() {
        *x = (*x - max).exp();
        sum += f64::from(*x);
    }
    let factor = (1.0 / sum) as f32;
    x.iter_mut().for_each(|x| *x *= factor);
}
