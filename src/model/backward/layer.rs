//! The two halves of a layer.

use super::GradientObserver;
use crate::kernels::{Matrix, Product};
use crate::model::state::Workspace;
use crate::model::{Model, Stream, TensorKind};

impl Model<'_> {
    /// Takes `gradient` back from the stream after feed-forward to that before it, which is in the
    /// buffer `x`.
    pub(super) fn feed_forward_back(
        &self,
        index: usize,
        work: &mut Workspace,
        gradient: &mut [f32],
        observer: &mut dyn GradientObserver,
    ) {
        let (c, layer, b) = (&self.config, &self.weights.layers[index], &mut work.buffers);
        let n = b.x.len() / c.n_embd;
        self.cpu.rms_norm(&b.x, 0..n, &layer.ffn_norm, c.rms_eps, &mut b.input);
        let (mut gate, mut up) = (Vec::new(), Vec::new());
        let products = [
            Product { w: &layer.ffn_gate, out: &mut gate },
            Product { w: &layer.ffn_up, out: &mut up },
        ];
        self.cpu.matmul(&mut b.input, products);
        let post_norm = layer.post_ffw_norm.as_deref();
        if post_norm.is_some() {
            b.inner.fill(n, c.n_ff, |out| self.cpu.geglu(&gate, &up, out));
            self.cpu.matmul(&mut b.inner, [Product { w: &layer.ffn_down, out: &mut b.delta }]);
        }

        let d_down = self.add_back(gradient, &b.delta, post_norm);
        observer.output(TensorKind::FfnDown, index, &d_down);
        let mut d_inner = vec![0.0; gate.len()];
        self.cpu.matmul_back(&[(&layer.ffn_down, &d_down)], &mut d_inner);
        self.cpu.geglu_back(&mut gate, &mut up, &d_inner);
        observer.output(TensorKind::FfnGate, index, &gate);
        observer.output(TensorKind::FfnUp, index, &up);
        let products: [(&Matrix<'_>, &[f32]); 2] = [(&layer.ffn_gate, &gate), (&layer.ffn_up, &up)];
        self.add_products_back(&products, &b.x, &layer.ffn_norm, gradient);
    }

    /// Takes `gradient` back from the stream after attention to `before`. `added` is what attention
    /// gave, before its norm. The buffers have the queries, keys and values.
    pub(super) fn attention_back(
        &self,
        index: usize,
        (before, added): (&Stream, &[f32]),
        work: &mut Workspace,
        gradient: &mut [f32],
        observer: &mut dyn GradientObserver,
    ) {
        let (c, spec, cpu) = (&self.config, &self.config.layers[index], &self.cpu);
        let (layer, n) = (&self.weights.layers[index], before.tokens.len());
        let Workspace { buffers: b, ropes } = work;
        let d_output = self.add_back(gradient, added, layer.post_attention_norm.as_deref());
        observer.output(TensorKind::AttnOutput, index, &d_output);
        let mut d_heads = vec![0.0; b.q.len()];
        cpu.matmul_back(&[(&layer.attn_output, &d_output)], &mut d_heads);
        let attention = self.attention_of(spec);
        let [mut d_q, mut d_k, d_v] = attention.back(cpu, [&b.q, &b.k, &b.v], &d_heads);
        cpu.rope_back(ropes.of(spec), n, &mut d_q, &mut d_k);
        if let (Some(q_norm), Some(k_norm)) = (&layer.attn_q_norm, &layer.attn_k_norm) {
            // The queries and keys before their norms.
            cpu.rms_norm(&before.x, 0..n, &layer.attn_norm, c.rms_eps, &mut b.input);
            let products = [
                Product { w: &layer.attn_q, out: &mut b.q },
                Product { w: &layer.attn_k, out: &mut b.k },
            ];
            cpu.matmul(&mut b.input, products);
            cpu.rms_norm_back(&b.q, q_norm, c.rms_eps, &mut d_q);
            cpu.rms_norm_back(&b.k, k_norm, c.rms_eps, &mut d_k);
        }
        observer.output(TensorKind::AttnQ, index, &d_q);
        observer.output(TensorKind::AttnK, index, &d_k);
        observer.output(TensorKind::AttnV, index, &d_v);
        let products: [(&Matrix<'_>, &[f32]); 3] =
            [(&layer.attn_q, &d_q), (&layer.attn_k, &d_k), (&layer.attn_v, &d_v)];
        self.add_products_back(&products, &before.x, &layer.attn_norm, gradient);
    }

    /// The gradient with respect to `delta`, which was added to the residual stream, after its norm if
    /// it has one. `gradient` is that with respect to the stream.
    fn add_back(&self, gradient: &[f32], delta: &[f32], norm: Option<&[f32]>) -> Vec<f32> {
        let mut of_delta = gradient.to_vec();
        if let Some(norm) = norm {
            self.cpu.rms_norm_back(delta, norm, self.config.rms_eps, &mut of_delta);
        }
        of_delta
    }

    /// Adds what `products` of matrices and the gradients of their outputs give to the gradient with
    /// respect to `x`, from which their input comes through a norm.
    fn add_products_back(
        &self,
        products: &[(&Matrix<'_>, &[f32])],
        x: &[f32],
        norm: &[f32],
        gradient: &mut [f32],
    ) {
        let mut of_input = vec![0.0; x.len()];
        self.cpu.matmul_back(products, &mut of_input);
        self.cpu.rms_norm_back(x, norm, self.config.rms_eps, &mut of_input);
        self.cpu.add(gradient, &of_input);
    }
}
