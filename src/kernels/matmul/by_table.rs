//! Rows × few columns, for the types whose blocks are unpacked by tables to memory.

use bytemuck::Zeroable;
use lapidary_formats::quant::blocks::Symmetric;
use lapidary_formats::quant::Block;

use super::dot::DotK;
use super::Matrix;
use crate::kernels::activations::QuantizedRows;
use crate::kernels::isa::{IntOp, SimdInt};
use crate::kernels::unpack::UnpackBlocks;

/// Blocks that are unpacked to memory at a time: few enough to stay in the first-level cache.
const UNPACKED: usize = 64;

/// Rows of a type that is unpacked by tables.
pub struct DotByTable<'a, 'o> {
    unpack: UnpackBlocks,
    w: Matrix<'a>,
    x: &'a QuantizedRows,
    /// By column, `[rows]` each.
    out: &'a mut [&'o mut [f32]],
    scratch: &'a mut Vec<Symmetric>,
}

impl<'a, 'o> DotByTable<'a, 'o> {
    pub fn new(
        unpack: UnpackBlocks,
        w: &Matrix<'a>,
        x: &'a QuantizedRows,
        out: &'a mut [&'o mut [f32]],
        scratch: &'a mut Vec<Symmetric>,
    ) -> Self {
        Self { unpack, w: *w, x, out, scratch }
    }
}

impl IntOp for DotByTable<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) {
        let Self { unpack, w, x, out, scratch } = self;
        let blocks = w.cols / Symmetric::LEN;
        let step = (UNPACKED / blocks).max(1);
        for first in (0..w.rows).step_by(step) {
            let part = w.part(first, step.min(w.rows - first));
            scratch.resize(part.rows * blocks, Zeroable::zeroed());
            unpack(part.data, scratch);
            let mut out: Vec<_> =
                out.iter_mut().map(|out| &mut out[first..][..part.rows]).collect();
            DotK::of_blocks(scratch, blocks, x, &mut out).run(s);
        }
    }
}
