//! The two kinds of blocks, and how [`tile`](super::tile) unpacks and multiplies them.

mod k;
mod legacy;
mod scaled;

use std::marker::PhantomData;

use bytemuck::Pod;
use lapidary_formats::quant::blocks::Symmetric;

use super::amx;
use crate::kernels::activations::Line;
use crate::kernels::isa::SimdInt;
use crate::kernels::unpack::UnpackBlocks;
use k::UnpackedK;
pub use k::UPPER_FIRST;
use legacy::Unpacked32;

/// How blocks of a kind are unpacked and multiplied.
pub trait Kind: Copy {
    /// Weights of a block.
    const LEN: usize;
    /// An unpacked block, of which every few bytes can be broadcast to the columns of a register.
    type Unpacked: Pod;
    /// Registers that a block of activations takes in a panel one register wide, whose columns have
    /// `width` bytes each.
    fn registers(width: usize) -> usize;

    /// The parts of a thread's scratch memory: unpacked blocks and sums.
    fn scratch(scratch: &mut Scratch) -> (&mut Vec<Self::Unpacked>, &mut Vec<Line>);

    /// Unpacks blocks from the file's bytes, for columns of `WIDTH` bytes.
    fn unpack<S: SimdInt, const WIDTH: usize>(self, s: S, w: &[u8], to: &mut [Self::Unpacked]);

    /// Adds the products of `R` blocks, of different rows, and a block `x` of the panel,
    /// `[registers][C]`, to the f32 `sums`. A column has `WIDTH` bytes of a register, and its sum is
    /// in all dwords of them.
    fn multiply<S: SimdInt, const R: usize, const C: usize, const WIDTH: usize>(
        s: S,
        w: [&Self::Unpacked; R],
        x: &[[S::Columns; C]],
        sums: &mut [[S::Columns; C]; R],
    );
}

/// The k-quant `T`.
#[derive(Clone, Copy)]
pub struct KQuant<T>(pub PhantomData<T>);

/// The type `T`, with 32 weights a block.
#[derive(Clone, Copy)]
pub struct Legacy<T>(pub PhantomData<T>);

/// A type that is unpacked by tables.
#[derive(Clone, Copy)]
pub struct ByTable(pub UnpackBlocks);

/// Memory that a thread reuses for all its items of a product.
#[derive(Default)]
pub struct Scratch {
    k: Vec<UnpackedK>,
    legacy: Vec<Unpacked32>,
    /// Blocks of a type that is unpacked by tables, before they are multiplied.
    pub symmetric: Vec<Symmetric>,
    /// f32, `[rows, registers of columns]`
    sums: Vec<Line>,
    /// What the kernels with tiles use instead.
    pub tiles: amx::Scratch,
}

/// The number of steps whose sums of pairs fit 16 bits, with codes up to `max` and activations within
/// ±127.
const fn safe_steps(max: u32) -> usize {
    (i16::MAX as u32 / (2 * 127 * max)) as usize
}

/// The number of steps, of `steps`, that are summed at a time.
const fn steps_together<S: SimdInt>(signed: bool, max_code: u32, steps: usize) -> usize {
    if S::WIDE {
        return steps;
    }
    let safe = if signed { 1 } else { safe_steps(max_code) };
    if safe < steps {
        safe
    } else {
        steps
    }
}
