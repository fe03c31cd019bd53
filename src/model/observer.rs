//! What a forward pass shows to who wants to see more than logits.

use super::tensors::TensorKind;
use crate::kernels::Activations;

/// Who watches a forward pass. Every method does nothing unless it is overridden; `()` is nobody.
pub trait Observer {
    /// The rows that the matrices `readers` are about to be multiplied with, `[n, cols]`.
    fn inputs(&mut self, _readers: Readers, _rows: &Activations) {}

    /// The residual stream, `[n, n_embd]`, after so many sublayers were added to it: after 0 it is the
    /// embedding of the tokens, after 1 the first layer's attention was added, after 2 its feed-forward,
    /// and so on.
    fn stream(&mut self, _sublayers: usize, _x: &[f32]) {}
}

impl Observer for () {}

/// The matrices that are multiplied with the same rows. A number is that of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readers {
    /// `attn_q`, `attn_k`, `attn_v`
    AttnIn(usize),
    /// `attn_output`
    AttnOut(usize),
    /// `ffn_gate`, `ffn_up`
    FfnIn(usize),
    /// `ffn_down`
    FfnOut(usize),
    /// The matrix that gives the logits: the embedding, unless the model has one of its own.
    Output(TensorKind),
}

impl Readers {
    /// Their names in a GGUF file.
    pub fn names(self) -> Vec<String> {
        use TensorKind::{AttnK, AttnOutput, AttnQ, AttnV, FfnDown, FfnGate, FfnUp};
        let of = |layer, kinds: &[TensorKind]| kinds.iter().map(|k| k.name(Some(layer))).collect();
        match self {
            Self::AttnIn(layer) => of(layer, &[AttnQ, AttnK, AttnV]),
            Self::AttnOut(layer) => of(layer, &[AttnOutput]),
            Self::FfnIn(layer) => of(layer, &[FfnGate, FfnUp]),
            Self::FfnOut(layer) => of(layer, &[FfnDown]),
            Self::Output(kind) => vec![kind.name(None)],
        }
    }
}
