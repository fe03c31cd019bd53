//! Gives access to the activations of a forward pass.

use super::tensors::TensorKind;
use crate::kernels::Activations;

/// Observes a forward pass. Every method does nothing unless it is overridden. `()` observes
/// nothing.
pub trait Observer {
    /// Called with the rows that the matrices `readers` are about to be multiplied with,
    /// `[n, cols]`.
    fn inputs(&mut self, _readers: Readers, _rows: &Activations) {}

    /// Called with the residual stream, `[n, n_embd]`, after `sublayers` sublayers have been added
    /// to it: 0 for the embedding of the tokens, 1 after the attention of the first layer, 2 after
    /// its feed-forward, and so on.
    fn stream(&mut self, _sublayers: usize, _x: &[f32]) {}
}

impl Observer for () {}

/// Matrices that are multiplied with the same rows. The number is the layer.
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
    /// The output matrix: the embedding, unless the model has an output matrix of its own.
    Output(TensorKind),
}

impl Readers {
    /// The names of the matrices in a GGUF file.
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
