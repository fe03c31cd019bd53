//! What a forward pass shows to who wants to see more than logits.

use super::tensors::block_name;
use crate::kernels::Activations;

/// Who watches a forward pass. Every method does nothing unless it is overridden; `()` is nobody.
pub trait Observer {
    /// The rows that the matrices `readers` are about to be multiplied with, `[n, cols]`.
    fn inputs(&mut self, _readers: Readers, _rows: &Activations) {}

    /// The residual stream, `[n, n_embd]`, after so many layer halves: after 0 the embedding of the
    /// tokens, after 1 what the first layer's attention was added to, and so on.
    fn stream(&mut self, _halves: usize, _x: &[f32]) {}
}

impl Observer for () {}

/// The matrices that read the same rows. A number is that of the layer.
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
    /// The head, by its name in a GGUF file: that of the embedding, unless it is a matrix of its
    /// own.
    Head(&'static str),
}

impl Readers {
    /// Their names in a GGUF file.
    pub fn names(self) -> Vec<String> {
        let of = |layer, tensors: &[&str]| tensors.iter().map(|t| block_name(layer, t)).collect();
        match self {
            Self::AttnIn(layer) => of(layer, &["attn_q", "attn_k", "attn_v"]),
            Self::AttnOut(layer) => of(layer, &["attn_output"]),
            Self::FfnIn(layer) => of(layer, &["ffn_gate", "ffn_up"]),
            Self::FfnOut(layer) => of(layer, &["ffn_down"]),
            Self::Head(name) => vec![name.to_owned()],
        }
    }
}
