//! Second-order statistics: for the inputs of every matrix of a model on a text, the sums of the products
//! of every two columns. With them, a conversion rounds so that the outputs of the matrices keep
//! their values: see `second_order` in `formats`.
//!
//! The text is split into disjoint chunks, as for an importance matrix. It is taken through the model
//! layer by layer, so that memory holds the sums of one layer and the residual stream of all tokens.
//! Every eighth chunk is held out: its inputs are not summed, but some of its rows are stored, to see
//! whether what was learned from the others holds there.

mod about;
mod collect;
mod file;
mod fisher;

pub use about::About;
pub use collect::Options;
pub use file::{datasets, is_temporary, FileError, HessianFile, KIND};
pub(crate) use file::{FISHER_TOKENS, MODEL, TEXT};

use std::ops::Range;

use crate::model::{Config, Readers, TensorKind};

/// What is known about the inputs of some matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The matrices.
    pub readers: Readers,
    /// Number of columns.
    pub cols: usize,
}

impl Inputs {
    /// All of a model's that fit blocks, in the order in which a pass comes to them.
    pub fn of(config: &Config, output: TensorKind) -> Vec<Self> {
        let mut all = Vec::new();
        for layer in 0..config.n_layer() {
            let q = config.n_embd_q();
            let widths = [
                (Readers::AttnIn(layer), config.n_embd),
                (Readers::AttnOut(layer), q),
                (Readers::FfnIn(layer), config.n_embd),
                (Readers::FfnOut(layer), config.n_ff),
            ];
            all.extend(widths.map(|(readers, cols)| Self { readers, cols }));
        }
        all.push(Self { readers: Readers::Output(output), cols: config.n_embd });
        // The others cannot be quantized, because blocks are longer.
        all.retain(|inputs| inputs.cols.is_multiple_of(32));
        all
    }

    /// The layer, or `None` for those of the output matrix.
    pub fn layer(self) -> Option<usize> {
        match self.readers {
            Readers::AttnIn(layer)
            | Readers::AttnOut(layer)
            | Readers::FfnIn(layer)
            | Readers::FfnOut(layer) => Some(layer),
            Readers::Output(_) => None,
        }
    }

    /// Its name in a file.
    fn name(self) -> String {
        match self.readers {
            Readers::AttnIn(layer) => format!("blk.{layer}.attn_in"),
            Readers::AttnOut(layer) => format!("blk.{layer}.attn_out"),
            Readers::FfnIn(layer) => format!("blk.{layer}.ffn_in"),
            Readers::FfnOut(layer) => format!("blk.{layer}.ffn_out"),
            Readers::Output(_) => "output".to_owned(),
        }
    }

    /// Equal parts of the columns, of at most `limit` each, whose products with each other are not
    /// summed. They are whole blocks of every type.
    pub fn parts(self, limit: usize) -> Vec<Range<usize>> {
        parts(self.cols, limit)
    }
}

fn parts(n: usize, limit: usize) -> Vec<Range<usize>> {
    let unit = if n.is_multiple_of(256) { 256 } else { 32 };
    let count = n.div_ceil(limit.max(unit));
    let each = n.div_ceil(count).next_multiple_of(unit);
    (0..n).step_by(each).map(|at| at..n.min(at + each)).collect()
}

/// What is known about the outputs of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Which matrix.
    pub kind: TensorKind,
    /// Its layer.
    pub layer: usize,
    /// Number of rows.
    pub rows: usize,
}

/// Rows whose products with each other are summed, at most: their correlations are mostly within heads,
/// and a file for 27B would otherwise have hundreds of gigabytes.
const ROWS: usize = 4096;

impl Outputs {
    /// Those of a layer.
    pub fn of(config: &Config, layer: usize) -> Vec<Self> {
        use TensorKind::{AttnK, AttnOutput, AttnQ, AttnV, FfnDown, FfnGate, FfnUp};
        let heights = [
            (AttnQ, config.n_embd_q()),
            (AttnK, config.n_embd_kv()),
            (AttnV, config.n_embd_kv()),
            (AttnOutput, config.n_embd),
            (FfnGate, config.n_ff),
            (FfnUp, config.n_ff),
            (FfnDown, config.n_embd),
        ];
        let all = heights.map(|(kind, rows)| Self { kind, layer, rows });
        all.into_iter().filter(|outputs| outputs.rows.is_multiple_of(32)).collect()
    }

    /// Its name in a file.
    fn name(self) -> String {
        format!("blk.{}.{}.fisher", self.layer, self.kind.stem())
    }

    /// Equal parts of the rows, as those of the columns of inputs.
    pub fn parts(self, limit: usize) -> Vec<Range<usize>> {
        parts(self.rows, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_within_the_limit() {
        let inputs = |cols| Inputs { readers: Readers::FfnOut(0), cols };
        assert_eq!(inputs(9216).parts(usize::MAX), vec![0..9216; 1]);
        assert_eq!(inputs(14336).parts(8192), [0..7168, 7168..14336]);
        assert_eq!(inputs(640).parts(512), [0..320, 320..640]);
        assert_eq!(inputs(256).parts(1), vec![0..256; 1]);
    }
}
