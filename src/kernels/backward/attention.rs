//! Attention, of one sequence from position 0 on.
//!
//! Of each query head, sixteen queries at a time. Their scores, what the softmax makes of them, and the
//! gradients with respect to both are computed with the queries side by side, and then multiplied with
//! queries, keys and the gradient of the output.

use std::ops::Range;

use lapidary_formats::quant::{add_products, Row};

use super::panels::{ColumnPanels, RowPanels};
use crate::kernels::isa::{Op, Simd};
use crate::kernels::{math, Attention, Cpu};

impl Attention {
    /// The gradients with respect to queries, keys and values: `q` is `[n, n_head * head_dim]`, `k` and
    /// `v` are `[n, n_head_kv * head_dim]`, at the positions from 0 on. `gradient` is that with respect
    /// to the output, as long as `q`.
    pub fn back(&self, cpu: &Cpu, [q, k, v]: [&[f32]; 3], gradient: &[f32]) -> [Vec<f32>; 3] {
        assert_eq!([q.len(), k.len()], [gradient.len(), v.len()], "attention: shapes differ");
        let (dim, group) = (self.head_dim, self.n_head / self.n_head_kv);
        let mut heads: Vec<Option<HeadGradients>> = (0..self.n_head).map(|_| None).collect();
        cpu.for_each(heads.iter_mut().enumerate(), |(i, found)| {
            let of = |x, head, heads| HeadRows { x, head, heads, dim };
            *found = Some(cpu.isa().run(Head {
                attention: self,
                q: of(q, i, self.n_head),
                k: of(k, i / group, self.n_head_kv),
                v: of(v, i / group, self.n_head_kv),
                gradient: of(gradient, i, self.n_head),
            }));
        });
        let heads: Vec<_> = heads.into_iter().flatten().collect();
        let [mut d_q, mut d_k, mut d_v] = [q, k, v].map(|x| vec![0.0; x.len()]);
        let rows = d_q.chunks_exact_mut(self.n_head * dim);
        let rows = rows.zip(d_k.chunks_exact_mut(self.n_head_kv * dim));
        let rows = rows.zip(d_v.chunks_exact_mut(self.n_head_kv * dim));
        // The query heads of a group share a key/value head, and are added in order.
        cpu.for_each(rows.enumerate(), |(position, ((d_q, d_k), d_v))| {
            for (i, head) in heads.iter().enumerate() {
                head.q.add_row(position, &mut d_q[i * dim..][..dim]);
                head.k.add_row(position, &mut d_k[i / group * dim..][..dim]);
                head.v.add_row(position, &mut d_v[i / group * dim..][..dim]);
            }
        });
        [d_q, d_k, d_v]
    }
}

/// The rows of one of several heads: `x` is `[n, heads * dim]`.
struct HeadRows<'a> {
    x: &'a [f32],
    head: usize,
    heads: usize,
    dim: usize,
}

impl<'a> HeadRows<'a> {
    fn iter(&self) -> impl ExactSizeIterator<Item = &'a [f32]> {
        let (at, dim) = (self.head * self.dim, self.dim);
        self.x.chunks_exact(self.heads * dim).map(move |row| &row[at..at + dim])
    }

    fn row_panels(&self) -> RowPanels {
        RowPanels::new(self.iter(), self.dim)
    }

    fn column_panels(&self) -> ColumnPanels {
        ColumnPanels::new(self.iter(), self.dim)
    }
}

/// One query head, and the key/value head that it reads.
struct Head<'a> {
    attention: &'a Attention,
    q: HeadRows<'a>,
    k: HeadRows<'a>,
    v: HeadRows<'a>,
    gradient: HeadRows<'a>,
}

/// The gradients that one query head gives.
struct HeadGradients {
    q: RowPanels,
    k: ColumnPanels,
    v: ColumnPanels,
}

impl Op for Head<'_> {
    type Out = HeadGradients;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> HeadGradients {
        let Attention { head_dim: dim, window, .. } = *self.attention;
        let [q, k, v, g] = [&self.q, &self.k, &self.v, &self.gradient].map(HeadRows::row_panels);
        let [q_along, k_along, g_along] =
            [&self.q, &self.k, &self.gradient].map(HeadRows::column_panels);
        let n = self.q.iter().len();
        let mut gradients = HeadGradients {
            q: RowPanels::zeros(n, dim.next_multiple_of(16)),
            k: ColumnPanels::zeros(n, dim),
            v: ColumnPanels::zeros(n, dim),
        };
        let mut queries = Queries::new(self.attention, n);
        for panel in 0..n.div_ceil(16) {
            queries.first = 16 * panel;
            let first_key = (queries.first + 1).saturating_sub(window) / 16 * 16;
            queries.keys = first_key..queries.first + 16;
            for (i, at) in queries.tiles() {
                queries.factors[at.clone()].copy_from_slice(&product(
                    s,
                    q.panel(panel),
                    k.panel(i),
                ));
                queries.d_scores[at].copy_from_slice(&product(s, g.panel(panel), v.panel(i)));
            }
            queries.softmax(s);
            queries.softmax_back(s);
            let keys = queries.keys.clone();
            let d_q = gradients.q.panel_mut(panel).as_chunks_mut().0;
            for (k, d_q) in k_along.iter().zip(d_q) {
                add_products(s, &queries.d_scores[keys.clone()], &k[keys.clone()], d_q);
            }
            let of_queries = queries.first..queries.first + 16;
            for (along, scores, to) in [
                (&q_along, &queries.d_scores, &mut gradients.k),
                (&g_along, &queries.weights, &mut gradients.v),
            ] {
                for (_, at) in queries.tiles() {
                    let scores = transposed(&scores[at.clone()]);
                    for (along, to) in along.iter().zip(to.iter_mut()) {
                        let to = to[at.clone()].first_chunk_mut().expect("whole tiles");
                        add_products(s, &along[of_queries.clone()], &scores, to);
                    }
                }
            }
        }
        gradients
    }
}

/// By key, the products of sixteen queries with it.
#[inline(always)]
fn product<S: Simd>(s: S, queries: &[Row], keys: &[Row]) -> [Row; 16] {
    let mut sums = [Row::default(); 16];
    add_products(s, queries, keys, &mut sums);
    sums
}

fn transposed(tile: &[Row]) -> [Row; 16] {
    let mut rows = [Row::default(); 16];
    for (i, row) in tile.iter().enumerate() {
        for (to, x) in rows.iter_mut().zip(row.0) {
            to.0[i] = x;
        }
    }
    rows
}

/// Sixteen queries side by side, and what is computed for each key.
struct Queries<'a> {
    attention: &'a Attention,
    /// The position of the first.
    first: usize,
    /// Whole panels of keys, of which each is seen by a query.
    keys: Range<usize>,
    /// The products with the keys, and then what a product's gradient is of a score's.
    factors: Vec<Row>,
    /// The scores, and then what the softmax makes of them.
    weights: Vec<Row>,
    /// The gradients with respect to the weights, and then with respect to the products.
    d_scores: Vec<Row>,
}

impl<'a> Queries<'a> {
    fn new(attention: &'a Attention, n: usize) -> Self {
        let [factors, weights, d_scores] =
            [(); 3].map(|()| vec![Row::default(); n.next_multiple_of(16)]);
        Self { attention, first: 0, keys: 0..0, factors, weights, d_scores }
    }

    /// The panels of keys, and the keys of each.
    fn tiles(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        self.keys.clone().step_by(16).map(|at| (at / 16, at..at + 16))
    }

    /// From products to weights.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S) {
        let Attention { scale, softcap, .. } = *self.attention;
        for key in self.keys.clone() {
            let mut score = s.mul(s.load(&self.factors[key].0), s.splat(scale));
            let mut factor = s.splat(scale);
            if let Some(cap) = softcap {
                score = math::softcap(s, score, cap);
                let part = s.div(score, s.splat(cap));
                factor = s.mul(factor, s.sub(s.splat(1.0), s.mul(part, part)));
            }
            s.store(score, &mut self.weights[key].0);
            s.store(factor, &mut self.factors[key].0);
        }
        self.hide(f32::NEG_INFINITY);
        let weights = &mut self.weights[self.keys.clone()];
        let mut largest = s.splat(f32::NEG_INFINITY);
        for weight in &*weights {
            largest = s.max(s.load(&weight.0), largest);
        }
        for weight in &mut *weights {
            s.store(math::exp(s, s.sub(s.load(&weight.0), largest)), &mut weight.0);
        }
        // The function gives no exact 0.
        self.hide(0.0);
        let weights = &mut self.weights[self.keys.clone()];
        let mut sum = s.splat(0.0);
        for weight in &*weights {
            sum = s.add(sum, s.load(&weight.0));
        }
        for weight in weights {
            s.store(s.div(s.load(&weight.0), sum), &mut weight.0);
        }
    }

    /// From the gradients of weights to those of products.
    #[inline(always)]
    fn softmax_back<S: Simd>(&mut self, s: S) {
        let keys = self.keys.clone();
        let mut mean = s.splat(0.0);
        for (weight, gradient) in
            self.weights[keys.clone()].iter().zip(&self.d_scores[keys.clone()])
        {
            mean = s.add(mean, s.mul(s.load(&weight.0), s.load(&gradient.0)));
        }
        for key in keys {
            let d_weight = s.load(&self.d_scores[key].0);
            let d_score = s.mul(s.load(&self.weights[key].0), s.sub(d_weight, mean));
            s.store(s.mul(d_score, s.load(&self.factors[key].0)), &mut self.d_scores[key].0);
        }
    }

    /// Sets the weights of the keys that a query does not see.
    fn hide(&mut self, value: f32) {
        let window = self.attention.window;
        for key in self.keys.clone() {
            // The first query comes after the key, and it is in the window of the last: all see it.
            if key <= self.first && self.first + 15 - key < window {
                continue;
            }
            for (lane, weight) in self.weights[key].0.iter_mut().enumerate() {
                let query = self.first + lane;
                if key > query || query - key >= window {
                    *weight = value;
                }
            }
        }
    }
}
