//! What the kernels run on, and what a model asks of it. Together with `matmul`, `gated` and
//! [`Attention`](super::Attention) this is all that a forward pass needs: no model touches a thread or
//! an instruction set.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::elementwise::{add_assign, add_rms_norm, rms_norm, scale, softcap};
use super::thread_pool::{ThreadPool, ThreadPoolError};
use super::{Activations, Isa, Matrix, Rope};

/// The threads, and the instructions that they use. Clones share the threads.
#[derive(Clone, Debug)]
pub struct Cpu {
    pub(super) pool: Arc<ThreadPool>,
    pub(super) isa: Isa,
}

/// Values that one thread takes at a time.
pub(super) const CHUNK: usize = 1 << 14;

/// Items that together read no more bytes than this are not worth a second thread: the calling thread
/// has done them, in 1 to 2 µs, before another would have begun.
const ALONE: usize = 1 << 15;

impl Cpu {
    /// `threads`, or as many as there are physical cores, and `isa`.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(threads: Option<NonZeroUsize>, isa: Isa) -> Result<Self, ThreadPoolError> {
        Ok(Self { pool: Arc::new(ThreadPool::new(threads)?), isa })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.size()
    }

    /// The instructions.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `work` with every item, on all threads. `work` must not use this `Cpu` itself.
    pub fn for_each<T: Send>(&self, items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
        self.pool.for_each(items, work);
    }

    /// Calls `work` with every item and what `scratch` made for the thread, on all threads. `work` must
    /// not use this `Cpu` itself.
    pub fn for_each_with<T: Send, W>(
        &self,
        items: impl IntoIterator<Item = T>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) {
        self.pool.for_each_with(items, scratch, work);
    }

    /// The same of items that together read `bytes` bytes of weights or of a cache, which may be so few
    /// that the calling thread does them alone.
    pub(super) fn for_each_reading<T: Send, W>(
        &self,
        bytes: usize,
        items: Vec<T>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) {
        if bytes > ALONE {
            return self.pool.for_each_with(items, scratch, work);
        }
        let mut scratch = scratch();
        items.into_iter().for_each(|item| work(&mut scratch, item));
    }

    /// Calls `work` with every item and what `scratch` made for the thread, on all threads, after the
    /// calling thread has called `beside`. The other threads begin meanwhile, so `beside` may wait for a
    /// disk. Neither may use this `Cpu` itself. Returns what `beside` returns.
    pub fn for_each_beside<T: Send, W, R>(
        &self,
        beside: impl FnOnce() -> R,
        items: impl IntoIterator<Item = T>,
        scratch: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) + Sync,
    ) -> R {
        self.pool.for_each_beside(beside, items, scratch, work)
    }

    /// `out[t] = factor * w[ids[t]]`, `[n, cols]`.
    ///
    /// # Panics
    /// If an id has no row, or `out` is not of that size.
    pub fn embed(&self, w: &Matrix<'_>, ids: &[u32], factor: f32, out: &mut [f32]) {
        assert_eq!(out.len(), ids.len() * w.cols(), "embed: shapes differ");
        self.pool.for_each(out.chunks_mut(w.cols()).zip(ids), |(out, id)| {
            w.dequantize_row(*id as usize, out);
            scale(out, factor);
        });
    }

    /// Turns every head of the queries and keys of `n` rows by the angles that `rope` was prepared
    /// for: `q` is `[n, n_head * head_dim]`, `k` is `[n, n_head_kv * head_dim]`.
    pub fn rope(&self, rope: &Rope, n: usize, q: &mut [f32], k: &mut [f32]) {
        let (q_row, k_row) = (q.len() / n, k.len() / n);
        let rows = q.chunks_mut(q_row).zip(k.chunks_mut(k_row));
        self.pool.for_each(rows.enumerate(), |(row, (q, k))| {
            rope.apply(row, q);
            rope.apply(row, k);
        });
    }

    /// `out = norm(x)` of some `rows` of `x`, `[n, cols]`, where `weight` is `[cols]`.
    pub fn rms_norm(
        &self,
        x: &[f32],
        rows: impl ExactSizeIterator<Item = usize>,
        weight: &[f32],
        eps: f32,
        out: &mut Activations,
    ) {
        let cols = weight.len();
        out.fill(rows.len(), cols, |out| {
            self.pool.for_each(out.chunks_mut(cols).zip(rows), |(out, row)| {
                rms_norm(self.isa, &x[row * cols..][..cols], weight, eps, out);
            });
        });
    }

    /// `x = norm(x)`, head by head: `x` is `[n, heads * head_dim]`, `weight` is `[head_dim]`.
    pub fn rms_norm_heads(&self, x: &mut [f32], n: usize, weight: &[f32], eps: f32) {
        let row = x.len() / n;
        self.pool.for_each_with(x.chunks_mut(row), Vec::new, |before, x| {
            before.clear();
            before.extend_from_slice(x);
            let heads = x.chunks_mut(weight.len()).zip(before.chunks(weight.len()));
            heads.for_each(|(x, before)| rms_norm(self.isa, before, weight, eps, x));
        });
    }

    /// `x += norm(delta)`, row by row: both are `[n, cols]`, `weight` is `[cols]`.
    pub fn add_rms_norm(&self, x: &mut [f32], delta: &[f32], weight: &[f32], eps: f32) {
        let rows = x.chunks_mut(weight.len()).zip(delta.chunks(weight.len()));
        self.pool.for_each_with(rows, Vec::new, |buffer, (x, delta)| {
            add_rms_norm(self.isa, x, delta, weight, eps, buffer);
        });
    }

    /// `x += delta`.
    pub fn add(&self, x: &mut [f32], delta: &[f32]) {
        let chunks = x.chunks_mut(CHUNK).zip(delta.chunks(CHUNK));
        self.pool.for_each(chunks, |(x, delta)| add_assign(x, delta));
    }

    /// Squashes every value to ± `cap`, if it is given. The result is whether all of them were finite
    /// before, as the softcap makes a number of infinity.
    pub fn softcap(&self, x: &mut [f32], cap: Option<f32>) -> bool {
        let finite = AtomicBool::new(true);
        self.pool.for_each(x.chunks_mut(CHUNK), |x| {
            if !all_finite(x) {
                finite.store(false, Ordering::Relaxed);
            }
            if let Some(cap) = cap {
                softcap(self.isa, x, cap);
            }
        });
        finite.into_inner()
    }
}

/// Whether there is neither NaN nor infinity. It looks at every value, which is faster than to stop at
/// one.
pub fn all_finite(x: &[f32]) -> bool {
    x.iter().fold(true, |finite, x| finite & x.is_finite())
}
